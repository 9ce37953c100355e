"""Time for tests of adapting: it passes by what is computed, not by how busy the computer is."""

import pytest

from InContextSegLib.adaptation import adapt, episodes, expectation

LOOK_S = 1e-6


class WorkClock:
    """Stands in for the module `time` where a network adapts; a look at it takes a moment, work what it adds itself."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 0.0
        for module in (adapt, episodes, expectation):
            monkeypatch.setattr(module, "time", self)

    def monotonic(self) -> float:
        self.now += LOOK_S
        return self.now
