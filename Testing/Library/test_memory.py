"""Memory that stays with the process."""

import subprocess
import sys

import pytest

from InContextSegLib import memory

FAULTS = """
import resource
import numpy as np
from InContextSegLib.memory import keep_freed_memory
if {kept}:
    assert keep_freed_memory()
def touch():
    np.ones(8 << 20, np.uint8)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(kept):
    script = FAULTS.format(kept=kept)
    return int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's settings")
def test_a_block_that_was_freed_is_used_again_without_a_page_fault():
    assert faults(kept=True) < 100 < faults(kept=False)


def test_other_systems_go_on_as_they_are(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert not memory.keep_freed_memory()


def test_another_c_library_goes_on_as_it_is(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert not memory.keep_freed_memory()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's settings")
def test_memory_that_is_kept_is_given_back_on_request():
    script = """
import os
import numpy as np
from pathlib import Path
from InContextSegLib.memory import give_back_memory, keep_freed_memory
def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
keep_freed_memory()
np.ones(256 << 20, np.uint8)
kept = held()
assert give_back_memory()
print(kept - held())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 200


def test_the_computer_says_how_much_memory_it_has():
    total, free = memory.installed_bytes()
    assert total > free > 0
