"""The real worker, asked through the pipes of Qt while a timer polls, as the panel does it."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import qt

from InContextSegLib.progress import exhausted
from InContextSegLib.worker.client import WorkerClient
from InContextSegSlicer.install.panel import describeDevice
from InContextSegSlicer.worker.process import QProcessTransport, pythonExecutable
from Testing.Slicer.worker.test_process import alive, until

ROOT = Path(__file__).resolve().parents[3]

# Stands for PythonSlicer: a launcher whose child is the real interpreter, with the launcher's own stdin.
LAUNCHER = """#!{python}
import subprocess, sys
sys.exit(subprocess.Popen([{python!r}, *sys.argv[1:]]).wait())
"""


@pytest.fixture
def launcher(tmp_path, monkeypatch):
    file = tmp_path / "bin" / "PythonSlicer"
    file.parent.mkdir()
    file.write_text(LAUNCHER.format(python=sys.executable), encoding="utf-8")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(file.parent), prepend=":")
    assert pythonExecutable() == str(file)
    return file


@pytest.fixture
def client(application, launcher, tmp_path):
    """A client whose answers a timer fetches."""
    client = WorkerClient(QProcessTransport, parent=tmp_path)
    timer = qt.QTimer()
    timer.setInterval(20)
    timer.connect("timeout()", client.poll)
    timer.start()
    yield client
    timer.stop()
    client.close()


class Answers(list):
    """What came back, as (kind, content)."""

    def ask(self, client, do="device", **fields):
        done, failed = (lambda answer: self.append(("done", answer))), (lambda *why: self.append(why))
        return client.ask(do, fields, on_done=done, on_failed=failed)


def processes(client):
    """The launcher and the real interpreter."""
    transport = client._transport
    return [transport.pid, *transport._furtherPids()]


def test_the_worker_tells_its_devices_from_behind_the_launcher(client):
    answers = Answers()
    answers.ask(client)
    until(lambda: answers, 60)
    ((kind, answer),) = answers
    assert kind == "done" and answer["chosen"] in {device["name"] for device in answer["devices"]}
    assert describeDevice(answer).startswith("Computes on ") and f"PyTorch {answer['torch']}." in describeDevice(answer)
    assert client.state == "ready"
    pids = processes(client)
    assert len(set(pids)) == 2 and all(map(alive, pids))
    client.close()
    until(lambda: not any(map(alive, pids)))


def test_polling_never_holds_the_window(client):
    answers = Answers()
    answers.ask(client)
    worked, waited = 0.0, 0.0
    while not answers:
        began, began_work = time.perf_counter(), time.thread_time()
        qt.QApplication.processEvents()
        worked = max(worked, time.thread_time() - began_work)
        waited = max(waited, time.perf_counter() - began)
        time.sleep(0.002)
    assert worked < 0.05
    assert waited < 0.5  # other processes of a busy computer are in this one


def test_a_killed_worker_is_told_and_the_next_request_has_another(client):
    answers = Answers()
    answers.ask(client)
    until(lambda: answers, 60)
    old = processes(client)
    client._transport.kill()
    until(lambda: client.state == "stopped")
    answers.ask(client)
    until(lambda: len(answers) == 2, 60)
    assert [kind for kind, _content in answers] == ["done", "done"]
    assert not any(map(alive, old)) and not set(old) & set(processes(client))


# A Slicer that asks its worker, says who works where, and then has too much to do to say goodbye.
SLICER = """
import sys
sys.path[:0] = {path!r}
from Testing.Slicer.harness import app
app.start()
import qt
from InContextSegLib.worker.client import WorkerClient
from InContextSegSlicer.install.panel import describeDevice
from InContextSegSlicer.worker.process import QProcessTransport
from pathlib import Path
client = WorkerClient(QProcessTransport, parent=Path({parent!r}))
def tell(_answer):
    transport = client._transport
    print(transport.pid, *transport._furtherPids(), client.folder, flush=True)
client.ask("device", on_done=tell)
while True:
    qt.QApplication.processEvents()
    client.poll()
"""


def test_when_slicer_is_killed_its_worker_leaves_and_takes_the_folder_along(application, launcher, tmp_path):
    script = SLICER.format(path=[str(ROOT), *sys.path], parent=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as slicer:
        *pids, folder = slicer.stdout.readline().split()
        assert len(pids) == 2 and all(alive(int(pid)) for pid in pids) and Path(folder).is_dir()
        slicer.kill()
    until(lambda: not any(alive(int(pid)) for pid in pids))
    assert not Path(folder).exists()


def test_a_worker_that_cannot_start_says_why(application, tmp_path):
    client = WorkerClient(lambda folder: QProcessTransport(folder, python="/no/such/PythonSlicer"), parent=tmp_path)
    answers = Answers()
    answers.ask(client)
    until(lambda: client.poll() or answers)
    ((kind, message),) = answers
    assert kind == "WorkerDied" and "/no/such/PythonSlicer" in message
    client.close()


def test_arrays_lie_in_a_folder_that_goes_with_the_client(client, tmp_path):
    name = exhausted(client.publishing(np.arange(6, dtype=np.int16).reshape(1, 2, 3)))
    assert (client.folder / name).is_file() and client.folder.parent == tmp_path
    client.close()
    assert [path.name for path in Path(tmp_path).glob("incontextseg-*")] == []
