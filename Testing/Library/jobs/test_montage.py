"""The picture of a result: opens, is upright, keeps its proportions, shows the right slices, is whole or not there."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from InContextSegLib.cli.phantom import LABEL_NAMES, phantom
from InContextSegLib.errors import InputError, OutputError
from InContextSegLib.examples.support import Label
from InContextSegLib.jobs.montage import COLOURS, montage, montage_figure
from InContextSegLib.volumes.files import read_volume
from InContextSegLib.volumes.geometry import Geometry, Kind, Volume, picture_geometry

CUBE = [Label(1, "cube")]
# Stored as most scanners do (RAS): columns to the left, rows to the back, slices 4 mm thick upward.
UPRIGHT = Geometry((12, 40, 40), np.diag([-1.0, -1.0, 4.0, 1.0]))


def image_of(geometry):
    return Volume(np.arange(np.prod(geometry.shape), dtype=np.float32).reshape(geometry.shape), geometry)


def mask_of(geometry, box=()):
    array = np.zeros(geometry.shape, dtype=np.uint8)
    if box:
        array[box] = 1
    return Volume(array, geometry, Kind.LABELS)


def pictures(figure):
    """The axes that show a slice, in the order they were drawn; a colour bar shows none."""
    return [axes for axes in figure.axes if axes.images]


def captions(figure):
    return [axes.get_xlabel() for axes in pictures(figure) if axes.get_xlabel()]


def letters(axes):
    return "".join(text.get_text() for text in axes.texts)


BOX = np.s_[3:9, 10:30, 5:20]


def test_a_montage_of_every_part_is_a_picture_file_that_opens(tmp_path):
    image, labels = phantom(1, shape=(10, 48, 48), spacing_mm=(19.0, 7.3, 7.3))
    uncertainty = Volume(np.full(image.array.shape, 10, np.float32), image.geometry)
    names = [Label(value, name) for value, name in LABEL_NAMES.items()]
    montage(tmp_path / "result.png", image, labels, names, uncertainty, truth=labels)
    with Image.open(tmp_path / "result.png") as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.width > picture.height > 300
    assert [path.name for path in tmp_path.iterdir()] == ["result.png"]


def test_the_same_result_is_the_same_file(tmp_path):
    for name in ("a.png", "b.png"):
        montage(tmp_path / name, image_of(UPRIGHT), mask_of(UPRIGHT, BOX), CUBE)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(("axis", "ratio"), [("axial", 1.0), ("coronal", 48 / 40), ("sagittal", 48 / 40)])
def test_a_picture_keeps_the_proportions_of_the_patient(axis, ratio):
    figure = montage_figure(image_of(UPRIGHT), mask_of(UPRIGHT), CUBE, axis=axis)
    figure.canvas.draw()
    for axes in pictures(figure):
        box = axes.get_window_extent()
        assert box.height / box.width == pytest.approx(ratio, rel=0.01)


def test_slices_lie_evenly_in_the_extent_of_the_mask_and_name_the_stored_index():
    figure = montage_figure(image_of(UPRIGHT), mask_of(UPRIGHT, BOX), CUBE, columns=3)
    assert captions(figure) == ["k = 4", "k = 6", "k = 8"]


def test_slices_go_upward_with_their_stored_indices_when_the_volume_is_stored_downward():
    downward = UPRIGHT.reordered((0, 1, 2), (True, False, False))
    figure = montage_figure(image_of(downward), mask_of(downward, BOX), CUBE, columns=3)
    assert captions(figure) == ["k = 7", "k = 5", "k = 3"]


def test_a_mask_of_two_slices_is_shown_in_two_pictures():
    figure = montage_figure(image_of(UPRIGHT), mask_of(UPRIGHT, np.s_[5:7, 1:9, 1:9]), CUBE)
    assert captions(figure) == ["k = 5", "k = 6"]


def test_an_empty_mask_shows_the_whole_volume(tmp_path):
    figure = montage_figure(image_of(UPRIGHT), mask_of(UPRIGHT), CUBE)
    assert captions(figure) == [f"k = {index}" for index in (1, 3, 5, 7, 9, 11)]
    montage(tmp_path / "empty.png", image_of(UPRIGHT), mask_of(UPRIGHT), CUBE)
    assert (tmp_path / "empty.png").stat().st_size > 1000


def test_an_object_that_the_mask_misses_is_within_the_slices_shown():
    figure = montage_figure(
        image_of(UPRIGHT), mask_of(UPRIGHT, np.s_[2:3, 4:9, 4:9]), CUBE, truth=mask_of(UPRIGHT, BOX)
    )
    assert captions(figure)[0] == "k = 2"
    assert captions(figure)[-1] == "k = 8"


def test_the_mask_is_tinted_where_it_lies_and_only_there():
    black = Volume(np.zeros(UPRIGHT.shape, np.float32), UPRIGHT)
    half = mask_of(UPRIGHT, np.s_[:, :, :20])
    shown = pictures(montage_figure(black, half, CUBE, columns=1))[0].images[0].get_array()
    height, width, _ = shown.shape
    tint = shown[height // 2, width // 4]
    np.testing.assert_allclose(tint / tint.max(), np.array(to_rgb(COLOURS[0])) / max(to_rgb(COLOURS[0])), atol=0.01)
    assert not shown[:, -width // 4 :].any()


@pytest.mark.parametrize(("axis", "expected"), [("axial", "RLAP"), ("coronal", "RLSI"), ("sagittal", "APSI")])
def test_letters_name_the_sides_of_the_patient(axis, expected):
    figure = montage_figure(image_of(UPRIGHT), mask_of(UPRIGHT, BOX), CUBE, axis=axis)
    assert [letters(axes) for axes in pictures(figure)] == [expected] * len(pictures(figure))


def test_the_patients_right_is_left_in_the_picture_whatever_the_storage():
    left_to_right = Geometry((2, 16, 16), np.diag([1.0, 1.0, 3.0, 1.0]))
    bright = np.zeros(left_to_right.shape, np.float32)
    bright[:, 12:, 12:] = 1.0  # right, anterior
    figure = montage_figure(Volume(bright, left_to_right), mask_of(left_to_right), CUBE)
    shown = pictures(figure)[0].images[0].get_array()
    assert shown[10, 10].min() == pytest.approx(1.0)
    assert shown[-10, -10].max() == pytest.approx(0.0)


def test_uncertainty_has_a_row_and_a_scale_of_its_own():
    uncertainty = np.zeros(UPRIGHT.shape, np.float32)
    uncertainty[4, 15, 15] = 40
    figure = montage_figure(image_of(UPRIGHT), mask_of(UPRIGHT, BOX), CUBE, Volume(uncertainty, UPRIGHT), columns=3)
    assert len(pictures(figure)) == 6
    (bar,) = [axes for axes in figure.axes if not axes.images]
    assert bar.get_ylabel() == "uncertainty, %"
    assert bar.get_ylim() == pytest.approx((0, 40))


def test_no_uncertainty_anywhere_is_drawn_without_a_warning(tmp_path):
    nowhere = Volume(np.zeros(UPRIGHT.shape, np.float32), UPRIGHT)
    montage(tmp_path / "sure.png", nowhere, mask_of(UPRIGHT, BOX), CUBE, nowhere)
    assert (tmp_path / "sure.png").exists()


def test_the_truth_is_dashed_and_named_in_the_legend():
    mask = mask_of(UPRIGHT, BOX)
    plain = montage_figure(image_of(UPRIGHT), mask, CUBE, columns=1)
    compared = montage_figure(image_of(UPRIGHT), mask, CUBE, truth=mask, columns=1)
    assert len(pictures(compared)[0].collections) == len(pictures(plain)[0].collections) + 1
    (_, dashes) = pictures(compared)[0].collections[-1].get_linestyles()[0]
    assert dashes is not None
    assert [text.get_text() for text in compared.legends[0].get_texts()] == ["cube", "reference"]


def test_names_appear_in_the_legend_as_they_were_given(tmp_path):
    names = ["_hidden", "a $ b $", "Größe", *(f"organ {n}" for n in range(9))]
    labels = [Label(n + 1, name) for n, name in enumerate(names)]
    figure = montage_figure(image_of(UPRIGHT), mask_of(UPRIGHT, BOX), labels, columns=2)
    figure.canvas.draw()
    texts = figure.legends[0].get_texts()
    assert [text.get_text() for text in texts] == names
    lowest = min(text.get_window_extent().y0 for text in texts)
    assert lowest > pictures(figure)[0].get_window_extent().y1


def test_a_picture_of_one_slice_has_one_column_and_claims_no_sides():
    flat = picture_geometry((1, 30, 60))
    figure = montage_figure(image_of(flat), mask_of(flat, np.s_[:, 10:20, 10:40]), CUBE, axis="sagittal")
    assert captions(figure) == ["k = 0"]
    assert letters(pictures(figure)[0]) == ""
    figure.canvas.draw()
    box = pictures(figure)[0].get_window_extent()
    assert box.width / box.height == pytest.approx(2.0, rel=0.02)


def test_no_label_or_no_column_is_refused():
    with pytest.raises(InputError, match="at least one label and one column"):
        montage_figure(image_of(UPRIGHT), mask_of(UPRIGHT), [])
    with pytest.raises(InputError, match="at least one label and one column"):
        montage_figure(image_of(UPRIGHT), mask_of(UPRIGHT), CUBE, columns=0)


@pytest.mark.parametrize("part", ["mask", "uncertainty", "truth"])
def test_a_part_on_another_grid_is_refused_by_name(part):
    other = picture_geometry((1, 4, 4))
    parts = {"mask": mask_of(UPRIGHT), part: image_of(other) if part == "uncertainty" else mask_of(other)}
    with pytest.raises(InputError, match=f"The {part} of .* does not lie on the grid of the image"):
        montage_figure(image_of(UPRIGHT), labels=CUBE, **parts)


def test_an_unknown_axis_is_refused():
    with pytest.raises(InputError, match="no slice axis 'oblique'"):
        montage_figure(image_of(UPRIGHT), mask_of(UPRIGHT), CUBE, axis="oblique")


def test_another_ending_than_png_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"let it end in \.png"):
        montage(tmp_path / "result.jpg", image_of(UPRIGHT), mask_of(UPRIGHT), CUBE)


def test_a_folder_that_does_not_exist_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="does not exist"):
        montage(tmp_path / "missing" / "result.png", image_of(UPRIGHT), mask_of(UPRIGHT), CUBE)


def test_a_failed_drawing_leaves_the_earlier_picture_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "result.png"
    path.write_bytes(b"earlier")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(OutputError, match="could not be written"):
        montage(path, image_of(UPRIGHT), mask_of(UPRIGHT), CUBE)
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_real_ct_with_its_organs_becomes_a_montage(tmp_path, data_folder):
    folder = data_folder / "openkbp_hn_ct"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    image = read_volume(folder / "images" / "pt_201.nii.gz")
    labels = read_volume(folder / "labels" / "pt_201.nii.gz", Kind.LABELS)
    montage(tmp_path / "neck.png", image, labels, [Label(1, "brainstem"), Label(7, "mandible")], axis="sagittal")
    assert (tmp_path / "neck.png").stat().st_size > 10_000
