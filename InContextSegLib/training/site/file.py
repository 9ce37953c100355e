"""Writes a site as the TOML file that `read_site` understands."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from InContextSegLib.training.site.datasets import DataSet, Site
from InContextSegLib.volumes.files import write_text


def write_site(path: str | Path, site: Site) -> None:
    """Write a site, with the paths it has, whole or not at all.

    Raises:
        OutputError: if it could not be written.
    """
    write_text(path, text_of(site))


def text_of(site: Site) -> str:
    """The site as TOML; of data sets only what is not as usual."""
    top = {field.name: getattr(site, field.name) for field in dataclasses.fields(site) if field.name != "datasets"}
    lines = [f"{name} = {_toml(value)}" for name, value in top.items()]
    for each in site.datasets:
        lines += ["", "[[datasets]]"]
        for field in dataclasses.fields(DataSet):
            value = getattr(each, field.name)
            usual = {} if field.default is dataclasses.MISSING and field.name == "names" else field.default
            if value != usual:
                lines.append(f"{field.name} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml(str(name))} = {_toml(each)}" for name, each in value.items()) + " }"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    # A text of JSON is one of TOML but for one character, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
