"""Child processes as the panel runs them: real interpreters that chatter, hang, have children and die."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import qt

from InContextSegSlicer.worker.process import PythonProcess

ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the scripts of these tests are ended by POSIX signals")

# Reads a line, answers it; says who it is; begets a child that would outlive it.
WORKER = """
import json, os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(json.dumps({"id": 0, "is": "ready", "pid": os.getpid(), "child": child.pid}), flush=True)
for line in sys.stdin:
    print(json.dumps({"is": "done", "heard": line.strip()}), flush=True)
"""
# Like PythonSlicer: waits for the real interpreter, which has its stdin.
LAUNCHER = """
import subprocess, sys
sys.exit(subprocess.Popen([sys.executable, *sys.argv[1:]]).wait())
"""


@pytest.fixture
def python(application):
    """Starts a script, and takes care that nothing of it is left."""
    started = []

    def start(script, *arguments, **keywords):
        process = PythonProcess(["-c", script, *arguments], python=sys.executable, **keywords)
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


def until(condition, seconds=20.0):
    """Let Qt work until something holds; what held is the answer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        qt.QApplication.processEvents()
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds} s")


def alive(pid):
    """Whether a process runs; one that is dead and waits to be noticed by its parent does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"


def finished(process):
    until(lambda: not process.running())
    return process


def test_lines_come_whole_and_an_incomplete_one_waits_for_its_end(python):
    script = "import sys; print('one'); print('tw', end='', flush=True); sys.stdin.readline(); print('o'); input()"
    process = python(script)
    assert until(process.lines) == ["one"]
    assert process.lines() == []
    process.write("go on")
    assert until(process.lines) == ["two"]


def test_the_last_line_needs_no_end(python):
    assert finished(python("print('done', end='')")).lines() == ["done"]


def test_letters_of_every_language_go_there_and_back(python):
    process = python("print(input())")
    process.write("Größe μ 肝臓 ‖ 🫀")
    assert until(process.lines) == ["Größe μ 肝臓 ‖ 🫀"]


def test_a_letter_cut_by_the_pipe_is_not_spoilt(python):
    script = "import os, time; os.write(1, b'\\xc3'); time.sleep(0.3); os.write(1, b'\\xa4\\n')"
    assert until(python(script).lines) == ["ä"]


def test_a_hundred_thousand_letters_in_one_line_arrive(python):
    process = python("print(len(input()))")
    process.write("x" * 100_000)
    assert until(process.lines) == ["100000"]


def test_complaints_are_apart_from_lines_and_told_once(python):
    process = finished(python("import sys; print('fine'); print('ouch', file=sys.stderr)"))
    assert process.lines() == ["fine"]
    assert process.complaints() == "ouch\n"
    assert process.complaints() == ""


def test_merged_complaints_stand_among_the_lines(python):
    script = "import sys; print('1'); print('2', file=sys.stderr); print('3')"
    assert finished(python(script, merged=True)).lines() == ["1", "2", "3"]


def test_the_exit_code_is_known_at_the_end(python):
    process = python("import sys; input(); sys.exit(3)")
    assert process.exitCode is None
    process.write("now")
    assert finished(process).exitCode == 3


def test_a_program_that_is_not_there_is_named_in_the_complaint(application):
    process = PythonProcess(["-V"], python="/no/such/python")
    process.start()
    finished(process)
    assert process.exitCode == -1 and process.pid is None
    assert "/no/such/python" in process.complaints()
    assert process.complaints() == ""


def test_variables_of_the_environment_reach_the_program(python):
    process = python("import os; print(os.environ['WHO'])", environment={"WHO": "me"})
    assert finished(process).lines() == ["me"]


def test_a_child_and_its_child_end_together(python):
    process = python(WORKER)
    ready = json.loads(until(process.lines)[0])
    assert alive(ready["pid"]) and alive(ready["child"])
    process.kill()
    assert not process.running() and process.exitCode == -1
    until(lambda: not alive(ready["pid"]) and not alive(ready["child"]))


def test_behind_a_launcher_the_real_interpreter_ends_too(python):
    process = python(LAUNCHER, "-c", WORKER)
    ready = json.loads(until(process.lines)[0])
    assert ready["pid"] != process.pid
    process.write("through the launcher")
    assert json.loads(until(process.lines)[0])["heard"] == "through the launcher"
    process.kill()
    until(lambda: not any(map(alive, (ready["pid"], ready["child"]))))


def test_killing_twice_or_before_the_start_is_harmless(application, python):
    PythonProcess(["-V"]).kill()
    process = python("input()")
    process.kill()
    process.kill()
    process.write("nobody reads this")
    assert not process.running()


def test_without_the_list_of_processes_the_known_ones_are_ended_all_the_same(python, monkeypatch):
    process = python(WORKER)
    ready = json.loads(until(process.lines)[0])
    monkeypatch.setenv("PATH", "")
    process.kill()
    until(lambda: not alive(ready["pid"]))
    os.kill(ready["child"], 9)


def test_a_quick_poll_never_waits(python):
    process = python("import time; time.sleep(600)")
    until(lambda: process.pid)
    begin = time.perf_counter()
    for _ in range(100):
        process.lines(), process.complaints(), process.running()
    assert (time.perf_counter() - begin) / 100 < 0.002


SLICER = """
import sys
sys.path[:0] = {path!r}
from Testing.Slicer.harness import app
app.start()
import qt
from InContextSegSlicer.worker.process import PythonProcess
process = PythonProcess(["-c", "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"], sys.executable)
process.start()
while True:
    qt.QApplication.processEvents()
    for line in process.lines():
        print(line, flush=True)
"""


def test_the_program_hears_when_slicer_is_killed(application):
    """Slicer dies without a word: its end of the pipe closes, and a reader at the other end leaves."""
    script = SLICER.format(path=[str(ROOT), *sys.path])
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as slicer:
        child = int(slicer.stdout.readline())
        assert alive(child)
        slicer.kill()
    until(lambda: not alive(child))
