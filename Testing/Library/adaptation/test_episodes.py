"""Episodes out of the user's own examples."""

import math

import numpy as np
import torch

from InContextSegLib.adaptation.episodes import CROP_PX, EPISODES, SHOWN, EpisodeSampler
from InContextSegLib.adaptation.leave_out import LeaveOut
from InContextSegLib.examples.origins import units
from InContextSegLib.examples.support import SupportSet
from InContextSegLib.models.sricl import SRICL
from InContextSegLib.models.universeg import UniverSeg
from InContextSegLib.training.augment import moved
from Testing.Library.fake_segmenter import LABEL, Learner, square, squares

CPU = torch.device("cpu")


def sampler_of(support, seed=0):
    return EpisodeSampler(LeaveOut(support, support, units(support)), CPU, seed)


def test_a_step_has_so_many_episodes_of_so_many_supports():
    query, wanted, images, masks = sampler_of(squares(8)).draw(range(8))
    size = squares(1).size
    assert query.shape == wanted.shape == (EPISODES, 1, size, size)
    assert images.shape == masks.shape == (EPISODES, SHOWN, 1, size, size)
    assert set(np.unique(wanted)) | set(np.unique(masks)) <= {0.0, 1.0}
    assert query.min() >= 0 and query.max() <= 1


def test_of_large_pictures_the_same_part_is_seen_of_image_and_mask():
    support = squares(4, size=128, brightness=1.0)
    query, wanted, images, masks = sampler_of(support).draw(range(4))
    assert query.shape[-1] == images.shape[-1] == CROP_PX
    bright = torch.cat([query, images.flatten(0, 1)]) > 0.5
    agree = (bright == (torch.cat([wanted, masks.flatten(0, 1)]) > 0.5)).float().mean()
    assert agree > 0.98


def test_a_network_that_learnt_whole_pictures_is_taught_by_whole_pictures(monkeypatch):
    sampler, seen, draw = sampler_of(squares(4, size=128)), [], EpisodeSampler.draw

    def drawing(self, among, whole=False):
        seen.append(draw(self, among, whole)[0].shape[-1])
        return draw(self, among, whole)

    monkeypatch.setattr(EpisodeSampler, "draw", drawing)
    small = SRICL((8, 8, 16, 16), decoder_width=16, channels=16, attention_width=16)
    for network in (small, UniverSeg((8, 8))):
        sampler.train(network, range(4), 1, math.inf, lambda step: None)
    assert seen == [128, CROP_PX]


def test_only_the_examples_named_are_used_and_none_is_its_own_support():
    support = squares(8)
    sampler = sampler_of(support)
    for _ in range(30):
        _, (query, *supports) = sampler._episode([1, 3, 4, 6])
        assert {query, *supports} <= {1, 3, 4, 6} and query not in supports


def test_a_lone_example_serves_as_its_own_support():
    _, indices = sampler_of(squares(3))._episode([2])
    assert indices == [2] * (1 + SHOWN)


def test_slices_of_one_volume_do_not_support_one_another_where_there_are_others():
    examples = [square(n, position=n / 6, source=f"case{n % 2}.nii.gz axial {n}") for n in range(6)]
    sampler = sampler_of(SupportSet(tuple(examples), (LABEL,), "axial", 32))
    for _ in range(20):
        _, (query, *supports) = sampler._episode(list(range(6)))
        assert all(other % 2 != query % 2 for other in supports)


def test_some_support_shows_the_label_where_one_can():
    examples = [square(n, value=1 if n in (2, 5) else 2) for n in range(9)]
    sampler = sampler_of(SupportSet(tuple(examples), (LABEL,), "axial", 32))
    for _ in range(30):
        _, (query, *supports) = sampler._episode(list(range(9)))
        assert {2, 5} - {query} & set(supports) or query in (2, 5)
        assert any(other in (2, 5) for other in supports)


def test_a_label_that_no_other_example_shows_is_asked_for_with_the_query_as_support():
    """Else the network would learn to find what its supports do not show."""
    examples = [square(n, value=1 if n == 3 else 2) for n in range(6)]
    sampler = sampler_of(SupportSet(tuple(examples), (LABEL,), "axial", 32))
    asked = [indices for _, indices in (sampler._episode(list(range(6))) for _ in range(30)) if indices[0] == 3]
    assert asked and all(indices[1] == 3 for indices in asked)


def test_episodes_of_another_seed_share_the_pictures_and_not_the_chances():
    first = sampler_of(squares(8))
    other = first.with_seed(5)
    assert other._images is first._images
    assert not torch.equal(first.draw(range(8))[0], other.draw(range(8))[0])


def test_training_stops_at_its_deadline_and_tells_every_step():
    told = []
    sampler = sampler_of(squares(4))
    assert sampler.train(Learner(), range(4), 3, math.inf, told.append) == 3 and told == [1, 2, 3]
    assert sampler.train(Learner(), range(4), 3, 0.0, told.append) == 0


def test_what_is_moved_is_moved_together_and_nothing_at_strength_0():
    images = torch.stack([torch.from_numpy(square(n, 1.0).image.copy()) for n in range(3)])[:, None]
    masks = (images > 0.5).float()
    generator = torch.Generator().manual_seed(0)
    same, also = moved(images, masks, 0.0, generator)
    torch.testing.assert_close(same, images)
    torch.testing.assert_close(also, masks)
    changed, mask = moved(images, masks, 1.0, generator)
    assert not torch.equal(mask, masks)
    assert ((changed > 0.5).float() == mask).float().mean() > 0.98
