"""The picture of expected against actual Dice."""

import hashlib

import pytest
from PIL import Image

from InContextSegLib.errors import OutputError
from InContextSegLib.evaluation.scatter import Dot, draw_expected

DOTS = [Dot("a: head", 4, 0.8, 0.75), Dot("a: head", 16, 0.85, 0.86), Dot("b: $vessel", 16, 0.3, 0.7)]


def test_the_same_dots_are_the_same_picture(tmp_path):
    for name in ("one", "two"):
        draw_expected(tmp_path / f"{name}.png", DOTS)
    one, two = ((tmp_path / f"{name}.png").read_bytes() for name in ("one", "two"))
    assert hashlib.sha256(one).digest() == hashlib.sha256(two).digest()
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.size == (768, 720)


def test_no_dots_are_an_empty_picture(tmp_path):
    draw_expected(tmp_path / "none.png", [])
    assert (tmp_path / "none.png").is_file()


def test_a_picture_that_cannot_be_written_is_said(tmp_path):
    with pytest.raises(OutputError, match="could not be written"):
        draw_expected(tmp_path / "missing" / "p.png", DOTS)
