"""What mkdocs does not do by itself: pages from files outside `docs`, the words of the command line, the notebook.

Links in all pages are written as a reader of the repository needs them, relative to the file; here they become links of
the site, or, where they lead to a file that the site does not have, to the repository. One that leads nowhere is a
warning, by which a strict build fails.
"""

import argparse
import logging
import os
import posixpath
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "https://github.com/InContextSeg/InContextSeg/blob/main"
NOTEBOOK, COMMANDS = "tutorials/python.md", "reference/command-line.md"
# Pages of the site by the files of the repository that they are made of; all others lie in `docs` under their names.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "development/contributing.md",
    "CHANGELOG.md": "development/changes.md",
    "InContextSegLib/weights/default.md": "explanation/default-model.md",
    "InContextSegLib/weights/universeg.md": "explanation/universeg-model.md",
    "docs/tutorials/python.ipynb": NOTEBOOK,
}
SOURCES = {page: source for source, page in PAGES.items()}
NOTEBOOK_SECONDS = 600
USAGE_COLUMNS = 88
WIDE = {"index.md", "benchmarks.md"}  # alone in their part of the site: without its contents at their side
log = logging.getLogger("mkdocs.hooks")

_FENCE = re.compile(r"(^```.*?^```[^\n]*$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is made or taken from elsewhere."""
    sys.path.insert(0, str(ROOT))  # of two checkouts, the one that is documented
    for source, page in PAGES.items():
        if page != NOTEBOOK:
            files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    text, pictures = notebook(ROOT / SOURCES[NOTEBOOK])
    files.append(File.generated(config, NOTEBOOK, content=text))
    for name, content in pictures.items():
        files.append(File.generated(config, f"tutorials/{name}", content=content))
    icon = ROOT / "Resources" / "Icons" / "InContextSeg.png"
    files.append(File.generated(config, "images/icon.png", abs_src_path=str(icon)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A page as the site needs it."""
    name = page.file.src_uri
    if name == COMMANDS:
        from InContextSegLib.cli.arguments import parser  # noqa: PLC0415 - of the checkout that is documented

        os.environ["COLUMNS"] = str(USAGE_COLUMNS)
        markdown += "\n".join(command_line(parser()))
    if name in WIDE:
        page.meta["hide"] = ["navigation"]
    return _relinked(markdown, name)


def _relinked(markdown: str, page: str) -> str:
    source = SOURCES.get(page, f"docs/{page}")

    def relink(match: re.Match) -> str:
        link, _, anchor = match[2].partition("#")
        if not link or re.match(r"[a-z]+:", link):
            return match[0]
        if link in _MADE:
            return match[0]
        place = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        if not (ROOT / place).exists():
            log.warning("%s: the link %s leads to %s, which does not exist.", source, match[2], place)
            return match[0]
        target = PAGES.get(place) or (place.removeprefix("docs/") if place.startswith("docs/") else "")
        new = posixpath.relpath(target, posixpath.dirname(page) or ".") if target else f"{REPOSITORY}/{place}"
        return f"{match[1]}{new}{'#' * bool(anchor)}{anchor}{match[3]}"

    parts = _FENCE.split(markdown)
    return "".join(part if index % 2 else _LINK.sub(relink, part) for index, part in enumerate(parts))


# The notebook

_MADE: set[str] = set()  # pictures that the notebook drew


def notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """Run a notebook in an empty folder; its text with what came out, and the pictures by their names.

    Raises:
        PluginError: if a cell fails.
    """
    content = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "IPYTHONDIR": folder, "OMP_NUM_THREADS": "1"}
        client = NotebookClient(
            content, timeout=NOTEBOOK_SECONDS, kernel_name="python3", resources={"metadata": {"path": folder}}
        )
        try:
            client.execute(env=environment)
        except CellExecutionError as error:
            raise PluginError(f"{path.name} does not run:\n{error}") from error
    # What a cell printed is one text, however it came in pieces.
    text, resources = MarkdownExporter(preprocessors=[CoalesceStreamsPreprocessor]).from_notebook_node(content)
    _MADE.update(resources["outputs"])
    return text, resources["outputs"]


# The command line

TITLES = {"positional arguments": "Needed", "options": "Further options"}  # argparse's own words


def command_line(top: argparse.ArgumentParser) -> Iterator[str]:
    """Every command with all its words, as Markdown."""
    for name, command in _commands(top):
        yield f"\n## {name.removeprefix(f'{top.prog} ')}\n"
        yield f"{_sentence(command.description or '')}\n"
        yield f"```text\n{command.format_usage().removeprefix('usage: ').strip()}\n```\n"
        special, common = command._action_groups[2:], command._action_groups[:2]
        for group in [*special, *common]:
            shown = [action for action in group._group_actions if _is_shown(action)]
            if shown:
                yield f"**{TITLES.get(group.title) or _sentence(group.title).removesuffix('.')}**\n"
                yield from _words(command, shown)


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                below = list(_commands(command))
                yield from below or [(command.prog, command)]


def _is_shown(action: argparse.Action) -> bool:
    return action.help is not argparse.SUPPRESS and not isinstance(
        action, argparse._HelpAction | argparse._SubParsersAction
    )


def _words(command: argparse.ArgumentParser, actions: list[argparse.Action]) -> Iterator[str]:
    formatter = command._get_formatter()
    for action in actions:
        names = ", ".join(action.option_strings)
        value = formatter._format_args(action, action.dest.upper() if names else action.dest)
        yield f"`{' '.join(filter(None, [names, value]))}`"
        needed = "**Needed.** " if names and action.required else ""
        yield f":   {needed}{_sentence(formatter._expand_help(action) if action.help else 'See `segment`')}\n"


def _sentence(text: str) -> str:
    text = " ".join(text.split()).replace("<", "&lt;")
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
