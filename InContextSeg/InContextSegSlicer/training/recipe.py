"""The choices of the training module as the library understands them, and back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from InContextSegLib.config import from_mapping, to_mapping
from InContextSegLib.errors import InputError
from InContextSegLib.examples.weak import KINDS
from InContextSegLib.models.catalog import list_entries
from InContextSegLib.models.entry import CatalogEntry
from InContextSegLib.training.site.datasets import ANY, DataSet, Site

NEW, MIXED = "sricl", "mixed"
# In SiteTraining and its Settings, the library's words for the module's; a test compares them with the library.
TOP = {"model": "model", "size": "size", "weak": "weak", "references": "references", "queries": "queries"}
TRAINING = {
    "steps": "steps", "seed": "seed", "learningRate": "learning_rate", "balance": "balance",
    "validateEvery": "validate_every", "patience": "patience", "saveMemory": "checkpointing",
}  # fmt: skip
LOSSES = ("dice", "dice-cross-entropy", "focal-dice", "structure", "sricl")
CHECKPOINT_EVERY = 25  # steps that are lost at most where Slicer is closed


def trainable() -> list[CatalogEntry]:
    """Entries of the catalogue that can learn further: those whose weights are the extension's or the user's own."""
    return [entry for entry in list_entries() if entry.weights.embedded or entry.weights.own]


def modelChoices() -> list[tuple[str, str]]:
    """Where a training can begin, by value and in words."""
    further = [(entry.name, _("'{name}', trained further").format(name=entry.name)) for entry in trainable()]
    return [(NEW, _("A new network (SR-ICL)")), *further]


def weakChoices() -> list[tuple[str, str]]:
    """What references may be drawn as."""
    words = {
        "full": _("Full outlines"),
        "box": _("Boxes"),
        "points": _("Points"),
        "contour": _("Contours"),
        "scribble": _("Scribbles"),
        MIXED: _("Any of these by chance"),
    }
    return [(kind, words.get(kind, kind)) for kind in (*KINDS, MIXED)]


def lossChoices() -> list[tuple[str, str]]:
    """Losses by name."""
    return [("auto", _("As suits the network")), *((name, name) for name in LOSSES)]


def balanceChoices() -> list[tuple[str, str]]:
    """How tasks are weighed."""
    return [("equal", _("All tasks alike")), ("lagging", _("Tasks that lag behind count more"))]


def setsOf(parameters: Any) -> tuple[DataSet, ...]:
    """The data sets in the list.

    Raises:
        InputError: if a scene holds a list that cannot be read.
    """
    try:
        return tuple(from_mapping(DataSet, each, _("data set")) for each in json.loads(parameters.datasets))
    except (InputError, ValueError, TypeError) as error:
        raise InputError(
            _("The list of data sets in this scene cannot be read ({error}); add them again.").format(error=error)
        ) from error


def textOfSets(sets: Sequence[DataSet]) -> str:
    """As the parameter node keeps them."""
    return json.dumps([to_mapping(each) for each in sets])


def siteOf(parameters: Any) -> Site:
    """The site as it is trained on.

    Raises:
        InputError: if there is no data set yet.
    """
    sets = setsOf(parameters)
    if not sets:
        raise InputError(_("There are no data sets yet; add a folder, a table or what is segmented in the scene."))
    share = round(parameters.validationShare, 6)
    return Site(parameters.site or "our data", sets, share, parameters.splitSeed)


def settingsOf(parameters: Any) -> dict[str, Any]:
    """The settings of the run, as `SiteTraining` reads them."""
    more = json.loads(parameters.more)
    top = {name: getattr(parameters, own) for own, name in TOP.items()}
    training = {name: getattr(parameters, own) for own, name in TRAINING.items()}
    training["learning_rate"] = round(training["learning_rate"], 9)
    usual = {"checkpoint_every": CHECKPOINT_EVERY}
    return {**more, **top, "training": {**usual, **more.get("training", {}), **training, "loss": parameters.loss}}


def isSricl(model: str) -> bool:
    """Whether a training that begins with this model trains an SR-ICL network."""
    return model == NEW or any(entry.name == model and entry.model == "sricl" for entry in list_entries())


def takeOver(parameters: Any, site: Site, settings: Mapping[str, Any]) -> None:
    """Show the choices that a run was begun with.

    Raises:
        InputError: if one of them is beyond what can be chosen here; nothing has changed then.
    """
    training = dict(settings.get("training", {}))
    new = {"site": site.name, "datasets": textOfSets(site.datasets)}
    new |= {"validationShare": site.validation_share, "splitSeed": site.seed}
    new |= {own: settings[name] for own, name in TOP.items() if name in settings}
    new |= {own: training[name] for own, name in TRAINING.items() if name in training}
    rest = {name: value for name, value in settings.items() if name not in TOP.values() and name != "training"}
    inner = {name: value for name, value in training.items() if name not in TRAINING.values() and name != "loss"}
    new |= {"loss": training.get("loss", "auto"), "more": json.dumps({**rest, "training": inner})}
    before = {own: getattr(parameters, own) for own in new}
    try:
        for own, value in new.items():
            setattr(parameters, own, value)
    except (ValueError, TypeError) as error:
        for name, value in before.items():
            setattr(parameters, name, value)
        raise InputError(
            _(
                "{name} is {value}, beyond what can be chosen here; 'incontextseg train-site' takes it. ({error})"
            ).format(name={**TOP, **TRAINING}.get(own, own), value=new[own], error=error)
        ) from error


def namesText(names: Mapping[str, str]) -> str:
    """Names of labels as a person types them: "1 liver, 2 spleen", or "any nucleus"."""
    return ", ".join(f"{value} {name}" for value, name in names.items())


def namesOf(text: str) -> dict[str, str]:
    """What a person typed.

    Raises:
        InputError: if a part is not a value and a name.
    """
    names: dict[str, str] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        value, _space, name = part.replace("=", " ").partition(" ")
        if not (value.isdecimal() or value == ANY) or not name.strip() or value in names:
            raise InputError(
                _(
                    "Labels: asked for values and names, as in: 1 liver, 2 spleen; or: any nucleus; got '{part}'."
                ).format(part=part)
            )
        names[value] = name.strip()
    return names


def unique(name: str, sets: Sequence[DataSet]) -> str:
    """A name that no data set of the list has yet."""
    name = name.replace("/", "-").replace("\\", "-").strip() or "data"
    taken, found, number = {each.name for each in sets}, name, 1
    while found in taken:
        number += 1
        found = f"{name} {number}"
    return found


def nameOfFolder(folder: str) -> str:
    """What to call a data set: a folder called "images" says less than the one it is in."""
    path = Path(folder)
    plain = path.name.lower() in ("images", "image", "img", "imagestr", "data")
    return path.parent.name if plain and path.parent.name else path.name


def changed(sets: Sequence[DataSet], place: int, **changes: Any) -> tuple[DataSet, ...]:
    """The list with one data set changed.

    Raises:
        InputError: if that makes no sense, by name.
    """
    new = replace(sets[place], **changes)
    if any(each.name == new.name for number, each in enumerate(sets) if number != place):
        raise InputError(_("There is a data set '{name}' already; choose another name.").format(name=new.name))
    return (*sets[:place], new, *sets[place + 1 :])
