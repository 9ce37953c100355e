"""Checks `.ui` files against what the classes of Qt, CTK and Slicer really have: a loader here would not notice."""

import tomllib
from collections import Counter
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from xml.etree import ElementTree

CLASSES = tomllib.loads(Path(__file__).with_name("widgets.toml").read_text(encoding="utf-8"))
DYNAMIC = {"SlicerParameterName"}
TAGS = {"widget": "QWidget", "layout": "QVBoxLayout", "spacer": "Spacer"}


def checkUi(path: str | PathLike) -> list[str]:
    """What Slicer would refuse or ignore in a `.ui` file, one sentence each; an empty list where all is well."""
    root = ElementTree.parse(path).getroot()
    elements = [element for element in root.iter() if element.tag in TAGS]
    named = {element.get("name"): _class(element) for element in elements}
    complaints = [*_names(elements), *_declarations(root, set(named.values()))]
    for element in elements:
        complaints.extend(_element(element))
    for connection in root.iter("connection"):
        complaints.extend(_connection(connection, named))
    return complaints


def members(cls: str, kind: str) -> set[str]:
    """Properties, signals or slots of a class with those it inherits."""
    entry = CLASSES[cls]
    inherited = members(entry["inherits"], kind) if "inherits" in entry else set()
    return inherited | set(entry.get(kind, ()))


def _class(element) -> str:
    return element.get("class", TAGS[element.tag])


def _names(elements) -> Iterator[str]:
    for name, times in Counter(element.get("name") for element in elements).items():
        if not name or times > 1:
            yield f"{times} elements are called {name}; give each a name of its own, the panel finds them by it."


def _declarations(root, used) -> Iterator[str]:
    declared = {custom.findtext("class"): custom.findtext("header") for custom in root.iter("customwidget")}
    for cls in sorted(cls for cls in used if not cls.startswith("Q") and cls != "Spacer"):
        if declared.get(cls) != f"{cls}.h":
            yield f"{cls} is not declared with the header {cls}.h; add it to <customwidgets>."
    for cls in sorted(set(declared) - used):
        yield f"{cls} is declared but not used; remove it from <customwidgets>."


def _element(element) -> Iterator[str]:
    cls = _class(element)
    where = f"{cls} {element.get('name')}"
    if cls not in CLASSES:
        yield f"{where}: the class is not in widgets.toml; add it from its header, with a stand-in, or use another."
        return
    known = members(cls, "properties")
    for entry in element.findall("property"):
        name = entry.get("name")
        if name in DYNAMIC:
            if entry.get("stdset") != "0":
                yield f'{where}: {name} is a dynamic property; write it with stdset="0".'
        elif name not in known:
            yield f"{where}: there is no property {name}."


def _connection(connection, named) -> Iterator[str]:
    ends = (("sender", "signal", "signals"), ("receiver", "slot", "slots"))
    for who, what, kind in ends:
        name, signature = connection.findtext(who), connection.findtext(what)
        cls = named.get(name)
        if cls is None:
            yield f"A connection names the {who} {name}, which the file does not have."
        elif cls in CLASSES and signature not in members(cls, kind):
            yield f"{cls} {name}: there is no {what} {signature}."
