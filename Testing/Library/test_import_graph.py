"""The rooms of the house: imports between them point downwards, in no circle, and none of them is overcrowded."""

import graphlib
from functools import cache

import pytest

from Testing import import_graph
from Testing.import_graph import FILES_PER_FOLDER, PACKAGES, House, circle_in, crowded, layers_of

imports_of = cache(import_graph.imports_of)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_points_upwards(package):
    house = House.of(imports_of(package))
    assert house.upwards(layers_of(package)) == []
    assert len(house.floors()) <= len(layers_of(package))


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_import_one_another_in_a_circle(package):
    assert circle_in(imports_of(package)) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_folder_is_overcrowded(package):
    assert crowded(PACKAGES[package] / package) == []


def test_an_import_upwards_or_to_a_neighbour_is_named():
    imports = frozenset({("p.a.x", "p.b"), ("p.b", "p.a.y"), ("p.c", "p.b"), ("p.a.x", "p.a.y"), ("p", "p.a.x")})
    house = House.of(imports)
    assert house.rooms == ("a", "b", "c")
    assert house.upwards(["c", "a", "b"]) == [("p.b", "p.a.y")]
    assert house.upwards(["a", "b | c"]) == [("p.b", "p.a.y"), ("p.c", "p.b")]
    with pytest.raises(graphlib.CycleError):
        house.floors()


def test_floors_are_as_high_as_the_longest_way_down():
    house = House.of(frozenset({("p.a", "p.b"), ("p.b", "p.c"), ("p.a", "p.c"), ("p.d", "p.c")}))
    assert house.floors() == (("c",), ("b", "d"), ("a",))


def test_a_circle_is_found():
    assert circle_in(frozenset({("p.a", "p.b"), ("p.b", "p.c")})) == []
    assert set(circle_in(frozenset({("p.a", "p.b"), ("p.b", "p.a"), ("p.b", "p.c")}))) == {"p.a", "p.b"}


def test_a_file_too_many_is_noticed(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    for number in range(FILES_PER_FOLDER):
        (inside / f"{number}.py").touch()
    (inside / "__init__.py").touch()
    assert crowded(tmp_path) == []
    (inside / "more.py").touch()
    assert crowded(tmp_path) == [inside]
