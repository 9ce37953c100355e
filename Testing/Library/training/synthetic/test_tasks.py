"""The invented tasks: what a batch of them promises."""

import torch

from InContextSegLib.training.synthetic.scenes import FIRST_OBJECT, LABELS, OBJECTS, VESSEL, Layout, Scene
from InContextSegLib.training.synthetic.tasks import synthetic_tasks, wanted_masks


def batch(seed, tasks=12, images=5, size=48):
    return synthetic_tasks(tasks, images, size, torch.Generator().manual_seed(seed))


def layout(labels, solids=None, twins=()):
    if solids is None:
        solids = torch.zeros(len(labels), OBJECTS, *labels.shape[1:], dtype=torch.bool)
    is_twin = torch.zeros(1, OBJECTS, dtype=torch.bool)
    is_twin[0, list(twins)] = True
    return Layout(labels, solids, is_twin)


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
        masks = wanted_masks(layout(labels.clone()), 1, torch.Generator().manual_seed(seed))
        assert masks[1].any()


def test_every_label_fits_the_table_of_grey_values():
    assert LABELS < 32


def masks_of(scene, seeds=60):
    return [wanted_masks(scene, 1, torch.Generator().manual_seed(seed)) > 0 for seed in range(seeds)]


def test_vessels_are_wanted_now_everywhere_and_now_in_one_organ_only():
    labels = torch.zeros(2, 20, 20, dtype=torch.long)
    labels[:, 10, :] = VESSEL
    organ = torch.zeros(2, OBJECTS, 20, 20, dtype=torch.bool)
    organ[:, 0, :, :10] = True
    found = [mask[0, 10] for mask in masks_of(layout(labels, organ)) if mask[0, 10].any() and not mask[0, 0].any()]
    assert any(row.all() for row in found)
    assert any(row[:10].all() and not row[10:].any() for row in found)


def test_an_organ_is_wanted_now_with_what_lies_on_it_and_now_without():
    labels = torch.zeros(2, 20, 20, dtype=torch.long)
    labels[:, 5:15, 5:15] = FIRST_OBJECT
    whole = torch.zeros(2, OBJECTS, 20, 20, dtype=torch.bool)
    whole[:, 0, 5:15, 5:15] = True
    labels[:, 9:11, 5:15] = VESSEL
    centres = {(mask[0, 9, 9].item(), mask[0, 6, 6].item()) for mask in masks_of(layout(labels, whole))}
    assert {(True, True), (False, True), (True, False)} <= centres


def test_one_of_two_twins_is_wanted_or_both():
    labels = torch.zeros(2, 20, 20, dtype=torch.long)
    labels[:, 5:10, 2:8] = FIRST_OBJECT
    labels[:, 5:10, 12:18] = FIRST_OBJECT + 1
    solids = torch.stack([labels == FIRST_OBJECT + n for n in range(OBJECTS)], dim=1)
    masks = [mask for mask in masks_of(layout(labels, solids, twins=(1,))) if not mask[0, 0, 0]]
    found = {(mask[0, 7, 4].item(), mask[0, 7, 14].item()) for mask in masks}
    assert {(True, False), (False, True), (True, True)} <= found


def test_thin_curves_and_two_populations_of_cells_appear():
    seen = torch.zeros(LABELS, dtype=torch.long)
    for seed in range(12):
        scene = Scene(12, 2, 48, torch.Generator().manual_seed(seed))
        seen += torch.bincount(scene.layout().labels.flatten(), minlength=LABELS)
    assert (seen > 0).all()
