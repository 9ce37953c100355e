"""Settings come out of TOML exactly, or are refused with the name of the field."""

import json
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

import pytest

from InContextSegLib.config import from_mapping, read_toml, to_mapping, with_overrides
from InContextSegLib.errors import InputError


@dataclass(frozen=True)
class Stage:
    steps: int
    rate: float = 1e-3
    size: int = 64

    def __post_init__(self):
        if self.size % 8:
            raise ValueError(f"size must be a multiple of 8, not {self.size}.")


@dataclass(frozen=True)
class Recipe:
    name: str
    stages: tuple[Stage, ...] = ()
    optimiser: Literal["adam", "sgd"] = "adam"
    window: tuple[float, float] | None = None
    flip: bool = False
    first: Stage | None = None
    clip: float | Literal["off"] = "off"
    arguments: dict[str, bool | int | float | str] = field(default_factory=dict)
    derived: int = field(default=7, init=False)


def recipe(**values):
    return from_mapping(Recipe, {"name": "a", **values}, "recipe.toml")


def test_a_nested_mapping_becomes_frozen_settings():
    settings = recipe(stages=[{"steps": 10}, {"steps": 20, "size": 128}], window=[-160, 240], first={"steps": 1})
    assert settings == Recipe(name="a", stages=(Stage(10), Stage(20, size=128)), window=(-160.0, 240.0), first=Stage(1))


def test_what_the_mapping_leaves_out_keeps_its_default():
    assert recipe() == Recipe("a")


def test_an_integer_is_accepted_for_a_float_and_becomes_one():
    rate = recipe(stages=[{"steps": 1, "rate": 1}]).stages[0].rate
    assert rate == 1.0 and isinstance(rate, float)


def test_a_union_keeps_the_type_that_was_written():
    arguments = recipe(arguments={"width": 64, "slope": 0.5, "cross": True, "name": "x"}).arguments
    assert {key: type(value) for key, value in arguments.items()} == {
        "width": int,
        "slope": float,
        "cross": bool,
        "name": str,
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stages": [{"steps": 1}, {"size": "9"}]}, r"stages\[1\]\.steps: this key is missing"),
        ({"stages": [{"steps": 1, "size": "9"}]}, r'stages\[0\]\.size: expected an integer, got the text "9"'),
        ({"stages": [{"steps": True}]}, r"stages\[0\]\.steps: expected an integer, got true"),
        ({"stages": [{"steps": 1.5}]}, r"stages\[0\]\.steps: expected an integer, got the number 1.5"),
        ({"stages": [{"steps": 1, "rate": False}]}, r"stages\[0\]\.rate: expected a number, got false"),
        ({"stages": [{"steps": 1, "rate": None}]}, r"stages\[0\]\.rate: expected a number, got nothing"),
        ({"stages": [3]}, r"stages\[0\]: expected a table, got the number 3"),
        ({"stages": {"steps": 1}}, r"stages: expected a list, got a table"),
        ({"stages": [{}]}, r"stages\[0\]\.steps: this key is missing; give an integer"),
        ({"stages": [{"steps": 1, "size": 20}]}, r"stages\[0\]: size must be a multiple of 8, not 20"),
        ({"stages": [{"steps": 1, "sise": 8}]}, r"stages\[0\]\.sise: this key is unknown; did you mean size\?"),
        ({"zzz": 1}, r"zzz: this key is unknown; the keys here are name, stages"),
        ({"derived": 1}, r"derived: this key is unknown"),
        ({"flip": 1}, r"flip: expected true or false, got the number 1"),
        ({"optimiser": "adamw"}, r'optimiser: expected "adam" or "sgd", got the text "adamw"'),
        ({"window": [1]}, r"window: expected a list of 2 values, got a list of 1 values"),
        ({"window": [1, "x"]}, r'window\[1\]: expected a number, got the text "x"'),
        ({"clip": "on"}, r'clip: expected a number or "off", got the text "on"'),
        ({"arguments": [1]}, r"arguments: expected a table, got a list of 1 values"),
        ({"arguments": {"width": [1]}}, r"arguments\.width: expected true or false or an integer or a number"),
        ({"name": "x", "first": {"steps": 1, "size": 9}}, r"first: size must be a multiple of 8, not 9"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_file_and_field(values, message):
    with pytest.raises(InputError, match=rf"^recipe\.toml: {message}"):
        recipe(**values)


def test_a_long_text_is_shortened_in_the_message():
    with pytest.raises(InputError, match=r'got the text "x{57}\.\.\."\.$'):
        recipe(stages="x" * 5000)


def test_a_value_of_a_foreign_type_is_refused_by_its_name(tmp_path):
    (tmp_path / "dated.toml").write_text("name = 2024-01-01", encoding="utf-8")
    with pytest.raises(InputError, match=r"name: expected a text, got a value of type date"):
        from_mapping(Recipe, read_toml(tmp_path / "dated.toml"), "dated.toml")


def test_an_annotation_that_settings_cannot_have_is_our_own_mistake():
    @dataclass(frozen=True)
    class Odd:
        values: set[int]

    with pytest.raises(TypeError, match=r"values: settings of type set\[int\] are not supported"):
        from_mapping(Odd, {"values": [1]}, "odd")
    with pytest.raises(TypeError, match="cannot be written with a value of type set"):
        to_mapping(Odd({1}))


def test_settings_survive_the_way_through_json():
    settings = recipe(stages=[{"steps": 10}], window=[0, 80], first={"steps": 1}, arguments={"width": 32})
    written = json.loads(json.dumps(to_mapping(settings)))
    assert from_mapping(Recipe, written, "record.json") == settings
    assert "derived" not in written


def test_overrides_replace_values_and_leave_the_original_alone():
    original = {"name": "a", "stages": [{"steps": 10}]}
    changed = with_overrides(
        original,
        ["stages.0.steps=100", "name=liver", "stages.0.rate = 0.5", "first.steps=3", "window=[0, 1]", "flip=true"],
    )
    assert original == {"name": "a", "stages": [{"steps": 10}]}
    assert from_mapping(Recipe, changed, "recipe.toml") == Recipe(
        "liver", (Stage(100, 0.5),), window=(0.0, 1.0), flip=True, first=Stage(3)
    )


def test_an_override_can_replace_a_whole_entry_of_a_list():
    assert with_overrides({"sizes": [1, 2]}, ["sizes.1=5"]) == {"sizes": [1, 5]}


def test_an_override_keeps_an_equals_sign_and_line_breaks_inside_its_value():
    assert with_overrides({}, ["name=a=b", "other=1\nthird=2"]) == {"name": "a=b", "other": "1\nthird=2"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages", "must have the form path=value"),
        ("=3", "must have the form path=value"),
        ("stages..steps=3", "must have the form path=value"),
        ("stages.2.steps=3", '"2" is not an entry of a list that has 1, from 0'),
        ("stages.first=3", '"first" is not an entry of a list that has 1'),
        ("stages.-1.steps=3", '"-1" is not an entry of a list that has 1'),
        ("name.x.y=3", '"x" stands below the text "a", which has no entries'),
    ],
)
def test_an_override_that_leads_nowhere_is_refused(override, message):
    with pytest.raises(InputError, match=message):
        with_overrides({"name": "a", "stages": [{"steps": 1}]}, [override])


def test_a_toml_file_is_read_with_or_without_a_byte_order_mark(tmp_path):
    for mark in ("", "\ufeff"):
        path = tmp_path / "größe.toml"
        path.write_text(f'{mark}name = "Größe"\r\n', encoding="utf-8")
        assert read_toml(path) == {"name": "Größe"}


def test_a_settings_file_that_cannot_be_used_is_refused_by_name(tmp_path):
    bad = tmp_path / "bad.toml"
    with pytest.raises(InputError, match=r"bad\.toml: the settings file cannot be read \(No such file"):
        read_toml(bad)
    bad.write_bytes("name = 'Größe'".encode("latin-1"))
    with pytest.raises(InputError, match=r"bad\.toml: the settings file is not UTF-8"):
        read_toml(bad)
    bad.write_text("a = 1\na = 2\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"bad\.toml: the settings file is not valid TOML: .*line 2"):
        read_toml(bad)


class Side(Enum):
    LEFT = "left"
    RIGHT = "right"


@dataclass(frozen=True)
class Circle:
    radius: float


@dataclass(frozen=True)
class Rectangle:
    width: float
    height: float


@dataclass(frozen=True)
class Drawing:
    side: Side
    shape: Circle | Rectangle


def test_an_enumeration_travels_by_its_value():
    drawing = from_mapping(Drawing, {"side": "left", "shape": {"radius": 2}}, "d")
    assert drawing == Drawing(Side.LEFT, Circle(2.0))
    assert to_mapping(drawing) == {"side": "left", "shape": {"radius": 2.0}}
    with pytest.raises(InputError, match='d: side: expected "left" or "right", got the text "up"'):
        from_mapping(Drawing, {"side": "up", "shape": {"radius": 2}}, "d")


def test_of_several_tables_the_one_with_most_of_the_keys_is_meant():
    assert from_mapping(Drawing, {"side": "left", "shape": {"width": 1, "height": 2}}, "d").shape == Rectangle(1.0, 2.0)
    with pytest.raises(InputError, match=r"d: shape\.height: this key is missing"):
        from_mapping(Drawing, {"side": "left", "shape": {"width": 1}}, "d")
