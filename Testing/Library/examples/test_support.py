"""Support sets: which slices become examples, what they hold, which of them are selected."""

import logging

import numpy as np
import pytest

from InContextSegLib.errors import InputError
from InContextSegLib.examples.pairs import paired_files
from InContextSegLib.examples.support import Example, Label, LabelledVolume, SupportSet
from InContextSegLib.slices.intensities import Intensities
from InContextSegLib.volumes.geometry import Geometry, Kind, Volume, reorder

SIZE = 16


def grid(shape, spacing_kji=(1.0, 1.0, 1.0)):
    """Stored in reading order: k to superior, j to posterior, i to the patient's left."""
    k_mm, j_mm, i_mm = spacing_kji
    return Geometry(shape, np.diag([-i_mm, -j_mm, k_mm, 1.0]))


def labelled(slices, shape=(20, 16, 16), spacing_kji=(2.0, 1.0, 1.0), value=1, source="case.nii.gz"):
    """A volume whose slices grow brighter upward, with a labelled square on `slices`."""
    array = np.broadcast_to(np.linspace(1, 100, shape[0], dtype=np.float32)[:, None, None], shape)
    labels = np.zeros(shape, np.uint8)
    labels[list(slices), shape[1] // 4 : shape[1] // 2, shape[2] // 4 : shape[2] // 2] = value
    geometry = grid(shape, spacing_kji)
    return LabelledVolume(Volume(array, geometry, Kind.INTENSITY), Volume(labels, geometry, Kind.LABELS), source)


def stored_otherwise(pair, order, flips):
    """The same patient, stored in another order."""
    geometry = pair.image.geometry.reordered(order, flips)
    image, labels = (reorder(volume.array, order, flips) for volume in (pair.image, pair.labels))
    return LabelledVolume(Volume(image, geometry, Kind.INTENSITY), Volume(labels, geometry, Kind.LABELS), pair.source)


def picture(grey=0.5, label=1, position=None, source="drawn"):
    """An example of one grey with one labelled pixel."""
    labels = np.zeros((SIZE, SIZE), np.uint16)
    labels[3, 4] = label
    return Example(np.full((SIZE, SIZE), grey, np.float32), labels, position, source)


def drawn(examples):
    return SupportSet(tuple(examples), (Label(1, "spot"),), "axial", SIZE)


def masks(support, value=1):
    return np.stack([example.labels == value for example in support.examples])


def sources(support):
    return [example.source for example in support.examples]


def indices(support):
    return [int(source.split()[-1]) for source in sources(support)]


def test_auto_takes_empty_slices_of_a_finished_volume_as_negatives(caplog):
    with caplog.at_level(logging.INFO):
        support = SupportSet.from_volumes([labelled(range(5, 12))], "axial", SIZE)
    assert indices(support) == list(range(20))
    assert np.flatnonzero(masks(support).any(axis=(1, 2))).tolist() == list(range(5, 12))
    assert "all 20 axial slices" in caplog.text


@pytest.mark.parametrize("slices", [[3, 9, 10], [7], [7, 8]], ids=["gaps", "one slice", "two that touch"])
def test_auto_takes_only_the_labelled_slices_of_an_unfinished_volume(slices, caplog):
    with caplog.at_level(logging.INFO):
        support = SupportSet.from_volumes([labelled(slices)], "axial", SIZE)
    assert indices(support) == slices
    assert f"{len(slices)} labelled axial slices" in caplog.text


def test_auto_counts_a_volume_labelled_throughout_as_finished_however_short():
    support = SupportSet.from_volumes([labelled(range(2), shape=(2, 16, 16))], "axial", SIZE)
    assert indices(support) == [0, 1]


def test_auto_decides_for_every_volume_by_itself():
    pairs = [labelled(range(5, 12), source="a"), labelled([2, 4], source="b"), labelled([], source="c")]
    support = SupportSet.from_volumes(pairs, "axial", SIZE)
    assert len(support) == 22
    assert sources(support)[20:] == ["b axial 2", "b axial 4"]


@pytest.mark.parametrize(
    ("slices", "expected"),
    [("labelled", range(5, 12)), ("all", range(20)), (7, [0, 7, 14]), ((9, 6, 9), [9, 6])],
)
def test_slices_can_be_chosen(slices, expected):
    support = SupportSet.from_volumes([labelled(range(5, 12))], "axial", SIZE, slices)
    assert indices(support) == list(expected)


@pytest.mark.parametrize(("slices", "expected"), [("labelled", {16, 17}), ((17,), {17}), (8, {0, 8, 16})])
def test_indices_are_those_of_the_stored_array_when_it_is_upside_down(slices, expected):
    pair = stored_otherwise(labelled([2, 3]), (1, 0, 2), (False, True, False))
    support = SupportSet.from_volumes([pair], "axial", SIZE, slices)
    assert set(indices(support)) == expected
    for example, index in zip(support.examples, indices(support), strict=True):
        assert example.labels.any() == (index in (16, 17))
        assert example.position == pytest.approx((19 - index + 0.5) / 20)


def test_the_same_patient_stored_otherwise_gives_the_same_examples():
    pair = labelled([2, 3, 11], shape=(20, 18, 12), spacing_kji=(2.0, 0.7, 0.9))
    other = stored_otherwise(pair, (2, 0, 1), (True, True, False))
    first, second = (SupportSet.from_volumes([p], "coronal", SIZE, "all") for p in (pair, other))
    np.testing.assert_allclose(first.images(), second.images(), atol=1e-6)
    np.testing.assert_array_equal(masks(first), masks(second))


def test_volumes_of_different_spacing_and_size_join_one_set():
    pairs = [labelled([4], source="a"), labelled([1], shape=(3, 40, 50), spacing_kji=(5.0, 0.5, 0.4), source="b")]
    support = SupportSet.from_volumes(pairs, "axial", SIZE)
    assert sources(support) == ["a axial 4", "b axial 1"]
    assert support.images().shape == (2, SIZE, SIZE)
    assert support.images().dtype == np.float32 and support.examples[0].labels.dtype == np.uint16
    assert masks(support).any(axis=(1, 2)).all()


def test_images_are_scaled_per_volume_by_the_rule_asked_for():
    support = SupportSet.from_volumes([labelled([0, 19])], "axial", SIZE, "labelled", Intensities((0, 200)))
    np.testing.assert_allclose(support.images().mean(axis=(1, 2)), [1 / 200, 0.5], atol=1e-3)


def test_every_label_found_is_offered_and_one_can_be_asked_for():
    pair = labelled([4, 5, 9])
    values = pair.labels.array.copy()
    values[5] *= 3
    pair = LabelledVolume(pair.image, Volume(values, pair.image.geometry, Kind.LABELS), pair.source)
    support = SupportSet.from_volumes([pair], "axial", SIZE)
    assert support.labels == (Label(1, "label 1"), Label(3, "label 3"))
    np.testing.assert_array_equal(masks(support, 3).any(axis=(1, 2)), [False, True, False])

    asked = SupportSet.from_volumes([pair], "axial", SIZE, labels=[Label(3, "liver")])
    assert asked.labels == (Label(3, "liver"),)
    assert indices(asked) == [4, 5, 9]
    with pytest.raises(InputError, match=r"Label 2 \(spleen\) is in none of the examples, which hold 1, 3"):
        SupportSet.from_volumes([pair], "axial", SIZE, labels=[Label(2, "spleen")])


def test_empty_masks_and_missing_examples_are_refused():
    with pytest.raises(InputError, match="none of the 20 chosen holds a label"):
        SupportSet.from_volumes([labelled([])], "axial", SIZE, "all")
    with pytest.raises(InputError, match="none of the 0 chosen holds a label"):
        SupportSet.from_volumes([labelled([])], "axial", SIZE)
    with pytest.raises(InputError, match="none of the 0 chosen holds a label"):
        SupportSet.from_images([], SIZE)


def test_choices_of_slices_that_make_no_sense_are_refused():
    pair = labelled([4])
    with pytest.raises(InputError, match="single volume only, but 2 volumes came"):
        SupportSet.from_volumes([pair, pair], "axial", SIZE, (4,))
    with pytest.raises(InputError, match="no axial slice 20; choose an index from 0 to 19"):
        SupportSet.from_volumes([pair], "axial", SIZE, (20,))
    for slices in (0, -2, True):
        with pytest.raises(InputError, match="Slices are chosen by"):
            SupportSet.from_volumes([pair], "axial", SIZE, slices)


def test_labels_that_lie_elsewhere_are_refused_with_both_places():
    pair = labelled([4])
    smaller = labelled([4], shape=(10, 16, 16)).labels
    affine = pair.image.geometry.affine.copy()
    affine[2, 3] += 40
    shifted = Volume(pair.labels.array, Geometry(pair.labels.geometry.shape, affine), Kind.LABELS)
    for labels, there in ((smaller, "16 x 16 x 10 voxels"), (shifted, r"59\.0\) mm RAS")):
        with pytest.raises(InputError, match=f"case.nii.gz.*image: 16 x 16 x 20 voxels.*labels: .*{there}.*resample"):
            SupportSet.from_volumes([LabelledVolume(pair.image, labels, pair.source)], "axial", SIZE)
    with pytest.raises(InputError, match="read as intensities"):
        SupportSet.from_volumes([LabelledVolume(pair.image, pair.image, pair.source)], "axial", SIZE)


def flat(shape=(12, 20), spacing_mm=1.0, source="a.png"):
    return labelled([0], shape=(1, *shape), spacing_kji=(1.0, spacing_mm, spacing_mm), source=source)


def test_flat_images_become_examples_without_a_position():
    support = SupportSet.from_images([flat(), flat((30, 10), source="b.png")], SIZE)
    assert sources(support) == ["a.png", "b.png"]
    assert [example.position for example in support.examples] == [None, None]
    assert support.axis == "axial"
    assert masks(support).any(axis=(1, 2)).all()


def test_the_spacing_of_a_flat_image_holds_for_its_labels():
    without_spacing = flat().labels
    support = SupportSet.from_images([LabelledVolume(flat(spacing_mm=0.2).image, without_spacing, "a.png")], SIZE)
    np.testing.assert_array_equal(masks(support), masks(SupportSet.from_images([flat()], SIZE)))


def test_a_flat_coronal_image_is_shown_as_it_lies_in_the_patient():
    upright = labelled([0], shape=(1, 12, 20))
    affine = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # rows toward inferior
    coronal = Geometry((1, 12, 20), affine)
    pair = LabelledVolume(
        Volume(upright.image.array, coronal, Kind.INTENSITY), Volume(upright.labels.array, coronal, Kind.LABELS), "c"
    )
    support = SupportSet.from_images([pair], SIZE)
    assert support.axis == "coronal"
    np.testing.assert_array_equal(masks(support), masks(SupportSet.from_images([upright], SIZE)))


def test_flat_images_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"2D image was asked for, but case\.nii\.gz is a volume"):
        SupportSet.from_images([labelled([3])], SIZE)
    with pytest.raises(InputError, match=r"do not lie on the same grid .*20 x 12 x 1.*10 x 12 x 1"):
        SupportSet.from_images([LabelledVolume(flat().image, flat((12, 10)).labels, "a.png")], SIZE)
    with pytest.raises(InputError, match="read as intensities"):
        SupportSet.from_images([LabelledVolume(flat().image, flat().image, "a.png")], SIZE)


def folders(tmp_path, images, labels):
    for name, files in (("images", images), ("labels", labels)):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_bytes(b"")
    return tmp_path / "images", tmp_path / "labels"


def test_files_are_paired_by_stem(tmp_path):
    images, labels = folders(tmp_path, ["b.nii.gz", "a.jpg", "notes.txt", ".hidden.png"], ["a.png", "b.nii", "SOURCE"])
    assert paired_files(images, labels) == [
        (images / "a.jpg", labels / "a.png"),
        (images / "b.nii.gz", labels / "b.nii"),
    ]


@pytest.mark.parametrize(
    ("images", "labels", "match"),
    [
        (["a.png", "b.png"], ["a.png"], "b.png has no partner in .*labels"),
        (["a.png"], ["a.png", "c.png"], "c.png has no partner in .*images"),
        ([f"{n}.png" for n in range(9)], ["0.png"], "1.png, 2.png, 3.png, 4.png, 5.png and 3 more"),
        (["a.png", "a.jpg"], ["a.png"], "a.jpg and a.png in .*images share a stem"),
        (["notes.txt"], ["a.png"], "images, but it holds none"),
    ],
)
def test_files_without_a_single_partner_are_refused(tmp_path, images, labels, match):
    with pytest.raises(InputError, match=match):
        paired_files(*folders(tmp_path, images, labels))


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no such folder"):
        paired_files(tmp_path / "nowhere", tmp_path)


def noisy(count, rng):
    """Examples of equal appearance but for noise, spread over the axis."""
    grey = np.clip(0.5 + 0.1 * rng.standard_normal((count, SIZE, SIZE)), 0, 1).astype(np.float32)
    labels = np.ones((SIZE, SIZE), np.uint16)
    return [Example(image, labels, (n + 0.5) / count, str(n)) for n, image in enumerate(grey)]


def test_selection_finds_the_near_position():
    support = drawn(noisy(100, np.random.default_rng(0)))
    target = support.examples[40].image
    chosen = support.select(np.full_like(target, 0.5), 0.305, 5)
    assert max(abs(index - 30) for index in chosen) <= 20


def test_selection_orders_by_position_when_all_look_alike():
    support = drawn([picture(position=position) for position in (0.1, 0.9, 0.45, 0.55)])
    assert support.select(support.examples[0].image, 0.5, 2) == (2, 3)
    assert support.select(support.examples[0].image, 0.85, 2) == (1, 3)


def test_selection_finds_the_near_appearance():
    greys = np.linspace(0, 1, 21)
    support = drawn([picture(grey) for grey in greys])
    chosen = support.select(np.full((SIZE, SIZE), 0.7, np.float32), None, 3)
    assert chosen[0] == 14
    assert set(chosen) == {13, 14, 15}


def test_selection_tells_shapes_of_the_same_greys_apart():
    left, top = np.zeros((SIZE, SIZE), np.float32), np.zeros((SIZE, SIZE), np.float32)
    left[:, :6], top[:6] = 0.8, 0.8
    labels = np.ones((SIZE, SIZE), np.uint16)
    support = drawn([Example(image, labels, None, "") for image in (left, top, left, top)])
    assert support.select(top * np.float32(0.95), None, 2) == (1, 3)


def test_an_example_without_a_position_is_neither_preferred_nor_shunned_for_it():
    support = drawn([picture(position=position) for position in (0.5, None, 0.0, 1.0)])
    assert support.select(support.examples[0].image, 0.5, 2) == (0, 1)
    assert support.select(support.examples[0].image, None, 2) == (0, 1)


def test_draws_are_independent_reproducible_and_without_repeats():
    support = drawn(noisy(60, np.random.default_rng(0)))
    target = support.examples[30].image

    def draws(seed):
        generator = np.random.default_rng(seed)
        return [support.select(target, 0.5, 8, generator) for _ in range(6)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
    assert len({frozenset(draw) for draw in draws(1)}) == 6
    assert all(len(set(draw)) == 8 for draw in draws(1))
    assert support.select(target, 0.5, 8) == support.select(target, 0.5, 8)


def test_draws_favour_what_resembles_the_picture():
    support = drawn(noisy(60, np.random.default_rng(0)))
    generator = np.random.default_rng(3)
    counts = np.bincount(
        np.concatenate([support.select(support.examples[30].image, 0.5, 8, generator) for _ in range(200)]),
        minlength=60,
    )
    assert counts[20:40].sum() > 2 * (counts[:20].sum() + counts[40:].sum())
    assert np.count_nonzero(counts) > 30


def test_asking_for_more_than_there_are_gives_all_in_order():
    support = drawn(noisy(4, np.random.default_rng(0)))
    for count in (4, 99):
        assert support.select(support.examples[2].image, 0.5, count, np.random.default_rng(0)) == (0, 1, 2, 3)


def test_a_thousand_examples_of_any_size_can_be_searched():
    rng = np.random.default_rng(0)
    images = rng.random((1000, 20, 20), np.float32)
    labels = np.ones((20, 20), np.uint16)
    examples = tuple(Example(image, labels, None, "") for image in images)
    support = SupportSet(examples, (Label(1, "spot"),), "axial", 20)
    assert support.select(images[777], None, 16)[0] == 777


def test_selections_that_make_no_sense_are_refused():
    support = drawn([picture(), picture()])
    with pytest.raises(InputError, match=r"pictures of 16 pixels, but one of shape \(8, 8\)"):
        support.select(np.zeros((8, 8), np.float32), None, 1)
    with pytest.raises(InputError, match="At least one example"):
        support.select(support.examples[0].image, None, 0)


def test_the_fingerprint_follows_every_pixel_position_and_label_value():
    def changed(which, row, column, value):
        example = picture(position=0.5)
        image, labels = example.image.copy(), example.labels.copy()
        (image if which == "image" else labels)[row, column] = value
        return drawn([picture(position=0.2), Example(image, labels, 0.5, "drawn")])

    original = drawn([picture(position=0.2), picture(position=0.5)])
    spot = original.labels
    others = [
        changed("image", 0, 0, np.nextafter(np.float32(0.5), np.float32(1))),
        changed("image", SIZE - 1, SIZE - 1, 0.25),
        changed("labels", 0, 0, 1),
        changed("labels", 3, 4, 2),
        changed("labels", SIZE - 1, SIZE - 1, 256),
        drawn([picture(position=0.2), picture(position=0.6)]),
        drawn([picture(position=0.2), picture()]),
        drawn([picture(position=0.5), picture(position=0.2)]),
        drawn([picture(position=0.2)]),
        SupportSet(original.examples, (*spot, Label(2, "other")), "axial", SIZE),
        SupportSet(original.examples, (Label(2, "spot"),), "axial", SIZE),
    ]
    assert len({original.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)


def test_the_fingerprint_ignores_names_and_memory_layout():
    original = drawn([picture(position=0.2)])
    example = original.examples[0]
    same = Example(
        np.asfortranarray(example.image), np.repeat(example.labels, 2, axis=1)[:, ::2], example.position, "renamed"
    )
    renamed = SupportSet((same,), (Label(1, "another name"),), "axial", SIZE)
    assert renamed.fingerprint == original.fingerprint
    # Written down once: it must not change between runs, platforms or releases, since caches are keyed by it.
    assert original.fingerprint == "604b084deab99c056e189b65d34476e85524501b6576801bda3d81c74e2e507e"


def test_sets_are_cut_down_without_changing_the_original():
    support = drawn([picture(source=name) for name in "abcd"])
    assert sources(support.without([1, 2])) == ["a", "d"]
    assert sources(support) == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(support.images([3, 1]), support.images()[[3, 1]])
    with pytest.raises(InputError, match="at least one example"):
        support.without(range(4))


def test_examples_cannot_be_changed_after_the_fact():
    example = picture()
    with pytest.raises(ValueError, match="read-only"):
        example.image[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        example.labels[0, 0] = 1


def test_parts_that_do_not_fit_together_are_refused():
    image, labels = np.zeros((8, 8), np.float32), np.zeros((8, 8), np.uint16)
    with pytest.raises(InputError, match="square image and labels of the same size"):
        Example(image, labels[:4], None, "a")
    with pytest.raises(InputError, match="float32 and its labels uint16"):
        Example(image.astype(np.float64), labels, None, "a")
    for wrong in (-0.1, 1.5, np.nan):
        with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
            Example(image + np.float32(wrong), labels, None, "a")
    for value in (0, 65536):
        with pytest.raises(InputError, match="from 1 to 65535"):
            Label(value, "x")
    example = Example(image, labels, None, "a")
    with pytest.raises(InputError, match="pictures of 16 pixels, but a has 8"):
        drawn([example])
    with pytest.raises(InputError, match="at least one label"):
        SupportSet((example,), (), "axial", 8)
    with pytest.raises(InputError, match="may be asked for once"):
        SupportSet((example,), (Label(1, "a"), Label(1, "b")), "axial", 8)


def test_an_image_given_as_labels_is_refused_in_one_sentence():
    image = np.random.default_rng(0).integers(0, 900, (6, 24, 24)).astype(np.uint16)
    swapped = LabelledVolume(
        Volume(image.astype(np.int16), grid(image.shape), Kind.INTENSITY),
        Volume(image, grid(image.shape), Kind.LABELS),
        "ct.nii.gz",
    )
    with pytest.raises(InputError, match=r"labels of ct.nii.gz look like an image: .* in the wrong order"):
        SupportSet.from_volumes([swapped])


def test_hundreds_of_numbered_cells_are_labels():
    cells = np.kron(np.arange(1, 101, dtype=np.uint16).reshape(1, 10, 10), np.ones((1, 4, 4), np.uint16))
    numbered = LabelledVolume(
        Volume(cells.astype(np.int16), grid(cells.shape), Kind.INTENSITY),
        Volume(cells, grid(cells.shape), Kind.LABELS),
        "cells.png",
    )
    assert len(SupportSet.from_images([numbered]).labels) == 100
