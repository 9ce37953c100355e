"""Nothing the bridge does holds up the window for long, on a scan of 512 x 512 x 200 voxels."""

import pytest

from Testing.Benchmarks import gui_time

# Generous, since the computers that run this are shared; the benchmark prints what it is: below 50 ms.
BOUND_S = 0.15
ATTEMPTS = 4


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_step_is_felt(scene):
    longest = {}
    for _ in range(ATTEMPTS):
        for action, (step, _) in gui_time.actions(scene):
            longest[action] = min(step, longest.get(action, step))
        if max(longest.values()) < BOUND_S:
            return
    pytest.fail(f"longer than {BOUND_S} s: { ({action: step for action, step in longest.items() if step >= BOUND_S}) }")
