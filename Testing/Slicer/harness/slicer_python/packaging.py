"""Stand-in for slicer.packaging of Slicer 5.12: the same signatures, but nothing is ever installed."""

import importlib.metadata
import tomllib
from pathlib import Path

import slicer
from packaging.requirements import InvalidRequirement, Requirement

# What was asked for, as (function, requirements, everything else); `missing` names packages to call absent.
calls = []
missing = set()
failures = []


def forget():
    """Start over, for the next test."""
    calls.clear()
    missing.clear()
    failures.clear()


def load_requirements(path):
    """The requirements of a text file; comments and options of pip are left out."""
    lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


def load_pyproject_dependencies(path):
    """The dependencies of a pyproject.toml."""
    data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    if "project" not in data:
        raise KeyError(f"pyproject.toml has no [project] table: {path}")
    return [Requirement(line) for line in data["project"].get("dependencies", [])]


def _to_requirements(wanted):
    if isinstance(wanted, Requirement):
        return [wanted]
    if isinstance(wanted, str):
        try:
            return [Requirement(wanted)]
        except InvalidRequirement:
            return [Requirement(part) for part in wanted.split()]
    return [Requirement(item) if isinstance(item, str) else item for item in wanted]


def pip_check(req, _seen=None):
    """Whether all are installed in versions that suit."""
    return all(_satisfied(requirement) for requirement in _to_requirements(req))


def _satisfied(requirement):
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    if requirement.name in missing:
        return False
    try:
        return importlib.metadata.version(requirement.name) in requirement.specifier
    except importlib.metadata.PackageNotFoundError:
        return False


def isPipInstallInProgress():
    """Nothing is installed here, so never."""
    return False


def pip_ensure(
    requirements,
    constraints=None,
    skip_packages=None,
    prompt_install=True,
    prompt_restart=True,
    requester=None,
    skip_in_testing=True,
    show_progress=True,
):
    """Ask the user, then note what would be installed; RuntimeError where the user declines."""
    wanted = [requirement for requirement in _to_requirements(requirements) if not pip_check(requirement)]
    if not wanted or (skip_in_testing and slicer.app.testingEnabled()):
        return None
    if prompt_install and not slicer.util.confirmOkCancelDisplay(", ".join(map(str, wanted)), requester):
        raise RuntimeError("User declined package installation")
    return pip_install(
        [str(requirement) for requirement in wanted],
        constraints=constraints,
        skip_packages=skip_packages,
        show_progress=show_progress,
        requester=requester,
    )


def pip_install(
    requirements,
    constraints=None,
    no_deps_requirements=None,
    skip_packages=None,
    blocking=True,
    show_progress=True,
    requester=None,
    parent=None,
    logCallback=None,
    completedCallback=None,
):
    """Note what would be installed; what a test put into `failures` is raised, or given as the return code."""
    if skip_packages is not None and (no_deps_requirements is not None or not blocking):
        raise ValueError("skip_packages goes neither with no_deps_requirements nor with blocking=False.")
    options = {"constraints": constraints, "skip_packages": skip_packages, "requester": requester}
    calls.append(("pip_install", requirements, {**options, "blocking": blocking}))
    failure = failures.pop(0) if failures else None
    if blocking and failure is not None:
        raise failure
    if logCallback is not None and not blocking:
        logCallback(f"Collecting {requirements}")
    if failure is None:
        names = requirements.split() if isinstance(requirements, str) else requirements
        missing.difference_update(Requirement(name).name for name in names if not name.startswith("-"))
    if completedCallback is not None and not blocking:
        completedCallback(0 if failure is None else 1)
    return [] if skip_packages is not None else None


def pip_uninstall(requirements, blocking=True, logCallback=None, completedCallback=None):
    """Note what would be removed."""
    calls.append(("pip_uninstall", requirements, {"blocking": blocking}))
    if completedCallback is not None and not blocking:
        completedCallback(0)
