"""Examples of a validation as a picture: the label and the answer as outlines over the slice."""

import numpy as np
import pytest
from PIL import Image

from InContextSegLib.errors import OutputError
from InContextSegLib.training.site.examples import ANSWER, LABEL, Shown, _short, draw_examples


def shown(label, answer, name="a/organ"):
    masks = np.zeros((2, 32, 32), bool)
    for mask, column in zip(masks, (label, answer), strict=True):
        mask[8:24, column : column + 8] = True
    return Shown(name, np.full((32, 32), 0.5, np.float32), *masks, dice=0.25)


def size_of(path):
    with Image.open(path) as picture:
        return picture.size


def pixels(path, colour):
    with Image.open(path) as opened:
        picture = np.asarray(opened.convert("RGB"))
    inside = (picture == tuple(bytes.fromhex(colour[1:]))).all(axis=2)
    inside[:26] = False  # the legend
    return np.argwhere(inside)


def test_label_and_answer_are_outlined_where_they_are(tmp_path):
    draw_examples(tmp_path / "examples.png", [shown(4, 20)], step=7)
    label, answer = (pixels(tmp_path / "examples.png", colour) for colour in (LABEL, ANSWER))
    assert label[:, 1].min() >= 6 + 128 * 4 / 32
    assert label[:, 1].max() < 6 + 128 * 12 / 32
    assert answer[:, 1].min() >= 6 + 128 * 20 / 32 and answer[:, 1].max() < 6 + 128 * 28 / 32
    assert len(answer) > len(label) > 100, "the label's outline is dashed"


def test_no_more_slices_are_drawn_than_can_be_seen_and_long_names_are_cut(tmp_path):
    draw_examples(tmp_path / "few.png", [shown(4, 20)] * 2, step=1)
    draw_examples(tmp_path / "many.png", [shown(4, 20, "a very long name of a data set/and of an organ")] * 20, step=1)
    assert size_of(tmp_path / "few.png") == (274, 176)
    assert size_of(tmp_path / "many.png") == (408, 326)


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(OutputError, match="could not be written"):
        draw_examples(tmp_path / "no folder" / "examples.png", [shown(4, 4)], step=1)
    assert list(tmp_path.iterdir()) == []


def test_a_long_name_gives_way_to_its_label_where_that_tells_the_tasks_apart():
    long, other = "fetal heads of a clinic/head", "kidneys in MR of a clinic/kidney"
    assert _short("short/head", {"short/head"}) == "short/head"
    assert _short(long, {long, other}) == "head"
    assert _short(long, {long, "others/head"}).startswith("…") and _short(long, {long, "others/head"}).endswith("/head")
    assert len(_short(f"set/{'x' * 40}", {f"set/{'x' * 40}"})) <= 17
