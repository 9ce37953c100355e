"""What is drawn: never a query's patient among its references, patients in turn, and the same every time."""

import numpy as np
import pytest
import torch
from torch import Generator

from InContextSegLib.errors import InputError
from InContextSegLib.training.site.sampling import AS_THEY_ARE, Sampling, TaskSampler
from Testing.Library.site_data import SIZE, picture, set_of, stored, volume

NAMES = {"1": "liver", "2": "tumour"}


def seeded(seed=0):
    return Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clinic")
    for n in range(5):
        volume(folder / "a", f"case{n}", seed=n)
    return stored(folder, set_of(names=NAMES))


def pictures(folder, counts):
    for patient, count in counts.items():
        for n in range(count):
            picture(folder / "a", f"{patient}_{n}", seed=n)
    rows = [f"a/images/{p}_{n}.png,a/labels/{p}_{n}.png,{p},train" for p, count in counts.items() for n in range(count)]
    (folder / "t.csv").write_text("\n".join(["image,labels,patient,split", *rows]), encoding="utf-8")
    return stored(folder, {"name": "a", "table": "t.csv", "names": {"1": "cell"}})


def slices(drawn, of=None):
    """Case and number of the slices, of all patients or of one."""
    found = zip(drawn.patients, map(tuple, drawn.places.tolist()), strict=True)
    return {place for patient, place in found if of in (None, patient)}


def test_a_draw_is_pictures_with_masks_of_zeros_and_ones(clinic):
    for sampling in (Sampling(), AS_THEY_ARE):
        drawn = TaskSampler(clinic, "a/liver", sampling=sampling).references(7, seeded())
        assert drawn.images.shape == drawn.masks.shape == (7, 1, SIZE, SIZE)
        assert drawn.images.dtype == drawn.masks.dtype == torch.float32
        assert 0 <= drawn.images.min() < drawn.images.max() <= 1
        assert set(drawn.masks.unique().tolist()) == {0.0, 1.0}
        assert len(drawn.patients) == len(drawn.places) == 7


def test_no_patient_asked_about_is_among_the_references(clinic):
    for side in ("train", "validation"):
        sampler = TaskSampler(clinic, "a/liver", side)
        for seed in range(30):
            asked, shown = sampler.episode(9, 12, seeded(seed))
            assert not set(asked.patients) & set(shown.patients)
            assert len(asked.patients) == 9 and len(shown.patients) == 12


def test_of_two_patients_one_is_asked_about_and_one_gives_the_references(tmp_path):
    sampler = TaskSampler(pictures(tmp_path, {"ann": 3, "ben": 1}), "a/cell")
    seen = set()
    for seed in range(20):
        asked, shown = sampler.episode(4, 4, seeded(seed))
        assert len(set(asked.patients)) == len(set(shown.patients)) == 1
        assert asked.patients[0] != shown.patients[0]
        seen.add(asked.patients[0])
    assert seen == {"ann", "ben"}


def test_a_lone_patient_gives_other_slices_as_references(tmp_path):
    sampler = TaskSampler(pictures(tmp_path, {"ann": 4}), "a/cell")
    for seed in range(10):
        asked, shown = sampler.episode(2, 6, seeded(seed))
        assert not slices(asked) & slices(shown)
    asked, shown = sampler.episode(4, 4, seeded())
    assert slices(asked) == slices(shown), "there are no others"


def test_patients_come_equally_often_whatever_they_have(tmp_path):
    sampler = TaskSampler(pictures(tmp_path, {"ann": 12, "ben": 1, "cy": 3}), "a/cell", sampling=AS_THEY_ARE)
    drawn = sampler.references(12, seeded())
    assert {patient: drawn.patients.count(patient) for patient in ("ann", "ben", "cy")} == {"ann": 4, "ben": 4, "cy": 4}
    assert len(slices(drawn, "ann")) == 4, "no slice twice as long as there are others"
    assert len(slices(drawn, "cy")) == 3


def test_the_same_generator_gives_the_same_batch_and_another_a_different_one(clinic):
    sampler = TaskSampler(clinic, "a/liver")
    first, again, other = (sampler.episode(4, 6, seeded(seed)) for seed in (3, 3, 4))
    for one, two, three in zip(first, again, other, strict=True):
        assert torch.equal(one.images, two.images) and torch.equal(one.masks, two.masks)
        np.testing.assert_array_equal(one.places, two.places)
        assert not torch.equal(one.images, three.images)


def test_without_changes_slices_come_as_they_are_in_the_store(clinic):
    drawn = TaskSampler(clinic, "a/tumour", sampling=AS_THEY_ARE).references(4, seeded())
    images, masks = clinic.read("a/tumour", drawn.places)
    np.testing.assert_array_equal(drawn.images[:, 0].numpy(), images)
    np.testing.assert_array_equal(drawn.masks[:, 0].numpy(), masks)
    changed = TaskSampler(clinic, "a/tumour").references(4, seeded())
    np.testing.assert_array_equal(changed.places, drawn.places)
    assert not torch.equal(changed.images, drawn.images)


def test_references_come_from_the_side_to_learn_from_whatever_is_asked_about(clinic):
    learners = set(clinic.slices("a/liver", "train"))
    others = set(clinic.slices("a/liver", "validation"))
    sampler = TaskSampler(clinic, "a/liver", "validation")
    asked, shown = sampler.episode(4, 40, seeded())
    assert set(sampler.patients) == set(asked.patients) == others
    assert set(shown.patients) == learners


def test_some_queries_show_nothing_and_references_always_do(clinic):
    sampler = TaskSampler(clinic, "a/tumour", sampling=Sampling(empty_share=0.25, place=0, scanner=0))
    shown = torch.cat([sampler.queries(8, seeded(seed)).masks.flatten(1).any(dim=1) for seed in range(40)])
    assert 0.15 < 1 - shown.float().mean() < 0.35
    assert sampler.references(40, seeded()).masks.flatten(1).any(dim=1).all()
    every = TaskSampler(clinic, "a/tumour", sampling=AS_THEY_ARE)
    assert all(every.queries(8, seeded(seed)).masks.flatten(1).any(dim=1).all() for seed in range(10))


def test_where_everything_shows_the_label_no_query_is_empty(tmp_path):
    sampler = TaskSampler(pictures(tmp_path, {"ann": 2, "ben": 2}), "a/cell", sampling=Sampling(1.0, 0, 0))
    assert sampler.queries(6, seeded()).masks.flatten(1).any(dim=1).all()


def test_a_side_that_shows_nothing_cannot_be_drawn_from(tmp_path):
    with pytest.raises(InputError, match="No slice of the side 'validation' shows a/cell"):
        TaskSampler(pictures(tmp_path, {"ann": 2}), "a/cell", "validation")


def test_references_without_any_patient_are_refused(clinic):
    sampler = TaskSampler(clinic, "a/liver", sampling=AS_THEY_ARE)
    everybody = sampler.references(40, seeded())
    with pytest.raises(InputError, match="without any of its 4 patients; ask about fewer"):
        sampler.references(2, seeded(), everybody)


def test_shares_beyond_their_range_are_refused():
    for name in ("empty_share", "place", "scanner"):
        with pytest.raises(InputError, match=f"{name}: asked for a number from 0 to 1, got 1.5"):
            Sampling(**{name: 1.5})
