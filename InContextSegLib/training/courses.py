"""From a recipe file to a course: which network learns, and from what."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from InContextSegLib.config import from_mapping
from InContextSegLib.errors import InputError
from InContextSegLib.models.loading import pretrained_backbone
from InContextSegLib.training.episodic.course import OpenTasks
from InContextSegLib.training.episodic.open_data import load_open_data, read_open_data
from InContextSegLib.training.recipe import EpisodicRecipe, Recipe
from InContextSegLib.training.synthetic.course import InventedTasks
from InContextSegLib.training.trainer import Course


def course_of(mapping: Mapping[str, Any], path: Path, data: Path | None) -> Course:
    """The course that a recipe asks for: of a UniverSeg where it describes one, else of the in-context network.

    Args:
        mapping: the recipe.
        path: its file, beside which it may name a list of open data.
        data: the folder in which these lie.

    Raises:
        InputError: if the recipe makes no sense, or data are asked for and not named or not there.
    """
    if "architecture" in mapping:
        return InventedTasks(from_mapping(Recipe, mapping, str(path)))
    recipe = from_mapping(EpisodicRecipe, mapping, str(path))
    sets = []
    if recipe.open_data:
        if data is None:
            raise InputError(f"{path} trains on open data ({recipe.open_data}); name their folder with --data.")
        sets = load_open_data(read_open_data(path.parent / recipe.open_data), data)
    return OpenTasks(recipe, sets, pretrained_backbone())
