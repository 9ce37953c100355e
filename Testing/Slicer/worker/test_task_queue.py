"""Chores: long work in short pieces."""

from InContextSegSlicer.worker.task_queue import BUDGET_S, ChoreQueue


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def counting(clock, steps, seconds):
    for _ in range(steps):
        clock.now += seconds
        yield
    return steps


def test_a_tick_works_no_longer_than_its_budget_and_one_piece():
    clock, done = Clock(), []
    chores = ChoreQueue(clock)
    chores.add(counting(clock, 100, 0.004), done.append, done.append)
    chores.tick()
    assert clock.now <= BUDGET_S + 0.004 and done == []


def test_chores_run_one_after_the_other_and_hand_on_what_they_return():
    clock, done = Clock(), []
    chores = ChoreQueue(clock)
    chores.add(counting(clock, 3, 0.001), lambda steps: done.append(("first", steps)), done.append)
    chores.add(counting(clock, 2, 0.001), lambda steps: done.append(("second", steps)), done.append)
    chores.tick()
    assert done == [("first", 3), ("second", 2)]
    assert len(chores) == 0


def test_what_a_chore_raises_reaches_who_waits_for_it_and_the_next_one_runs():
    def failing():
        yield
        raise ValueError("no")

    clock, done, failed = Clock(), [], []
    chores = ChoreQueue(clock)
    chores.add(failing(), done.append, lambda error: failed.append(str(error)))
    chores.add(counting(clock, 1, 0.001), done.append, failed.append)
    chores.tick()
    assert (done, failed) == ([1], ["no"])


def test_a_dropped_chore_is_closed_and_calls_nobody():
    closed, called = [], []

    def open_ended():
        try:
            while True:
                yield
        finally:
            closed.append(True)

    clock = Clock()
    chores = ChoreQueue(clock)
    number = chores.add(open_ended(), called.append, called.append)
    next(chores._waiting[0].steps)
    chores.drop(number)
    chores.tick()
    assert (closed, called, len(chores)) == ([True], [], 0)


def test_a_chore_may_drop_all_chores_when_it_ends():
    clock, done = Clock(), []
    chores = ChoreQueue(clock)
    chores.add(counting(clock, 1, 0.001), lambda _: chores.drop(), done.append)
    chores.add(counting(clock, 1, 0.001), done.append, done.append)
    chores.tick()
    assert done == [] and len(chores) == 0
