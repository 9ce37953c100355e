"""Which files of two folders belong together: images and their labels, by stem."""

import logging
from pathlib import Path

from InContextSegLib.errors import InputError
from InContextSegLib.examples.support import listed
from InContextSegLib.volumes.files import READABLE, ending_of

logger = logging.getLogger(__name__)


def paired_files(images_dir: Path, labels_dir: Path) -> list[tuple[Path, Path]]:
    """Return (image, label) files of two folders that agree in their stem, sorted by it.

    Hidden files and files that hold no image (by their ending) are passed over.

    Raises:
        InputError: if a folder is missing or holds no image, two files share a stem, or a partner is missing.
    """
    images, labels = _by_stem(images_dir), _by_stem(labels_dir)
    for held, partners, folder in ((images, labels, labels_dir), (labels, images, images_dir)):
        alone = [held[stem].name for stem in sorted(held.keys() - partners.keys())]
        if alone:
            raise InputError(
                f"Every image needs a label file of the same stem, but {listed(alone)} has no partner in {folder}; "
                "add or rename the partner, or move the file away."
            )
    return [(images[stem], labels[stem]) for stem in sorted(images)]


def _by_stem(folder: Path) -> dict[str, Path]:
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"Images were expected in the folder {folder}, but there is no such folder.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        ending = ending_of(path)
        if ending not in READABLE or path.name.startswith(".") or not path.is_file():
            logger.info("Passing over %s, which is no image file.", path)
            continue
        stem = path.name[: -len(ending)]
        if stem in found:
            raise InputError(f"{found[stem].name} and {path.name} in {folder} share a stem; keep one of them.")
        found[stem] = path
    if not found:
        raise InputError(f"Images were expected in the folder {folder}, but it holds none.")
    return found
