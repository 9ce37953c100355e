"""The client, with a worker that does what the test says: it never waits, and tells the end of every request once."""

import numpy as np
import pytest

from InContextSegLib.errors import InputError, OutputError
from InContextSegLib.progress import exhausted
from InContextSegLib.worker.client import WorkerClient
from InContextSegLib.worker.protocol import Cancel, decode_line, encode_line


class Puppet:
    """A transport whose worker is the test."""

    def __init__(self, folder):
        self.folder, self.pid = folder, 1
        self.sent, self.coming, self.words = [], [], ""
        self.alive, self.killed, self.fails = False, False, None

    def start(self):
        if self.fails:
            raise self.fails
        self.alive = True

    def write(self, line):
        self.sent.append(decode_line(line))

    def lines(self):
        found, self.coming = self.coming, []
        return found

    def complaints(self):
        found, self.words = self.words, ""
        return found

    def running(self):
        return self.alive

    def kill(self):
        self.alive, self.killed = False, True

    def says(self, **message):
        self.coming.append(encode_line(message))

    def ready(self):
        self.says(**{"is": "ready", "version": "1", "pid": 1})


class Bench:
    """A client, its workers one after the other, and what it told."""

    def __init__(self, parent):
        self.workers, self.told, self.fails = [], [], None
        self.client = WorkerClient(self.made, parent, grace_s=5.0)

    def made(self, folder):
        self.workers.append(Puppet(folder))
        self.workers[-1].fails = self.fails
        return self.workers[-1]

    @property
    def worker(self):
        return self.workers[-1]

    def ask(self, name, **others):
        return self.client.ask(
            "device",
            on_progress=lambda *step: self.told.append((name, *step)),
            on_done=lambda answer: self.told.append((name, "done", answer["id"])),
            on_failed=lambda kind, message: self.told.append((name, kind, message)),
            **others,
        )

    def ready(self):
        self.worker.ready()
        self.client.poll()

    def answers(self, number, **what):
        self.worker.says(id=number, **({"is": "done"} | what))
        self.client.poll()

    def begins(self, number):
        self.answers(number, **{"is": "progress", "done": 0, "total": 1, "message": "begun"})
        self.told.pop()

    def kinds(self):
        return [told[:2] for told in self.told]

    def asked(self):
        return [message["id"] for message in self.worker.sent if message["do"] != "cancel"]


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.client.close()
    assert list(tmp_path.iterdir()) == []


def test_requests_wait_until_the_worker_is_ready_and_keep_their_order(bench):
    numbers = [bench.ask(name) for name in "ab"]
    bench.client.poll()
    assert (bench.client.state, bench.asked()) == ("starting", [])
    bench.ready()
    assert (bench.client.state, bench.asked()) == ("ready", numbers)
    bench.answers(numbers[0])
    bench.answers(numbers[1], **{"is": "failed", "kind": "InputError", "message": "No."})
    assert bench.told == [("a", "done", numbers[0]), ("b", "InputError", "No.")]


def test_a_payload_may_be_a_dataclass_or_a_mapping(bench):
    bench.client.ask("cancel", Cancel(7))
    bench.client.ask("cancel", {"target": 8})
    bench.ready()
    assert [message["target"] for message in bench.worker.sent] == [7, 8]


def test_progress_is_told_until_the_end(bench):
    number = bench.ask("a")
    bench.ready()
    bench.answers(number, **{"is": "progress", "done": 1, "total": 2, "message": "half"})
    bench.answers(number)
    assert bench.told == [("a", 1, 2, "half"), ("a", "done", number)]


def test_callbacks_may_ask_and_cancel_and_an_error_in_one_does_not_lose_the_next(bench):
    def broken(answer):
        bench.ask("later")
        raise ZeroDivisionError

    first = bench.client.ask("device", on_done=broken)
    second = bench.ask("b")
    bench.ready()
    bench.worker.says(id=first, **{"is": "done"})
    with pytest.raises(ZeroDivisionError):
        bench.answers(second)
    bench.client.poll()
    assert bench.told == [("b", "done", second)]
    assert len(bench.asked()) == 3


def test_noise_on_the_channel_and_answers_to_nobody_are_only_noted(bench):
    bench.ask("a")
    bench.ready()
    bench.worker.coming.append("noise\n")
    bench.answers(None, **{"is": "failed", "kind": "InputError", "message": "What was that?"})
    bench.answers(99)
    assert bench.told == []
    assert "A line of JSON was expected" in bench.client.complaint
    assert "What was that?" in bench.client.complaint


def test_the_worker_s_last_words_are_kept_within_bounds(bench):
    bench.ask("a")
    bench.worker.words = "x" * 100_000
    bench.client.poll()
    assert len(bench.client.complaint) == 4000


def test_a_request_that_was_not_sent_yet_is_cancelled_at_once(bench):
    number = bench.ask("a")
    bench.client.cancel(number)
    bench.client.poll()
    assert bench.kinds() == [("a", "Cancelled")]
    bench.ready()
    assert bench.worker.sent == []
    bench.client.cancel(number)


def test_a_running_request_is_asked_to_stop_once_and_its_late_answer_is_thrown_away(bench):
    number = bench.ask("a")
    bench.ready()
    bench.client.cancel(number)
    bench.client.cancel(number)
    assert [message["target"] for message in bench.worker.sent if message["do"] == "cancel"] == [number]
    name = bench.client._made().write(np.zeros(3))
    bench.answers(number, **{"is": "progress", "done": 1, "total": 2, "message": ""})
    bench.answers(number, block={"array": name})
    assert bench.kinds() == [("a", "Cancelled")]
    with pytest.raises(InputError, match="is not in the shared folder"):
        bench.client.fetch(name)


def test_a_worker_deaf_to_cancelling_is_replaced_and_the_others_are_asked_again(bench):
    numbers = [bench.ask(name) for name in "abc"]
    bench.ready()
    bench.client.cancel(numbers[0])
    bench.client.poll()
    assert len(bench.workers) == 1
    bench.client._grace_s = 0
    bench.client.poll()
    assert bench.kinds() == [("a", "Cancelled")]
    assert (len(bench.workers), bench.workers[0].killed) == (2, True)
    bench.ready()
    assert bench.asked() == numbers[1:]


def test_the_newest_of_a_lane_takes_the_place_of_the_others(bench):
    first = bench.ask("a", lane="look")
    bench.ready()
    second, other = bench.ask("b", lane="look"), bench.ask("c", lane="else")
    bench.client.poll()
    assert bench.kinds() == [("a", "Cancelled")]
    assert [message.get("lane") for message in bench.worker.sent] == ["look", "look", "else"]
    name = bench.client._made().write(np.zeros(3))
    bench.answers(first, block={"array": name})
    for number in (second, other):
        bench.answers(number)
    assert bench.kinds() == [("a", "Cancelled"), ("b", "done"), ("c", "done")]
    assert not (bench.client.folder / name).exists()


def test_the_newest_of_a_lane_alone_is_sent_where_the_worker_is_not_ready(bench):
    numbers = [bench.ask(name, lane="look") for name in "abc"]
    bench.ready()
    assert bench.asked() == numbers[2:]
    assert bench.kinds() == [("a", "Cancelled"), ("b", "Cancelled")]


def test_a_death_fails_what_was_computed_and_the_rest_is_asked_once_more(bench):
    numbers = [bench.ask(name) for name in "abc"]
    bench.ready()
    bench.begins(numbers[0])
    bench.worker.words = "first line\nkilled by the memory keeper\n"
    bench.worker.alive = False
    bench.client.poll()
    ((name, kind, message),) = bench.told
    assert (name, kind) == ("a", "WorkerDied")
    assert message.endswith("it said: killed by the memory keeper; ask again.")
    bench.ready()
    assert bench.asked() == numbers[1:]
    bench.begins(numbers[1])
    bench.worker.alive = False
    bench.client.poll()
    assert bench.kinds()[1:] == [("b", "WorkerDied"), ("c", "WorkerDied")]
    assert (len(bench.workers), bench.client.state) == (2, "stopped")
    bench.ask("d")
    assert (len(bench.workers), bench.client.state) == (3, "starting")


def test_the_last_lines_of_a_dead_worker_are_heard(bench):
    number = bench.ask("a")
    bench.ready()
    bench.worker.says(id=number, **{"is": "done"})
    bench.worker.alive = False
    bench.client.poll()
    assert bench.told == [("a", "done", number)]


def test_what_was_to_be_cancelled_or_replaced_is_cancelled_by_a_death_too(bench):
    first, second = bench.ask("a"), bench.ask("b", lane="look")
    bench.ready()
    bench.ask("c", lane="look")
    bench.client.cancel(first)
    bench.worker.alive = False
    bench.client.poll()
    assert bench.kinds() == [("b", "Cancelled"), ("a", "Cancelled")]
    bench.ready()
    assert second not in bench.asked()
    assert len(bench.asked()) == 1


def test_a_worker_that_never_gets_ready_fails_everything_and_is_tried_again_only_when_asked(bench):
    for name in "ab":
        bench.ask(name)
    bench.worker.alive = False
    bench.client.poll()
    assert bench.kinds() == [("a", "WorkerDied"), ("b", "WorkerDied")]
    assert "could not start; it gave no reason" in bench.told[0][2]
    assert (bench.client.state, len(bench.workers)) == ("failed", 1)
    bench.ask("c")
    bench.ready()
    assert bench.client.state == "ready"


def test_a_process_that_cannot_be_started_is_a_worker_that_died(bench):
    bench.fails = FileNotFoundError(2, "No such file or directory", "python")
    bench.ask("a")
    bench.client.poll()
    assert bench.client.state == "failed"
    assert "No such file or directory" in bench.told[0][2]


def test_an_idle_worker_s_death_is_noticed_and_harms_nobody(bench):
    bench.client.start()
    bench.client.start()
    bench.ready()
    bench.worker.alive = False
    bench.client.poll()
    assert (bench.told, bench.client.state, len(bench.workers)) == ([], "stopped", 1)


def test_arrays_that_somebody_may_want_outlive_the_worker_and_others_do_not(bench):
    published, number = exhausted(bench.client.publishing(np.arange(3))), bench.ask("a")
    bench.ready()
    handed, lost = (bench.client._made().write(np.zeros(3)) for _ in range(2))
    bench.answers(number, block={"array": handed})
    half = bench.client.publishing(np.zeros(5_000_000))
    next(half)
    bench.worker.alive = False
    bench.client.poll()
    assert not (bench.client.folder / lost).exists()
    whole = list(half)
    assert whole
    np.testing.assert_array_equal(bench.client.fetch(published), np.arange(3))
    for name in (published, handed):
        bench.client.forget(name)
    assert len(list(bench.client.folder.iterdir())) == 2  # whose turn it is, and what was published last


def test_a_publication_that_fails_is_forgotten(bench):
    with pytest.raises(InputError, match="the array holds object"):
        exhausted(bench.client.publishing(np.array([{}], object)))
    assert bench.client._own == set()


def test_where_no_folder_can_be_made_whoever_asks_is_told_so(tmp_path):
    client = WorkerClient(Puppet, tmp_path / "no such folder")
    for asked in (
        lambda: client.ask("device"),
        client.start,
        lambda: exhausted(client.publishing(np.zeros(3))),
        lambda: client.folder,
    ):
        with pytest.raises(OutputError, match=r"cannot be made in .*no such folder: No such file or directory"):
            asked()
    client.poll()
    client.forget("1a.npy")
    client.close()


def test_waiting_ends_with_the_answer_or_with_the_time(bench):
    number = bench.ask("a")
    bench.worker.ready()
    bench.worker.says(id=number, **{"is": "done", "seconds": 1})
    assert bench.client.wait(number)["seconds"] == 1
    with pytest.raises(TimeoutError, match=r"No answer to request 2 came within 0.05 seconds"):
        bench.client.wait(bench.ask("b"), timeout_s=0.05)


def test_answers_that_nobody_waits_for_do_not_pile_up(bench):
    bench.ask("start")
    bench.ready()
    for _ in range(200):
        bench.answers(bench.ask("a"))
    assert len(bench.client._answers) == 64


def test_after_closing_nobody_is_called_and_everything_is_gone(bench):
    number = bench.ask("a")
    bench.ready()
    bench.worker.says(id=number, **{"is": "done"})
    bench.client.close()
    bench.client.poll()
    assert (bench.told, bench.worker.killed, bench.client.state) == ([], True, "stopped")


def test_a_request_that_needs_longer_to_stop_is_given_longer(bench):
    bench.client._grace_s = 0
    number = bench.ask("a")
    bench.ready()
    bench.client.cancel(number, grace_s=60)
    bench.client.poll()
    assert (bench.kinds(), len(bench.workers), bench.worker.killed) == ([], 1, False)
    bench.answers(number, **{"is": "cancelled"})
    assert bench.kinds() == [("a", "Cancelled")]
