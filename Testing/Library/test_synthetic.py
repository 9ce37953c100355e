"""The invented tasks: what a batch of them promises."""

import torch

from InContextSegLib.training.synthetic import LABELS, _targets, synthetic_tasks


def batch(seed, tasks=12, images=5, size=48):
    return synthetic_tasks(tasks, images, size, torch.Generator().manual_seed(seed))


def test_images_lie_between_zero_and_one_and_masks_are_binary():
    tasks = batch(1)
    assert tasks.images.shape == tasks.masks.shape == (12, 5, 1, 48, 48)
    assert torch.isfinite(tasks.images).all()
    assert tasks.images.min() >= 0 and tasks.images.max() <= 1
    assert set(tasks.masks.unique().tolist()) == {0.0, 1.0}


def test_the_same_seed_gives_the_same_tasks_and_another_seed_others():
    assert torch.equal(batch(2).images, batch(2).images)
    assert torch.equal(batch(2).masks, batch(2).masks)
    assert not torch.equal(batch(2).masks, batch(3).masks)


def test_most_images_show_what_is_wanted_and_some_do_not():
    shown = torch.cat([batch(seed).masks.flatten(2).amax(2).flatten() for seed in range(20)])
    assert 0.85 < shown.mean() < 1.0


def test_the_images_of_a_task_differ():
    tasks = batch(4)
    assert all(not torch.equal(task[0], task[1]) for task in tasks.images)


def test_a_mask_can_be_told_from_its_image():
    """Often enough the wanted pixels have a grey value of their own: there is something to learn."""
    told = []
    for seed in range(6):
        tasks = batch(seed)
        for images, masks in zip(tasks.images, tasks.masks, strict=True):
            inside, outside = images[masks == 1], images[masks == 0]
            if len(inside) > 10 and len(outside) > 10:
                told.append((inside.mean() - outside.mean()).abs() > 0.5 * outside.std())
    assert torch.stack(told).float().mean() > 0.5


def test_a_label_that_most_images_lack_is_not_wanted():
    labels = torch.zeros(4, 16, 16, dtype=torch.long)
    labels[:, :8] = 1
    labels[0, 12:] = 2  # in one image of four
    for seed in range(30):
        masks = _targets(labels.clone(), 1, torch.Generator().manual_seed(seed))
        assert masks[1].any()


def test_every_label_fits_the_table_of_grey_values():
    assert LABELS < 32
