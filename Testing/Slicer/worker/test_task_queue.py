"""The task queue: long work in short pieces."""

from InContextSegSlicer.worker.task_queue import BUDGET_S, TaskQueue


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
    queue = TaskQueue(clock)
    queue.add(counting(clock, 100, 0.004), done.append, done.append)
    queue.tick()
    assert clock.now <= BUDGET_S + 0.004 and done == []


def test_tasks_run_one_after_the_other_and_hand_on_what_they_return():
    clock, done = Clock(), []
    queue = TaskQueue(clock)
    queue.add(counting(clock, 3, 0.001), lambda steps: done.append(("first", steps)), done.append)
    queue.add(counting(clock, 2, 0.001), lambda steps: done.append(("second", steps)), done.append)
    queue.tick()
    assert done == [("first", 3), ("second", 2)]
    assert len(queue) == 0


def test_what_a_task_raises_reaches_who_waits_for_it_and_the_next_one_runs():
    def failing():
        yield
        raise ValueError("no")

    clock, done, failed = Clock(), [], []
    queue = TaskQueue(clock)
    queue.add(failing(), done.append, lambda error: failed.append(str(error)))
    queue.add(counting(clock, 1, 0.001), done.append, failed.append)
    queue.tick()
    assert (done, failed) == ([1], ["no"])


def test_a_dropped_task_is_closed_and_calls_nobody():
    closed, called = [], []

    def open_ended():
        try:
            while True:
                yield
        finally:
            closed.append(True)

    clock = Clock()
    queue = TaskQueue(clock)
    number = queue.add(open_ended(), called.append, called.append)
    next(queue._waiting[0].steps)
    queue.drop(number)
    queue.tick()
    assert (closed, called, len(queue)) == ([True], [], 0)


def test_a_task_may_drop_all_tasks_when_it_ends():
    clock, done = Clock(), []
    queue = TaskQueue(clock)
    queue.add(counting(clock, 1, 0.001), lambda _: queue.drop(), done.append)
    queue.add(counting(clock, 1, 0.001), done.append, done.append)
    queue.tick()
    assert done == [] and len(queue) == 0
