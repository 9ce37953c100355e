"""What the pages for readers promise: links lead somewhere, commands are understood, examples import what exists."""

import ast
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from InContextSegLib.cli.arguments import parser
from InContextSegLib.training.site.datasets import read_site

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
PAGES += tuple(
    sorted(
        path.relative_to(ROOT).as_posix()
        for folder in ("docs", "InContextSegLib")
        for path in (ROOT / folder).rglob("*.md")
    )
)
RAW_FILES = "https://raw.githubusercontent.com/InContextSeg/InContextSeg/main/"


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name, language):
    """The fenced blocks of a page that are in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", read(name), re.MULTILINE | re.DOTALL)


def command_lines(name):
    """Every line of the page's shell blocks, continued lines joined, and every piece of code in its sentences."""
    shell = "".join(blocks(name, "bash")).replace("\\\n", " ")
    prose = re.sub(r"^```.*?^```", "", read(name), flags=re.MULTILINE | re.DOTALL)
    return shell.splitlines() + re.findall(r"`([^`\n]+)`", prose)


def complete_commands(name):
    """Command lines of the program; its bare name and `incontextseg segment` alone only name a command."""
    words = [shlex.split(line, comments=True) for line in command_lines(name) if line.startswith("incontextseg ")]
    return [line[1:] for line in words if len(line) > 2]


def targets_called(name):
    lines = [shlex.split(line) for line in command_lines(name) if re.match(r"make\b", line)]
    return {word for line in lines for word in line[1:] if "=" not in word}


def relative_links(name):
    links = re.findall(r"\]\(([^)\s]+)\)", read(name))
    return [link for link in links if not re.match(r"[a-z]+:|#", link)]


@pytest.mark.parametrize("name", PAGES)
def test_every_relative_link_and_picture_exists(name):
    folder = (ROOT / name).parent
    assert [link for link in relative_links(name) if not (folder / link.partition("#")[0]).exists()] == []


def test_the_readme_shows_a_result():
    assert re.search(r"^!\[.+\]\(docs/images/.+\.png\)$", read("README.md"), re.MULTILINE)


@pytest.mark.parametrize("key", ["ICONURL", "SCREENSHOTURLS"])
def test_the_pictures_of_the_extension_lie_where_its_metadata_says(key):
    (urls,) = re.findall(rf'EXTENSION_{key} "([^"]+)"', read("CMakeLists.txt"))
    for url in urls.split():
        assert url.startswith(RAW_FILES)
        assert (ROOT / url.removeprefix(RAW_FILES)).is_file(), url


@pytest.mark.parametrize(
    "words", [pytest.param(words, id=" ".join(words)) for name in PAGES for words in complete_commands(name)]
)
def test_every_command_is_understood(words):
    if "--help" in words:
        with pytest.raises(SystemExit, match=r"^0$"):
            parser().parse_args(words)
    else:
        assert parser().parse_args(words).command == words[0]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_a_page_that_everybody_reads_fits_on_a_few_screens(name):
    assert len(read(name).splitlines()) <= 150


def test_the_pages_show_how_to_segment_from_volumes_folders_own_slices_and_pictures():
    shown = [parser().parse_args(words) for words in complete_commands("docs/how-to/examples.md") if "--image" in words]
    assert len(shown) >= 4
    assert any(len(each.support) > 1 for each in shown)
    assert any(each.support[0][0] == each.image for each in shown)
    assert any(each.image.suffix == ".png" for each in shown)


def test_the_readme_has_an_example_for_slicer_the_command_line_and_python():
    assert any("--image" in words for words in complete_commands("README.md"))
    assert len(blocks("README.md", "python")) == 1
    assert "docs/tutorials/slicer.md" in relative_links("README.md")


# The page on several GPUs names options of torchrun and of Slurm too.
FOREIGN = {"docs/how-to/clusters.md"}


@pytest.mark.parametrize("name", [name for name in PAGES if name not in FOREIGN])
def test_every_option_in_the_sentences_is_one_of_the_program(name):
    helps = [_help(command) for command in ("segment", "batch", "train", "train-site", "evaluate", "weights", "demo")]
    known = set(re.findall(r"--[a-z-]+", " ".join(helps)))
    lines = [line for line in command_lines(name) if not line.startswith(("python", ".venv", "incontextseg --help"))]
    named = {word for line in lines for word in re.findall(r"(?<![\w-])--[a-z][a-z-]+", line)}
    assert named <= known | {"--help"}


@pytest.mark.parametrize(
    ("question", "link"),
    [
        ("how to segment", "docs/tutorials/command-line.md"),
        ("how to segment in Slicer", "docs/tutorials/slicer.md"),
        ("how to correct in Slicer", "docs/how-to/correcting.md"),
        ("how good it is on CT", "docs/benchmarks.md#ct"),
        ("how to call it from Python", "docs/tutorials/python.ipynb"),
        ("how to add a model", "CONTRIBUTING.md#add-a-model"),
    ],
)
def test_the_readme_answers_within_one_click(question, link):
    assert link in relative_links("README.md"), question


def test_a_file_of_a_site_that_is_shown_can_be_read(tmp_path):
    shown = [block for name in PAGES for block in blocks(name, "toml")]
    assert shown
    for text in shown:
        (tmp_path / "site.toml").write_text(text, encoding="utf-8")
        assert read_site(tmp_path / "site.toml").datasets


@cache
def _help(command):
    script = "import sys; from InContextSegLib.cli.arguments import parser; parser().parse_args(sys.argv[1:])"
    words = [sys.executable, "-c", script, command, "--help"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", PAGES)
def test_every_make_target_exists(name):
    targets = set(re.findall(r"^([a-z.][\w.]*):", read("Makefile"), re.MULTILINE))
    assert targets_called(name) <= targets


def test_the_readme_tells_how_to_see_and_to_test_the_software():
    assert {"demo", "test"} <= targets_called("README.md")


def test_the_continuous_check_runs_what_the_readme_says():
    called = re.findall(r"^exec (.+)$", read(".ci/run"), re.MULTILINE)
    assert called == ["make test"]
    assert "make test" in command_lines("README.md")


def test_the_files_of_the_demonstration_are_those_the_tutorial_lists():
    source = read("InContextSegLib/cli/demo.py")
    listed = re.findall(r"^\| `(new_patient\S*)` \|", read("docs/tutorials/command-line.md"), re.MULTILINE)
    beside = [name.removeprefix("new_patient_labels") for name in listed if name.startswith("new_patient_labels")]
    assert sorted(beside) == [".json", ".nii.gz", "_picture.png", "_uncertainty.nii.gz"]
    assert all(f'folder / "{name}"' in source for name in ("new_patient.nii.gz", "new_patient_labels.nii.gz"))


def test_the_examples_in_python_import_what_exists():
    written = [block for name in PAGES for block in blocks(name, "python")]
    statements = [node for block in written for node in ast.parse(block).body]
    imports = [node for node in statements if isinstance(node, ast.ImportFrom | ast.Import)]
    # Which only the example of a backbone of one's own needs.
    imports = [node for node in imports if getattr(node, "module", "") != "transformers"]
    assert len(imports) > 3
    # In a process of its own, as a reader would: this one may check types.
    script = "\n".join(map(ast.unparse, imports))
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


PAGE_OF_DESIGN = "docs/development/design.md"
FOLDERS = ("", "InContextSegLib", "InContextSeg/InContextSegSlicer", "InContextSeg")


def test_every_file_that_contributing_and_design_name_exists():
    named = set(re.findall(r"`([\w/]+\.py)`", read(PAGE_OF_DESIGN) + read("CONTRIBUTING.md")))
    assert len(named) > 20
    assert {name for name in named if not any((ROOT / folder / name).is_file() for folder in FOLDERS)} == set()


def test_every_type_and_function_that_pages_for_developers_name_exists():
    pages = [name for name in PAGES if name.startswith(("CONTRIBUTING", PAGE_OF_DESIGN, "docs/reference/python"))]
    spans = re.findall(r"`(\w+(?:\.\w+)?)`", "".join(map(read, pages)))
    endings = {"py", "md", "json", "jsonl", "toml", "txt", "png"}
    named = {span.split(".")[-1] for span in spans if re.match(r"[A-Z][a-z]+[A-Z]?|\w+\.", span)} - endings
    assert len(named) > 25
    assert named - _defined() == set()


def _defined():
    """The names of all modules, classes, functions and variables in the library."""
    names = set()
    for path in (ROOT / "InContextSegLib").rglob("*.py"):
        names.add(path.stem)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
    return names
