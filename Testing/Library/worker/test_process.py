"""The worker process: its channel cannot be disturbed, it hears while it computes, and it never outlives its panel."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from InContextSegLib import __version__
from InContextSegLib.progress import exhausted
from InContextSegLib.volumes.geometry import Geometry
from InContextSegLib.worker.client import WorkerClient
from InContextSegLib.worker.protocol import ArrayRef, Correct, Neighbours
from InContextSegLib.worker.transport import SubprocessTransport, kill_tree
from Testing.Library import odd_worker
from Testing.Library.odd_worker import Odd

SOON_S = 20


@pytest.fixture
def client(tmp_path):
    client = WorkerClient(odd_worker.transport, tmp_path)
    yield client
    client.close()
    assert list(tmp_path.iterdir()) == []


def asked(client, what, number=0, **others):
    return client.ask("odd", Odd(what, number), **others)


def told(client, what, number=0):
    return client.wait(asked(client, what, number), SOON_S)


def until(happened):
    deadline = time.monotonic() + SOON_S
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def raw(tmp_path, *lines):
    """What a worker answers to lines as they are, until its input ends, but for its progress."""
    folder = tmp_path / "incontextseg-1-raw"
    folder.mkdir()
    (folder / "turn").write_text("mine")
    made = odd_worker.transport(folder)
    sent = "".join(f"{line}\n" for line in lines).encode()
    done = subprocess.run(made.command, input=sent, env=made._environment, capture_output=True, check=True, timeout=60)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [message for message in found if message["is"] != "progress"], folder


def test_it_is_ready_and_says_who_it_is_before_anything_else(tmp_path):
    (ready,), folder = raw(tmp_path)
    assert (ready["is"], ready["version"]) == ("ready", __version__)
    assert ready["pid"] > 0
    assert not folder.exists()


def test_stray_prints_of_any_origin_do_not_disturb_the_channel(client):
    found = told(client, "noise")
    assert (found["is"], found["read"], found["descriptors"]) == ("done", "", "")
    assert told(client, "echo", 5)["echo"] == 5
    client.poll()
    for words in ('"done"', "half a line", '"C"', '"cancelled"', "a warning"):
        assert words in client.complaint


BAD_LINES = {
    "garbage": "A line of JSON was expected",
    "[1]": "A JSON object was expected",
    "\xff\xfe\x00": "A line of JSON was expected",
    "x" * (40 << 20): "A line of JSON was expected",
    '{"do": "odd", "what": "echo"}': "needs a whole number as its id",
    '{"id": true, "do": "odd", "what": "echo"}': "needs a whole number as its id",
    '{"id": 7, "do": "dance"}': "There is no request 'dance'",
    '{"id": 7, "do": ["odd"]}': "There is no request",
    '{"id": 7, "do": "odd"}': "what: this key is missing",
    '{"id": 7, "do": "odd", "what": "echo", "more": 1}': "more: this key is unknown",
    '{"id": 7, "do": "prepare", "task": 3, "target": {}}': "request prepare: task: expected a table",
    '{"id": 7, "do": "weights", "name": "default", "action": "sell"}': "request weights: action",
}


def test_a_bad_line_is_refused_in_one_sentence_and_the_next_one_is_heard(tmp_path):
    lines, _ = raw(
        tmp_path, *BAD_LINES, '{"id": 8, "do": "odd", "what": "echo", "number": 2}', '{"id": 9, "do": "stop"}'
    )
    _, *refused, echoed, stopped = lines
    assert (echoed["id"], echoed["echo"], stopped["id"]) == (8, 2, 9)
    for line, complaint in zip(refused, BAD_LINES.values(), strict=True):
        assert (line["is"], line["kind"]) == ("failed", "InputError")
        assert complaint in line["message"]
        assert "\n" not in line["message"]


@pytest.mark.parametrize(
    ("number", "kind", "complaint"),
    [
        (0, "Bug", "ZeroDivisionError: by nothing; please report"),
        (1, "OutOfMemory", "fewer examples or draws"),
        (2, "OutOfMemory", "the CPU in place of the GPU"),
        (3, "OutputError", "Full."),
    ],
)
def test_whatever_fails_is_one_sentence_and_the_worker_lives_on(client, number, kind, complaint):
    found = told(client, "fails", number)
    assert (found["is"], found["kind"]) == ("failed", kind)
    assert complaint in found["message"]
    assert told(client, "echo", 1)["is"] == "done"
    client.poll()
    assert ("recovered, everything" in client.complaint) == (kind == "OutOfMemory")
    assert ("Traceback" in client.complaint) == (kind == "Bug")


def test_a_package_that_is_not_installed_is_named(client):
    found = told(client, "missing")
    assert (found["kind"], "no_such_package is not installed for" in found["message"]) == ("Missing", True)


def test_work_tells_how_far_it_is_but_not_more_often_than_one_can_look(client):
    seen = []
    number = asked(client, "steps", 30, on_progress=lambda *step: seen.append(step))
    assert client.wait(number, SOON_S)["is"] == "done"
    assert 2 <= len(seen) <= 12
    assert seen[1:] == sorted(seen[1:])
    assert seen[:2] == [(0, 1, "begun"), (0, 30, "step")]


def test_running_work_is_cancelled_at_its_next_step_and_the_next_request_is_served(client):
    started = []
    number = asked(client, "steps", 10000, on_progress=lambda *step: started.append(step))
    waiting, kept = asked(client, "echo", 1), asked(client, "echo", 2)
    until(lambda: client.poll() or started)
    client.cancel(waiting)
    assert client.wait(waiting, SOON_S)["is"] == "cancelled"  # at once, behind work that goes on
    pid = client._transport.pid
    client.cancel(number)
    assert client.wait(number, SOON_S)["is"] == "cancelled"
    assert client.wait(kept, SOON_S)["echo"] == 2
    assert client._transport.pid == pid


def test_work_that_hears_no_cancel_is_ended_with_its_process_and_the_rest_is_asked_again(client):
    client._grace_s = 0.3
    started, failed = [], []
    number = asked(
        client, "deaf", 600, on_progress=lambda *step: started.append(step), on_failed=lambda *why: failed.append(why)
    )
    other = asked(client, "echo", 4)
    until(lambda: client.poll() or started)
    pid = client._transport.pid
    client.cancel(number)
    assert client.wait(other, SOON_S)["echo"] == 4
    assert failed == [("Cancelled", "It was cancelled.")]
    assert client._transport.pid != pid
    assert not Path(f"/proc/{pid}").exists()


def test_the_newest_of_a_lane_is_served_and_those_before_are_cancelled(client):
    ended = []
    numbers = [asked(client, "steps", 20, lane="look", on_failed=lambda *why, n=n: ended.append(n)) for n in range(5)]
    assert client.wait(numbers[-1], SOON_S)["is"] == "done"
    assert sorted(ended) == [0, 1, 2, 3]


def test_a_newer_task_in_a_lane_stops_the_running_one_and_the_same_task_lets_it_learn(tmp_path):
    line = '{{"id": {}, "do": "odd", "what": "{}", "number": {}, "lane": "look"}}'.format
    lines, _ = raw(tmp_path, line(1, "steps", 20), line(2, "echo", 1), '{"id": 3, "do": "stop"}')
    ends = {each["id"]: each["is"] for each in lines[1:]}
    assert ends[2] == "done"


IMAGE = ArrayRef.of("1a.npy", Geometry((9, 4, 4), np.eye(4)))


def test_neighbours_give_way_at_once_to_a_click_running_or_queued(client):
    started, ended = [], []
    busy = asked(client, "steps", 10, on_progress=lambda *step: started.append(step))
    until(lambda: client.poll() or started)
    queued = client.ask("neighbours", Neighbours(IMAGE, "axial", 2), on_failed=lambda *why: ended.append(why))
    click = client.ask("correct", Correct(IMAGE, "axial", 5))
    assert client.wait(queued, SOON_S)["is"] == "cancelled"
    assert client.wait(busy, SOON_S)["is"] == "done"
    assert client.wait(click, SOON_S)["echo"] == 5
    running = client.ask("neighbours", Neighbours(IMAGE, "axial", 2), on_progress=lambda *step: started.append("near"))
    until(lambda: client.poll() or "near" in started)
    assert client.wait(client.ask("correct", Correct(IMAGE, "axial", 6)), SOON_S)["echo"] == 6
    assert client.wait(running, SOON_S)["is"] == "cancelled"
    client.poll()
    assert ended == [("Cancelled", "It was cancelled.")]
    assert "recovered" not in client.complaint


def test_of_clicks_the_latest_wins_even_if_they_name_no_lane(client):
    numbers = [client.ask("correct", Correct(IMAGE, "axial", index)) for index in range(5)]
    ends = [client.wait(number, SOON_S) for number in numbers]
    assert (ends[-1]["is"], ends[-1]["echo"]) == ("done", 4)
    # One was begun at once, and is told that a newer one came.
    assert [each["is"] for each in ends[:-1]].count("cancelled") >= 3


def test_what_a_dying_worker_said_last_reaches_the_panel_and_what_waited_is_asked_again(client):
    failed = []
    number = asked(client, "dies", on_failed=lambda *why: failed.append(why))
    behind = asked(client, "echo", 3)
    assert client.wait(number, SOON_S)["kind"] == "WorkerDied"
    assert "it said: these are my last words; ask again." in failed[0][1]
    assert client.wait(behind, SOON_S)["echo"] == 3


def test_a_killed_worker_is_followed_by_another_at_the_next_request(client):
    first = told(client, "pid")["pid"]
    kill_tree(first)
    until(lambda: client.poll() or client.state == "stopped")
    assert told(client, "pid")["pid"] != first


def test_a_worker_killed_while_it_writes_leaves_nothing_in_the_folder(client):
    kept = exhausted(client.publishing(np.arange(5)))
    asked(client, "writes", 5e6)
    until(lambda: client.poll() or len(list(client.folder.iterdir())) > 3)
    kill_tree(client._transport.pid)
    until(lambda: client.poll() or client.state == "stopped")
    assert {path.name for path in client.folder.iterdir()} == {kept, "turn"}


PANEL = """
import sys, time
from pathlib import Path
from Testing.Library import odd_worker
from InContextSegLib.worker.client import WorkerClient
client = WorkerClient(odd_worker.transport, Path(sys.argv[1]))
found = client.wait(client.ask("odd", odd_worker.Odd("pid")))
client.ask("odd", odd_worker.Odd(sys.argv[2], 3e6))
client.poll()
time.sleep(0.3)
print(found["pid"], flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("state", ["echo", "busy", "writes"])
def test_a_worker_whose_panel_was_killed_ends_within_seconds_and_removes_the_folder(tmp_path, state):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    panel = subprocess.Popen(
        [sys.executable, "-c", PANEL, str(tmp_path), state], stdout=subprocess.PIPE, env=environment
    )
    with panel:
        pid = int(panel.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        assert len(list(tmp_path.iterdir())) == 1
        panel.send_signal(signal.SIGKILL)
        until(lambda: list(tmp_path.iterdir()) == [] and not Path(f"/proc/{pid}").exists())


def test_a_terminated_worker_removes_the_folder_unless_another_has_followed(tmp_path):
    for followed in (False, True):
        folder = tmp_path / "incontextseg-1-x"
        folder.mkdir()
        (folder / "turn").write_text("first")
        transport = odd_worker.transport(folder)
        transport.start()
        until(lambda made=transport: made.lines())
        if followed:
            (folder / "turn").write_text("second")
        os.kill(transport.pid, signal.SIGTERM)
        until(lambda made=transport: not made.running())
        transport.kill()
        assert folder.exists() == followed


def test_an_interrupt_of_the_terminal_does_not_end_the_worker(client):
    os.kill(told(client, "pid")["pid"], signal.SIGINT)
    assert told(client, "echo", 1)["echo"] == 1


def test_a_python_that_does_not_exist_is_a_worker_that_could_not_start(tmp_path):
    client = WorkerClient(lambda folder: SubprocessTransport(folder, "/no/such/python"), tmp_path)
    found = client.wait(client.ask("device"), SOON_S)
    assert (found["kind"], client.state) == ("WorkerDied", "failed")
    assert "could not start" in found["message"]
    assert "No such file" in found["message"]
    client.close()


@pytest.mark.parametrize("name", ["Patienten Ärger 日本", "deep/" * 20 + "end"])
def test_folders_of_any_name_serve(tmp_path, name):
    parent = tmp_path / name
    parent.mkdir(parents=True)
    client = WorkerClient(odd_worker.transport, parent)
    assert told(client, "pid")["folder"] == str(client.folder)
    np.testing.assert_array_equal(client.fetch(told(client, "array")["block"]["array"]), np.arange(3))
    client.close()
    assert list(parent.iterdir()) == []
