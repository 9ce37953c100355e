"""Two-dimensional pictures as grey values or label indices."""

import logging

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its own documentation uses this name
from PIL import Image

from InContextSegLib.errors import InputError
from InContextSegLib.volumes.colour import ColourMix
from InContextSegLib.volumes.files import read_colours, read_volume
from InContextSegLib.volumes.geometry import Kind, picture_geometry

INDICES = (np.arange(30, dtype=np.uint8).reshape(5, 6)) % 4
COLOURS = np.random.default_rng(0).integers(0, 255, (5, 6, 3), dtype=np.uint8)
LUMINANCE = COLOURS @ np.array([0.2126, 0.7152, 0.0722])
ENDINGS = [".png", ".tif", ".tiff", ".bmp"]


@pytest.fixture(autouse=True)
def silent_terminal(capfd):
    yield
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_grey_picture_is_one_slice_with_pixels_of_one_millimetre(tmp_path, ending):
    Image.fromarray(INDICES).save(tmp_path / f"a{ending}", dpi=(300, 300))
    for kind in Kind:
        volume = read_volume(tmp_path / f"a{ending}", kind)
        np.testing.assert_array_equal(volume.array, INDICES[np.newaxis])
        assert volume.geometry.matches(picture_geometry((1, 5, 6)))


def test_rows_run_to_the_back_and_columns_to_the_left(tmp_path):
    Image.fromarray(INDICES).save(tmp_path / "a.png")
    assert np.diag(read_volume(tmp_path / "a.png").geometry.affine).tolist() == [-1, -1, 1, 1]


@pytest.mark.parametrize("ending", ENDINGS)
def test_colours_become_luminance(tmp_path, ending):
    Image.fromarray(COLOURS).save(tmp_path / f"a{ending}")
    volume = read_volume(tmp_path / f"a{ending}")
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.array[0], LUMINANCE, rtol=1e-5)


def test_colours_can_be_mixed_otherwise_and_grey_is_left_as_it_is(tmp_path):
    green = ColourMix((0.0, 1.0, 0.0), "asked for")
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    Image.fromarray(INDICES).convert("RGB").save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.png", mix=green).array[0], COLOURS[..., 1])
    np.testing.assert_array_equal(read_volume(tmp_path / "grey.png", mix=green).array[0], INDICES)


def test_colours_are_read_as_they_are_without_transparency(tmp_path):
    alpha = np.full((5, 6, 1), 7, np.uint8)
    Image.fromarray(np.concatenate([COLOURS, alpha], -1)).save(tmp_path / "rgba.png")
    deep = COLOURS.astype(np.uint16) * 257
    sitk.WriteImage(sitk.GetImageFromArray(deep, isVector=True), str(tmp_path / "deep.png"))
    np.testing.assert_array_equal(read_colours(tmp_path / "rgba.png"), COLOURS[np.newaxis])
    np.testing.assert_array_equal(read_colours(tmp_path / "deep.png"), deep[np.newaxis])


def test_the_pages_of_a_colour_tiff_become_slices(tmp_path):
    pages = [Image.fromarray(COLOURS), Image.fromarray(COLOURS[::-1].copy())]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(read_colours(tmp_path / "a.tif"), np.stack([COLOURS, COLOURS[::-1]]))
    np.testing.assert_allclose(read_volume(tmp_path / "a.tif").array[1], LUMINANCE[::-1], rtol=1e-5)


def test_a_grey_picture_has_no_colours_however_it_is_stored(tmp_path):
    Image.fromarray(INDICES).save(tmp_path / "grey.png")
    Image.fromarray(INDICES).convert("RGB").save(tmp_path / "rgb.png")
    Image.fromarray(INDICES).convert("LA").save(tmp_path / "la.png")
    assert [read_colours(tmp_path / f"{name}.png") for name in ("grey", "rgb", "la")] == [None] * 3


def test_files_that_hold_no_colours_are_not_opened_for_them(tmp_path):
    assert read_colours(tmp_path / "missing.nii.gz") is None
    assert read_colours(tmp_path) is None
    with pytest.raises(InputError, match=r"missing\.png does not exist"):
        read_colours(tmp_path / "missing.png")


def test_a_jpeg_is_read_close_to_what_was_saved(tmp_path):
    smooth = np.tile(np.linspace(50, 200, 64), (64, 1)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "grey.jpg", quality=95, dpi=(72, 72))
    volume = read_volume(tmp_path / "grey.jpg")
    assert np.abs(volume.array[0].astype(float) - smooth).max() < 4
    assert volume.geometry.spacing_mm == (1, 1, 1)


def test_transparency_is_ignored(tmp_path):
    alpha = np.full((5, 6, 1), 7, np.uint8)
    Image.fromarray(np.concatenate([COLOURS, alpha], -1)).save(tmp_path / "rgba.png")
    Image.fromarray(np.concatenate([INDICES[..., None], alpha], -1)).save(tmp_path / "la.png")
    np.testing.assert_allclose(read_volume(tmp_path / "rgba.png").array[0], LUMINANCE, rtol=1e-5)
    np.testing.assert_array_equal(read_volume(tmp_path / "la.png", Kind.LABELS).array[0], INDICES)


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_sixteen_bits_are_kept(tmp_path, ending):
    deep = (np.arange(30).reshape(5, 6) * 2000).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / f"a{ending}")
    for kind in Kind:
        np.testing.assert_array_equal(read_volume(tmp_path / f"a{ending}", kind).array[0], deep)


def test_sixteen_bit_colours_are_not_rounded_to_eight(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65535, (5, 6, 3)).astype(np.uint16)
    sitk.WriteImage(sitk.GetImageFromArray(deep, isVector=True), str(tmp_path / "a.png"))
    expected = deep @ np.array([0.2126, 0.7152, 0.0722])
    np.testing.assert_allclose(read_volume(tmp_path / "a.png").array[0], expected, rtol=1e-5)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_palette_picture_holds_indices_as_labels_and_its_colours_as_image(tmp_path, ending):
    picture = Image.fromarray(INDICES)
    palette = np.random.default_rng(1).integers(0, 255, (256, 3), dtype=np.uint8)
    picture.putpalette(palette.ravel().tolist())
    picture.save(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(read_volume(tmp_path / f"a{ending}", Kind.LABELS).array[0], INDICES)
    expected = palette[INDICES] @ np.array([0.2126, 0.7152, 0.0722])
    np.testing.assert_allclose(read_volume(tmp_path / f"a{ending}").array[0], expected, rtol=1e-5)


def test_one_bit_masks_hold_0_and_1(tmp_path):
    Image.fromarray(INDICES > 1).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_volume(tmp_path / "mask.png", Kind.LABELS).array[0], INDICES > 1)


@pytest.mark.parametrize("ending", [".png", ".tif", ".bmp"])
def test_colours_are_refused_as_labels_with_the_rule(tmp_path, ending):
    Image.fromarray(COLOURS).save(tmp_path / f"a{ending}")
    with pytest.raises(InputError, match="labels must be an index image in which the value of a pixel is its label"):
        read_volume(tmp_path / f"a{ending}", Kind.LABELS)


def test_labels_saved_with_three_equal_channels_are_unambiguous(tmp_path):
    Image.fromarray(INDICES).convert("RGB").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.png", Kind.LABELS).array[0], INDICES)


@pytest.mark.parametrize("name", ["a.jpg", "a.jpeg", "misnamed.png"])
def test_a_jpeg_is_refused_as_labels(tmp_path, name):
    Image.fromarray(INDICES).save(tmp_path / name, format="JPEG")
    with pytest.raises(InputError, match="is a JPEG, which alters label values; labels must be index images"):
        read_volume(tmp_path / name, Kind.LABELS)


def test_cmyk_is_not_mistaken_for_colours_with_transparency(tmp_path):
    Image.new("CMYK", (6, 5), (0, 0, 0, 0)).save(tmp_path / "white.jpg")
    assert read_volume(tmp_path / "white.jpg").array.min() == 255


def test_the_pages_of_a_tiff_become_slices(tmp_path):
    pages = [Image.fromarray(INDICES + n) for n in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    volume = read_volume(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.array, np.stack([INDICES + n for n in range(3)]))
    assert volume.geometry.matches(picture_geometry((3, 5, 6)))


def test_a_pixel_size_that_was_measured_is_kept_but_no_printing_density(tmp_path):
    Image.fromarray(INDICES).save(tmp_path / "microscope.tif", resolution=50800.0, resolution_unit=2)
    np.testing.assert_allclose(read_volume(tmp_path / "microscope.tif").geometry.spacing_mm, (1, 5e-4, 5e-4))
    Image.fromarray(INDICES).save(tmp_path / "scanner.tif", resolution=600.0, resolution_unit=2)
    assert read_volume(tmp_path / "scanner.tif").geometry.spacing_mm == (1, 1, 1)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".bmp", ".tif"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_cut_off_picture_is_refused(tmp_path, ending, share):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"a{ending}"
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=r"a\.\w+ is damaged"):
        read_volume(path)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".bmp", ".tif"])
def test_a_text_under_the_name_of_a_picture_is_refused(tmp_path, ending):
    (tmp_path / f"a{ending}").write_text("hello\n" * 100)
    with pytest.raises(InputError, match=r"^[^\n]*is damaged or not a picture, although its name says so\.$"):
        read_volume(tmp_path / f"a{ending}")


def test_a_large_picture_is_read_without_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    Image.fromarray(INDICES).save(tmp_path / "a.png")
    with caplog.at_level(logging.WARNING):
        assert read_volume(tmp_path / "a.png").array.shape == (1, 5, 6)
    assert caplog.text == ""


def test_a_picture_beyond_the_limit_of_pillow_is_still_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    Image.fromarray(INDICES).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.png").array[0], INDICES)
