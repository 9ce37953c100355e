"""Who validates: a patient is on one side everywhere, and every task has somebody on both where that is possible."""

from InContextSegLib.training.site.splits import divided

MANY = [f"p{n}" for n in range(40)]


def validating(sides):
    return {name for name, side in sides.items() if side == "validation"}


def test_about_the_share_validates_and_another_seed_chooses_others():
    first, other = (divided({"a": MANY}, {}, 0.2, seed) for seed in (1, 2))
    assert len(validating(first)) == len(validating(other)) == 8
    assert validating(first) != validating(other)
    assert first.keys() == set(MANY)


def test_the_order_of_patients_and_tasks_does_not_matter():
    tasks = {"a": MANY[:20], "b": MANY[10:], "c": MANY[5:9]}
    backwards = {task: names[::-1] for task, names in reversed(tasks.items())}
    assert divided(tasks, {}, 0.3, 7) == divided(backwards, {}, 0.3, 7)


def test_every_task_has_somebody_on_both_sides_where_two_patients_show_it():
    for seed in range(50):
        tasks = {"all": MANY[:10], "rare": MANY[:2], "other": MANY[1:4], "end": MANY[8:10]}
        chosen = validating(divided(tasks, {}, 0.2, seed))
        for names in tasks.values():
            assert 0 < len(chosen.intersection(names)) < len(names)


def test_one_patient_alone_is_learnt_from():
    assert divided({"a": ["p"]}, {}, 0.5, 0) == {"p": "train"}
    assert divided({"a": []}, {}, 0.5, 0) == {}


def test_sides_that_somebody_chose_stay():
    fixed = {"p1": "validation", "p2": "validation", "p3": "train", "not here": "train"}
    for seed in range(10):
        sides = divided({"a": MANY[:10]}, fixed, 0.2, seed)
        assert {name: sides[name] for name in ("p1", "p2", "p3")} == {name: fixed[name] for name in ("p1", "p2", "p3")}
        assert validating(sides) == {"p1", "p2"}, "the share is there already"
        assert "not here" not in sides
