"""What is to be known of one model that can be chosen: what it takes, where its weights lie, under which licence."""

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

PROMPTS = {"click": "clicks", "box": "boxes", "scribble": "scribbles"}  # in the singular and the plural


@dataclass(frozen=True)
class Capability:
    """What a model takes: the edge of its square input in pixels, whether it needs labelled examples, which prompts.

    `any_view`: whether pictures may be shown to it mirrored or in part; not where it learnt from whole ones only.
    """

    input_size: int
    support: Literal["required", "optional", "unused"]
    prompts: tuple[Literal["click", "box", "scribble"], ...] = ()
    any_view: bool = True

    def __post_init__(self):
        if self.input_size < 1:
            raise ValueError(f"input_size must be 1 pixel or more, not {self.input_size}.")

    @property
    def taken(self) -> str:
        """What it takes, in words: "clicks, boxes and labelled examples"."""
        taken = [PROMPTS[kind] for kind in self.prompts]
        taken += ["labelled examples"] if self.support != "unused" else []
        return " and ".join([", ".join(taken[:-1]), taken[-1]] if taken[1:] else taken)


@dataclass(frozen=True)
class Weights:
    """Where weights come from: a `file` inside this package, a `url` fetched on request, or a `path` of the user's own.

    `size_bytes` is what to tell the user before a download; about right is enough. Without a `sha256` the first
    download of a url is trusted and its hash pinned.
    """

    file: str | None = None
    url: str | None = None
    path: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None

    def __post_init__(self):
        if sum(place is not None for place in (self.file, self.url, self.path)) != 1:
            raise ValueError("weights need either a file, a url or a path.")
        if self.url is None and self.sha256 is None:
            raise ValueError("weights that are not fetched need their sha256.")
        if self.file is not None and PurePosixPath(self.file).name != self.file:
            raise ValueError(f'file must be a plain file name, not "{self.file}".')
        if self.url is not None and not (self.url.startswith("https://") and self.filename):
            raise ValueError(f'url must start with https:// and end in a file name, not "{self.url}".')
        if self.path is not None and not Path(self.path).is_absolute():
            raise ValueError(f'path must be a whole path, not "{self.path}".')
        if self.sha256 is not None and not is_sha256(self.sha256):
            raise ValueError(f'sha256 must be 64 lower-case hexadecimal digits, not "{self.sha256}".')
        if self.size_bytes is not None and self.size_bytes < 1:
            raise ValueError(f"size_bytes must be 1 or more, not {self.size_bytes}.")

    @property
    def embedded(self) -> bool:
        """Whether the weights come with the package."""
        return self.file is not None

    @property
    def own(self) -> bool:
        """Whether they are a user's: nobody can fetch them again."""
        return self.path is not None

    @property
    def filename(self) -> str:
        """The name of the file, without a folder."""
        if self.path is not None:
            return Path(self.path).name
        return self.file or PurePosixPath(urlsplit(self.url).path).name


@dataclass(frozen=True)
class CatalogEntry:
    """One model one can choose: what to build, with which weights, under which licence.

    `clicks` names the model that answers clicks, boxes and scribbles, and carries on what was corrected, in its place.
    """

    name: str
    description: str
    model: str
    capability: Capability
    weights: Weights
    licence: str
    citation: str
    arguments: dict[str, bool | int | float | str | tuple[int, ...]] = field(default_factory=dict)
    clicks: str | None = None


def is_sha256(text: str) -> bool:
    """Whether a text is a SHA-256 in lower-case hexadecimal digits."""
    return re.fullmatch("[0-9a-f]{64}", text) is not None
