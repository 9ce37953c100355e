"""Settings: a TOML mapping and its overrides become frozen dataclasses, or a refusal that names the field."""

import copy
import dataclasses
import difflib
import tomllib
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from InContextSegLib.errors import InputError

Settings = TypeVar("Settings")

_SCALARS = {bool: "true or false", int: "an integer", float: "a number", str: "a text", NoneType: "nothing"}


def read_toml(path: str | Path) -> dict[str, Any]:
    """The contents of a TOML file (UTF-8, with or without a byte order mark).

    Raises:
        InputError: if the file is missing, unreadable, not UTF-8 or not TOML.
    """
    path = Path(path)
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: the settings file cannot be read ({error.strerror or error}).") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: the settings file is not UTF-8 text; save it as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: the settings file is not valid TOML: {error}.") from error


def with_overrides(mapping: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `mapping` in which each override, such as "stages.0.steps=100", has replaced one value.

    A number in the path counts list entries from 0. The value is read as TOML; what is not TOML is taken as a text,
    so that quotes may be left out on a command line. Names are checked later, by `from_mapping`.

    Raises:
        InputError: if an override is not of the form path=value, or its path leads nowhere.
    """
    changed = copy.deepcopy(dict(mapping))
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise InputError(f'Override "{override}" must have the form path=value, such as stages.0.steps=100.')
        container: Any = changed
        for key in keys[:-1]:
            container = _entered(container, key, override)
        _replace(container, keys[-1], _parsed(text.strip()), override)
    return changed


def from_mapping(cls: type[Settings], mapping: Mapping[str, Any], where: str) -> Settings:
    """The frozen dataclass `cls` with the values of `mapping`.

    Fields may be bool, int, float, str, Literal, Enum (by its value), other dataclasses, unions of these,
    `tuple[X, ...]`, `tuple[X, Y]` and `dict[str, X]`, or Any, for whoever looks at it later. Of several dataclasses the
    one that has most of the keys is meant. A bool is no int; an int is accepted where a float is asked. Whether a value
    makes sense is for the dataclass to say, by a ValueError from its `__post_init__`.

    Args:
        where: what the mapping is, for the messages: usually the name of the file it was read from.

    Raises:
        InputError: for an unknown or missing key, a value of the wrong type, or a value that the dataclass refuses;
            the message starts with `where` and the path of the field.
    """
    return _dataclass(cls, mapping, _Place(where))


def to_mapping(settings: Any) -> dict[str, Any]:
    """A dataclass as plain dicts, lists and scalars, ready for JSON; `from_mapping` reads it back unchanged.

    Raises:
        TypeError: if a field holds something else.
    """
    return {field.name: _plain(getattr(settings, field.name)) for field in dataclasses.fields(settings) if field.init}


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where in which mapping a value stands, as the user would write it: `recipe.toml`, `stages[1].size`."""

    where: str
    path: str = ""

    def key(self, name: str) -> "_Place":
        return _Place(self.where, f"{self.path}.{name}" if self.path else name)

    def item(self, number: int) -> "_Place":
        return _Place(self.where, f"{self.path}[{number}]")

    def refusal(self, sentence: str) -> InputError:
        return InputError(": ".join(part for part in (self.where, self.path, sentence) if part))


def _converted(annotation: Any, value: Any, place: _Place) -> Any:
    if dataclasses.is_dataclass(annotation):
        return _dataclass(annotation, value, place)
    if annotation in _SCALARS:
        return _scalar(annotation, value, place)
    if annotation is Any:
        return value
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return annotation(_literal(Literal[tuple(choice.value for choice in annotation)], value, place))
    convert = _CONVERTERS.get(get_origin(annotation))
    if convert is None:
        raise TypeError(f"{place.path}: settings of type {annotation} are not supported.")
    return convert(annotation, value, place)


def _dataclass(cls: type[Settings], value: Any, place: _Place) -> Settings:
    if not isinstance(value, Mapping):
        raise _mismatch(cls, value, place)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    hints = get_type_hints(cls)
    for name in value:
        if name not in fields:
            raise place.key(str(name)).refusal(_unknown(str(name), list(fields)))
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in value:
            raise place.key(name).refusal(f"this key is missing; give {_expected(hints[name])}.")
    arguments = {name: _converted(hints[name], entry, place.key(name)) for name, entry in value.items()}
    try:
        return cls(**arguments)
    except ValueError as error:
        raise place.refusal(str(error)) from error


def _scalar(annotation: type, value: Any, place: _Place) -> Any:
    if annotation is float and type(value) is int:
        return float(value)
    if type(value) is not annotation:
        raise _mismatch(annotation, value, place)
    return value


def _literal(annotation: Any, value: Any, place: _Place) -> Any:
    # In Python True == 1 and 1 == 1.0, which a settings file should not rely on.
    if not any(type(value) is type(choice) and value == choice for choice in get_args(annotation)):
        raise _mismatch(annotation, value, place)
    return value


def _union(annotation: Any, value: Any, place: _Place) -> Any:
    if value is None and NoneType in get_args(annotation):
        return None
    members = [member for member in get_args(annotation) if member is not NoneType]
    if len(members) == 1:
        return _converted(members[0], value, place)
    tables = [member for member in members if dataclasses.is_dataclass(member)]
    if tables and isinstance(value, Mapping):
        return _dataclass(max(tables, key=lambda table: len(table.__dataclass_fields__.keys() & value)), value, place)
    for member in sorted(members, key=lambda member: member is not type(value)):
        try:
            return _converted(member, value, place)
        except InputError:
            continue
    raise _mismatch(annotation, value, place)


def _tuple(annotation: Any, value: Any, place: _Place) -> tuple:
    if not isinstance(value, list | tuple):
        raise _mismatch(annotation, value, place)
    members = get_args(annotation)
    if members[-1] is Ellipsis:
        members = members[:1] * len(value)
    if len(value) != len(members):
        raise _mismatch(annotation, value, place)
    return tuple(
        _converted(member, entry, place.item(n)) for n, (member, entry) in enumerate(zip(members, value, strict=True))
    )


def _table(annotation: Any, value: Any, place: _Place) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _mismatch(annotation, value, place)
    member = get_args(annotation)[1]
    return {str(name): _converted(member, entry, place.key(str(name))) for name, entry in value.items()}


_CONVERTERS = {Literal: _literal, Union: _union, UnionType: _union, tuple: _tuple, dict: _table}


def _mismatch(annotation: Any, value: Any, place: _Place) -> InputError:
    return place.refusal(f"expected {_expected(annotation)}, got {_shown(value)}.")


def _expected(annotation: Any) -> str:
    """What to write in the file for a field of this type."""
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    members = get_args(annotation)
    match get_origin(annotation):
        case origin if origin is Literal:
            return " or ".join(_quoted(choice) for choice in members)
        case origin if origin in (Union, UnionType):
            return " or ".join(_expected(member) for member in members if member is not NoneType)
        case origin if origin is tuple:
            return "a list" if members[-1] is Ellipsis else f"a list of {len(members)} values"
    return "a table"


def _shown(value: Any) -> str:
    """What came, in words that also fit a long value into one sentence."""
    match value:
        case bool() | None:
            return _quoted(value)
        case str():
            return f"the text {_quoted(value)}"
        case int() | float():
            return f"the number {value}"
        case list() | tuple():
            return f"a list of {len(value)} values"
        case Mapping():
            return "a table"
    return f"a value of type {type(value).__name__}"


def _quoted(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= 60 else f'"{value[:57]}..."'
    if isinstance(value, bool):
        return str(value).lower()
    return "nothing" if value is None else str(value)


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    advice = f"did you mean {close[0]}?" if close else f"the keys here are {', '.join(known) or 'none'}."
    return f"this key is unknown; {advice}"


def _entered(container: Any, key: str, override: str) -> Any:
    if isinstance(container, dict):
        return container.setdefault(key, {})
    return _entries(container, key, override)[int(key)]


def _replace(container: Any, key: str, value: Any, override: str) -> None:
    if isinstance(container, dict):
        container[key] = value
    else:
        _entries(container, key, override)[int(key)] = value


def _entries(container: Any, key: str, override: str) -> list:
    """`container` if it is a list that has an entry number `key`."""
    if not isinstance(container, list):
        raise InputError(f'Override "{override}": "{key}" stands below {_shown(container)}, which has no entries.')
    if not key.isdecimal() or int(key) >= len(container):
        raise InputError(f'Override "{override}": "{key}" is not an entry of a list that has {len(container)}, from 0.')
    return container


def _parsed(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if parsed.keys() == {"value"} else text


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_mapping(value)
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, Enum):
        return value.value
    if type(value) in _SCALARS:
        return value
    raise TypeError(f"settings cannot be written with a value of type {type(value).__name__}.")
