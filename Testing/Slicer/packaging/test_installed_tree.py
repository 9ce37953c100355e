"""What CMake would install of the extension, assembled without Slicer, holds what it should and runs from there."""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from Testing.Slicer import harness

ROOT = Path(__file__).resolve().parents[3]
MODULE, LIBRARY = ROOT / "InContextSeg", ROOT / "InContextSegLib"
SLICER = Path(__file__).parent
FLAT = Path("lib") / "Slicer-5.12" / "qt-scripted-modules"

# Runs in a Python that knows neither the project's folder nor what pip installed as editable.
START = """
import sys
sys.path[:0] = [{harness!r}]
sys.path.append({packages!r})
from Testing.Slicer.harness import app
app.start()
import slicer
slicer.app.testing = True
panel = app.open_panel(app.load_module({module!r}))
app.close_panel(panel)
for name in sorted(sys.modules):
    if name.startswith("InContextSeg"):
        print(name, sys.modules[name].__file__)
"""


def cmake():
    """CMake of the environment, else of the system; the test is skipped where there is none."""
    beside = Path(sys.executable).parent
    found = shutil.which("cmake", path=str(beside)) or shutil.which("cmake")
    if found is None:
        pytest.skip("no cmake; `make test` installs it")
    if sys.platform == "linux" and not (shutil.which("cc") and shutil.which("c++")):
        pytest.skip("no compiler, which CMake looks for although nothing is compiled; install gcc and g++")
    return found


def run(*command, cwd):
    result = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def configure(source, build):
    options = ["-DBUILD_TESTING=ON", f"-DSlicer_DIR={SLICER.as_posix()}"]
    return [cmake(), "-Wno-unused-cli", "-S", source, "-B", build, *options]


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def shipped(folder, *patterns):
    found = (path for pattern in patterns for path in folder.rglob(pattern) if path.is_file())
    return {path.relative_to(folder).as_posix() for path in found if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder where CMake has configured the extension."""
    folder = tmp_path_factory.mktemp("build")
    run(*configure(ROOT, folder), cwd=folder)
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The folder into which the extension was installed."""
    folder = tmp_path_factory.mktemp("installed")
    run(cmake(), "--install", built, "--prefix", folder, cwd=built)
    return folder


def loaded_from(module, tmp_path):
    """Where the parts of the project come from once a panel has been opened: {name: file}."""
    reason = harness.missing()
    if reason:
        pytest.skip(reason)
    copy = tmp_path / "elsewhere" / "Testing" / "Slicer" / "harness"
    shutil.copytree(Path(harness.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    packages = sysconfig.get_paths()["purelib"]
    script = START.format(harness=str(tmp_path / "elsewhere"), packages=packages, module=str(module))
    # -S leaves out editable installations, -E the project's folder in PYTHONPATH.
    output = run(sys.executable, "-S", "-E", "-B", "-c", script, cwd=tmp_path)
    return dict(line.split(" ", 1) for line in output.splitlines())


def test_the_installed_tree_holds_exactly_the_files_of_the_extension(installed):
    module = shipped(MODULE, "*.py", "Resources/**/*")
    library = {f"InContextSegLib/{name}" for name in shipped(LIBRARY, "*.py", "*.toml", "weights/*")}
    expected = {(FLAT / name).as_posix() for name in module | library}
    assert files(installed) == expected | {"share/Slicer-5.12/InContextSeg.s4ext"}


def test_the_installed_files_are_those_of_the_source(installed):
    for name in shipped(MODULE, "*.py", "Resources/**/*"):
        assert (installed / FLAT / name).read_bytes() == (MODULE / name).read_bytes()


def test_what_lies_flat_beside_other_extensions_carries_the_name_of_this_one(installed):
    top = [path.name for path in (installed / FLAT).iterdir()]
    resources = [path.name for path in (installed / FLAT / "Resources").rglob("*") if path.is_file()]
    assert all(
        name.startswith(("InContextSeg", "SegmentEditorInContextSeg"))
        for name in [*top, *resources]
        if name != "Resources"
    )


def test_the_panel_opens_from_the_installed_tree(installed, tmp_path):
    found = loaded_from(installed / FLAT / "InContextSeg.py", tmp_path)
    assert {"InContextSeg", "InContextSegSlicer", "InContextSegLib"} <= set(found)
    assert all(Path(path).is_relative_to(installed) for path in found.values())


def test_the_panel_opens_from_the_source_folder_as_developers_run_it(tmp_path):
    found = loaded_from(MODULE / "InContextSeg.py", tmp_path)
    assert Path(found["InContextSegLib"]) == LIBRARY / "__init__.py"
    assert all(Path(path).is_relative_to(ROOT) for path in found.values())


def test_slicer_runs_the_generic_test_and_the_test_of_the_module(built):
    tests = json.loads(run(Path(cmake()).with_name("ctest"), "--show-only=json-v1", cwd=built))["tests"]
    names = {test["name"] for test in tests}
    assert names == {
        "py_nomainwindow_qSlicerInContextSegModuleGenericTest",
        "py_nomainwindow_qSlicerInContextSegTrainingModuleGenericTest",
        "py_nomainwindow_qSlicerSegmentEditorInContextSegModuleGenericTest",
        "py_InContextSegSelfTest",
    }


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("  InContextSeg.py\n", "  InContextSeg.py\n  Gone.py\n", "Gone.py, which does not exist"),
        ("WITH_GENERIC_TESTS", "WITH_TESTS", "WITH_TESTS"),
    ],
)
def test_a_list_that_names_what_is_not_there_stops_cmake(tmp_path, right, wrong, complaint):
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__", "weights")
    for folder in ("InContextSeg", "Testing"):
        shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8").replace("add_subdirectory(InContextSegLib)", "")
    (source / "CMakeLists.txt").write_text(text, encoding="utf-8")
    lists = source / "InContextSeg" / "CMakeLists.txt"
    lists.write_text(lists.read_text(encoding="utf-8").replace(right, wrong), encoding="utf-8")
    command = [str(part) for part in configure(source, tmp_path / "build")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert complaint in re.sub(r"\s+", " ", result.stderr)
