"""The site as a reader gets it: built strictly, from this computer alone; what is marked as runnable runs."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from filelock import FileLock

from InContextSegLib.cli.arguments import parser
from InContextSegLib.cli.demo import LABELLED_PATIENTS, NEW_PATIENT
from InContextSegLib.cli.phantom import phantom
from InContextSegLib.inference.settings import PRESETS
from InContextSegLib.slices.intensities import WINDOWS
from InContextSegLib.volumes.files import write_volume

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
REPOSITORY = "https://github.com/InContextSeg/InContextSeg/blob/main/"
SMALL = {"shape": (8, 80, 80), "spacing_mm": (24.0, 4.4, 4.4)}
RUNS = re.compile(r"<!-- runs -->\n```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
pytestmark = pytest.mark.timeout(900)  # a site is built, and a notebook run, on a computer that may be busy
BUILD = ["-m", "mkdocs", "build", "--strict"]  # with --quiet warnings would not count


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built once, however many processes test."""
    pytest.importorskip("mkdocs", reason="what requirements-docs.lock names is not installed")
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    folder, built = shared / "site", shared / "site.built"
    with FileLock(shared / "site.lock"):
        if not built.exists():
            result = build("--site-dir", str(folder))
            assert result.returncode == 0, result.stdout + result.stderr
            built.touch()
    return folder


def build(*words):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(
        [sys.executable, *BUILD, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


class Page(HTMLParser):
    """What a page loads, links to, and says."""

    def __init__(self, path):
        super().__init__()
        self.loaded, self.links, self.ids, self.words = [], [], set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.ids |= {known["id"]} if "id" in known else set()
        if tag == "a" and "href" in known:
            self.links.append(known["href"])
        elif tag in ("script", "link", "img", "iframe", "source"):
            self.loaded += [known[key] for key in ("src", "href") if key in known]

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def pages(site):
    return {path.relative_to(site).as_posix(): Page(path) for path in site.rglob("*.html")}


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(pages):
    assert len(pages) > 25
    assert [
        (name, each) for name, page in pages.items() for each in page.loaded if re.match(r"(https?:)?//", each)
    ] == []


@pytest.mark.slow
def test_every_link_and_anchor_of_the_site_leads_somewhere(pages, site):
    lost = []
    for name, page in pages.items():
        for link in [*page.links, *page.loaded]:
            if re.match(r"[a-z]+:|//", link) or name == "404.html":
                continue
            target, _, anchor = link.partition("#")
            path = (site / name).parent.joinpath(target).resolve() if target else (site / name).resolve()
            path = path / "index.html" if path.is_dir() else path
            other = pages.get(path.relative_to(site.resolve()).as_posix())
            if not path.exists() or (anchor and other and anchor not in other.ids and anchor != "__codelineno"):
                lost.append(f"{name}: {link}")
    assert lost == []


@pytest.mark.slow
def test_every_link_to_the_repository_names_a_file_of_it(pages):
    linked = {link.partition("#")[0] for page in pages.values() for link in page.links if link.startswith(REPOSITORY)}
    assert len(linked) > 2
    assert {link for link in linked if not (ROOT / link.removeprefix(REPOSITORY)).exists()} == set()


@pytest.mark.slow
def test_the_page_of_the_command_line_has_every_word_of_every_command(pages):
    page = pages["reference/command-line.html"]
    text = " ".join(page.words)
    words = {word for command in commands(parser()) for action in command._actions for word in shown(action)}
    assert len(words) > 35
    assert {word for word in words if word not in text} == set()
    assert {command.prog.split(" ", 1)[1].replace(" ", "-") for command in commands(parser())} <= page.ids


def commands(top):
    for action in top._actions:
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                yield from list(commands(command)) or [command]


def shown(action):
    return [] if action.help == "==SUPPRESS==" or "--help" in action.option_strings else action.option_strings


@pytest.mark.slow
def test_what_is_public_is_in_the_reference(pages):
    ids = {each for name, page in pages.items() if name.startswith("reference/") for each in page.ids}
    for name in (
        "jobs.segment.SegmentJob",
        "inference.session.Session.segment",
        "models.networks.SliceSegmenter.encode",
        "examples.support.SupportSet",
        "volumes.files.read_volume",
        "training.site.train.SiteTraining",
    ):
        assert f"InContextSegLib.{name}" in ids, name


@pytest.mark.slow
def test_the_site_can_be_searched(site):
    found = {entry["location"] for entry in json.loads((site / "search/search_index.json").read_text())["docs"]}
    assert {"how-to/dicom.html", "reference/command-line.html", "tutorials/python.html"} <= found


@pytest.mark.slow
def test_the_notebook_shows_what_came_out(pages, site):
    page = pages["tutorials/python.html"]
    assert "Dice" in " ".join(page.words)
    pictures = [each for each in page.loaded if each.endswith(".png") and "output" in each]
    assert pictures and all((site / "tutorials" / each).stat().st_size > 10_000 for each in pictures)


def test_the_tables_of_settings_are_those_of_the_program():
    text = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    for name, (low, high) in WINDOWS.items():
        assert f"| `{name}` | {low} to {high} HU |" in text
    for name, preset in PRESETS.items():
        assert re.search(rf"^\| `{name}`[^|]*\| {preset['supports']} \| {preset['draws']} \|", text, re.MULTILINE), name


def copied(tmp_path, name, change):
    """The documentation with one page changed."""
    for path in ROOT.iterdir():
        if path.name not in ("docs", "mkdocs.yml") and not path.name.startswith("."):
            (tmp_path / path.name).symlink_to(path)
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    page = tmp_path / "docs" / name
    page.write_text(change(page.read_text(encoding="utf-8")), encoding="utf-8")
    return tmp_path


@pytest.mark.slow
def test_links_that_lead_nowhere_fail_the_build(tmp_path):
    pytest.importorskip("mkdocs", reason="what requirements-docs.lock names is not installed")
    lost = "[one](nowhere.md) [two](batch.md#nothing) [three][InContextSegLib.nothing]"
    root = copied(tmp_path, "how-to/dicom.md", lambda text: f"{text}\n{lost}\n")
    notebook = root / "docs" / "tutorials" / "python.ipynb"
    content = json.loads(notebook.read_text(encoding="utf-8"))
    content["cells"] = [cell for cell in content["cells"] if cell["cell_type"] == "markdown"]
    notebook.write_text(json.dumps(content), encoding="utf-8")
    result = build("--config-file", str(root / "mkdocs.yml"), "--site-dir", str(tmp_path / "site"))
    assert result.returncode != 0
    for said in ("nowhere.md, which does not exist", "#nothing", "InContextSegLib.nothing"):
        assert said in result.stdout + result.stderr


@pytest.mark.slow
def test_a_notebook_that_does_not_run_fails_the_build(tmp_path):
    pytest.importorskip("mkdocs", reason="what requirements-docs.lock names is not installed")
    root = copied(
        tmp_path, "tutorials/python.ipynb", lambda text: text.replace("import matplotlib", "import nothing_at_all")
    )
    result = build("--config-file", str(root / "mkdocs.yml"), "--site-dir", str(tmp_path / "site"))
    assert result.returncode != 0
    assert "python.ipynb does not run" in result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["README.md", "docs/tutorials/command-line.md"])
def test_what_is_marked_as_runnable_runs(name, tmp_path):
    blocks = RUNS.findall((ROOT / name).read_text(encoding="utf-8"))
    assert len(blocks) >= 2
    demonstrated(tmp_path / "demo-output")
    for language, text in blocks:
        run([text.replace("source .venv/bin/activate\n", "")] if language == "bash" else ["-c", text], tmp_path)


def demonstrated(folder):
    """What `make demo` leaves for these blocks, of smaller scans."""
    for part in ("images", "labels"):
        (folder / "examples" / part).mkdir(parents=True)
    for seed in LABELLED_PATIENTS:
        for part, volume in zip(("images", "labels"), phantom(seed, **SMALL), strict=True):
            write_volume(folder / "examples" / part / f"patient_{seed}.nii.gz", volume)
    write_volume(folder / "new_patient.nii.gz", phantom(NEW_PATIENT, **SMALL)[0])


def run(words, folder):
    program = [sys.executable, *words]
    if words[0] != "-c":
        program = ["bash", "-euc", f'incontextseg() {{ "{sys.executable}" -m InContextSegLib "$@"; }}\n{words[0]}']
    environment = os.environ | {"PYTHONPATH": str(ROOT), "INCONTEXTSEG_CACHE": str(folder / "cache")}
    result = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{words[-1]}\n{result.stdout}{result.stderr}"


def test_every_block_that_is_marked_as_runnable_is_one_that_a_test_runs():
    marked = {
        path.relative_to(ROOT).as_posix()
        for path in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
        if "<!-- runs -->\n" in path.read_text(encoding="utf-8")
    }
    (named,) = [mark.args[1] for mark in test_what_is_marked_as_runnable_runs.pytestmark if mark.name == "parametrize"]
    assert marked == set(named)
