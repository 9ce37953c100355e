"""A Slicer without its desktop: the real MRML scene of slicer-core below stand-ins for Qt, CTK and qMRML on PySide6."""

import importlib.metadata
import sys

# Names that PySide6 knows and Qt 5.15, with which Slicer is built, does not.
NEWER_THAN_SLICER = {"checkStateChanged", "globalPosition", "labelDrawingMode", "accessibleIdentifier"}


def missing() -> str:
    """Why the harness cannot run here, as one sentence; empty where it can."""
    versions = {}
    for package in ("slicer-core", "PySide6-Essentials"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return f"{package} is not installed; `make test` installs it, or pip install -r requirements-slicer.lock"
    return wrong_pair(versions["PySide6-Essentials"], sys.version_info[:2])


def wrong_pair(pyside: str, python: tuple[int, int]) -> str:
    """Why this PySide6 must not run on this Python; empty where it may."""
    if tuple(int(part) for part in pyside.split(".")[:2]) >= (6, 12) and python <= (3, 11):
        return (
            f"PySide6 {pyside} corrupts None's reference count on Python {python[0]}.{python[1]}; "
            "pip install -r requirements-slicer.lock, or use Python 3.12"
        )
    return ""
