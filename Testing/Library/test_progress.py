"""Progress is shown step by step, and a cancelled report stops the work at its next step."""

from threading import Thread

import pytest

from InContextSegLib.errors import Cancelled
from InContextSegLib.progress import Report


def test_every_step_is_shown_with_its_message():
    shown = []
    report = Report(lambda *step: shown.append(step))
    report.step(0, 2, "first slice")
    report.step(2, 2)
    assert shown == [(0, 2, "first slice"), (2, 2, "")]


def test_a_report_that_nobody_watches_is_silent():
    assert Report().step(1, 2, "unseen") is None


def test_a_cancelled_report_says_how_far_the_work_came_and_shows_nothing_more():
    shown = []
    report = Report(lambda *step: shown.append(step))
    report.step(3, 8)
    report.cancel()
    with pytest.raises(Cancelled, match=r"Cancelled after 4 of 8 steps\."):
        report.step(4, 8)
    assert shown == [(3, 8, "")]


def test_a_cancelled_report_stays_cancelled():
    report = Report()
    report.cancel()
    report.cancel()
    for done in (1, 2):
        with pytest.raises(Cancelled, match=f"after {done} of 2"):
            report.step(done, 2)


def test_cancelling_takes_effect_at_the_next_step_even_from_within_the_show():
    report = Report(lambda *_: report.cancel())
    report.step(1, 3)
    with pytest.raises(Cancelled, match="after 2 of 3"):
        report.step(2, 3)


def test_another_thread_may_cancel():
    report = Report()
    other = Thread(target=report.cancel)
    other.start()
    other.join()
    with pytest.raises(Cancelled, match="Cancelled"):
        report.step(1, 2)


def test_cancelling_one_report_leaves_others_alone():
    Report().cancel()
    Report().step(1, 1)


def test_being_cancelled_is_no_kind_of_error_that_bad_input_would_be():
    assert not issubclass(Cancelled, ValueError | OSError | RuntimeError)


def test_work_that_is_to_hurry_goes_on():
    report = Report()
    assert not report.hurried
    report.hurry()
    report.step(1, 2)
    assert report.hurried


def test_a_report_in_other_words_tells_and_stops_with_the_one_it_came_from():
    told = []
    report = Report(lambda *step: told.append(step))
    other = report.worded(lambda message, facts: f"{message} {facts}")
    other.step(1, 3, "loss", {"a": 1})
    other.step(2, 3, "loss")
    assert told == [(1, 3, "loss {'a': 1}"), (2, 3, "loss None")]
    report.cancel()
    with pytest.raises(Cancelled):
        other.check()
