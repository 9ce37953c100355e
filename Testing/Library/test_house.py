"""The house rules that a linter does not know: sizes, first sentences, directions of import, and what gets shipped."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import InContextSegLib

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "InContextSegLib"
FOLDERS = ("InContextSegLib", "InContextSeg", "Testing", "docs")
PYTHON_FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

LINES_PER_FILE = 450
LINES_PER_FUNCTION = 60
PARAMETERS = 7

HEAVY = ("torch", "einops", "safetensors", "nibabel", "skimage", "qt", "slicer")


def read(path):
    return path.read_text(encoding="utf-8")


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def functions(path):
    return [
        node for node in ast.walk(ast.parse(read(path))) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def parameters(function):
    taken = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return [name for name in taken if name not in ("self", "cls")]


def test_no_file_is_longer_than_a_chapter():
    assert [name_of(path) for path in PYTHON_FILES if len(read(path).splitlines()) > LINES_PER_FILE] == []


def test_no_function_is_longer_than_a_screen():
    too_long = [
        f"{name_of(path)}: {function.name}"
        for path in PYTHON_FILES
        for function in functions(path)
        if function.end_lineno - function.lineno + 1 > LINES_PER_FUNCTION
    ]
    assert too_long == []


def test_no_function_of_the_project_takes_more_than_seven_arguments():
    too_many = [
        f"{name_of(path)}: {function.name}"
        for path in PYTHON_FILES
        if not path.is_relative_to(ROOT / "Testing")
        for function in functions(path)
        if len(parameters(function)) > PARAMETERS
    ]
    assert too_many == []


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.py")), ids=name_of)
def test_a_module_of_the_library_starts_with_one_sentence(path):
    docstring = ast.get_docstring(ast.parse(read(path)))
    assert docstring, f"{name_of(path)} has no docstring"
    opening = docstring.split("\n\n")[0]
    assert opening.endswith(".") and not re.search(r"[.!?]\s+[A-Z]", opening), opening


def torch_free():
    """The modules of the library that need no torch, by the import contract."""
    settings = tomllib.loads(read(ROOT / "pyproject.toml"))["tool"]["importlinter"]
    (named,) = [
        each["source_modules"] for each in settings["contracts"] if "torch" in each.get("forbidden_modules", ())
    ]
    return {name for name in every_module() if any(f"{name}.".startswith(f"{each}.") for each in named)}


def every_module():
    paths = [path.relative_to(ROOT).with_suffix("") for path in LIBRARY.rglob("*.py")]
    return {".".join(path.parts).removesuffix(".__init__") for path in paths}


def test_what_the_panel_imports_does_not_import_torch():
    script = f"import sys, {', '.join(sorted(torch_free()))}; print(*[name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "", "")


def test_what_the_slicer_side_imports_is_named_in_the_contract_without_torch():
    modules, imported = every_module(), set()
    for path in (ROOT / "InContextSeg").rglob("*.py"):
        for node in ast.walk(ast.parse(read(path))):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "InContextSegLib":
                named = {f"{node.module}.{alias.name}" for alias in node.names}
                imported |= named & modules or {node.module}
    assert len(imported) > 10
    assert imported - torch_free() == set()


def test_imports_point_downwards():
    script = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    result = subprocess.run(
        [sys.executable, "-c", script, "--no-cache"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "InContextSeg")},
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_extension_ships_every_file_of_the_library_and_names_no_other():
    lists = dict(re.findall(r"set\((\w+)\s+([^)]*?)\s*\)", read(LIBRARY / "CMakeLists.txt")))
    scripts, resources = (set(lists[f"InContextSegLib_{kind}"].split()) for kind in ("SCRIPTS", "RESOURCES"))
    assert scripts == {path.relative_to(LIBRARY).as_posix() for path in LIBRARY.rglob("*.py")}
    data = [path for pattern in ("*.toml", "weights/*") for path in LIBRARY.glob(pattern) if path.is_file()]
    assert resources == {path.relative_to(LIBRARY).as_posix() for path in data}


def test_the_extension_metadata_stands_on_single_lines():
    text = read(ROOT / "CMakeLists.txt")
    for key in ("HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"):
        assert re.search(rf'^set\(EXTENSION_{key} "[^"\n]+"\)$', text, re.MULTILINE), key


def pinned(lock):
    lines = [line for line in read(ROOT / lock).splitlines() if not line.startswith("#")]
    matches = [re.fullmatch(r"([\w.-]+)==[\w.]+", line) for line in lines]
    assert all(matches), f"{lock}: only lines of the form name==version"
    return {match[1].lower().replace("_", "-") for match in matches}


def test_the_lock_pins_every_dependency_to_one_version():
    names = pinned("requirements.lock")
    project = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    assert {re.match(r"[\w-]+", line)[0].lower() for line in asked} <= names


def test_what_the_slicer_tests_add_is_pinned_too_and_only_once():
    assert {"slicer-core", "vtk", "pyside6-essentials", "shiboken6", "cmake"} == pinned("requirements-slicer.lock")
    assert not pinned("requirements-slicer.lock") & pinned("requirements.lock")


def test_what_the_pages_add_is_pinned_too_and_only_once():
    names = pinned("requirements-docs.lock")
    asked = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]["docs"]
    assert {re.match(r"[\w-]+", line)[0].lower() for line in asked} <= names
    assert not names & (pinned("requirements.lock") | pinned("requirements-slicer.lock"))


def test_the_version_is_the_same_in_the_package_and_its_metadata():
    assert tomllib.loads(read(ROOT / "pyproject.toml"))["project"]["version"] == InContextSegLib.__version__
