"""What a reviewer of Slicer's Extensions Index would look at first: imports, file scope, lists, metadata, icons."""

import ast
import importlib.util
import json
import re
import struct
import sys
import types
from pathlib import Path

import pytest

from Testing.Slicer import harness

ROOT = Path(__file__).resolve().parents[3]
MODULE = ROOT / "InContextSeg"
SOURCES = sorted(MODULE.rglob("*.py"))
MODULES = sorted(MODULE.glob("*.py"))
# What all modules share; it is imported with them, and so needs the library as little.
FRAME_NAME = "InContextSegSlicer.widgets.modulewidget"
FRAME = (MODULE / FRAME_NAME.replace(".", "/")).with_suffix(".py")

COMES_WITH_SLICER = {"slicer", "vtk", "qt", "ctk", "numpy", "SimpleITK"}
COMES_WITH_SLICER |= {"SegmentEditorEffects", "qSlicerSegmentationsEditorEffectsPythonQt"}
OUR_OWN = {"InContextSegLib", "InContextSegSlicer"}
DEFINITIONS = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef
# What may be called to make a constant: nothing of Slicer, Qt or the operating system.
HARMLESS = {"range", "frozenset", "namedtuple", "math", "np", "re", "logging"}


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path):
    return path.relative_to(MODULE).as_posix()


def is_docstring(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def roots_of_calls(node):
    """The name that each call starts with, `np` for `np.zeros(3)`; what only runs later is left out."""
    if isinstance(node, ast.Lambda | ast.FunctionDef):
        return
    if isinstance(node, ast.Call):
        start = node.func
        while isinstance(start, ast.Attribute | ast.Call):
            start = start.value if isinstance(start, ast.Attribute) else start.func
        yield getattr(start, "id", "")
    for child in ast.iter_child_nodes(node):
        yield from roots_of_calls(child)


def makes_a_constant(root):
    return root in HARMLESS or root.lstrip("_")[:1].isupper()  # a class; functions of ours are not for file scope


def acts(node):
    """Whether a statement at file scope does more than define."""
    if isinstance(node, ast.Assign | ast.AnnAssign):
        return not all(makes_a_constant(root) for root in roots_of_calls(node))
    if isinstance(node, ast.Try):
        return any(acts(inner) for inner in [*node.body, *(part for each in node.handlers for part in each.body)])
    if isinstance(node, ast.If):
        return ast.unparse(node.test) != "TYPE_CHECKING"
    return not (isinstance(node, DEFINITIONS) or is_docstring(node))


def imported(nodes):
    """Top-level names of packages in the import statements among some nodes."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def file_scope(body):
    """Statements that run on import, those inside `try` and `if` included."""
    for node in body:
        yield node
        if isinstance(node, ast.Try | ast.If):
            yield from file_scope([*node.body, *node.orelse])
            for handler in getattr(node, "handlers", ()):
                yield from file_scope(handler.body)


def listed(kind):
    text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
    lists = re.findall(rf"set\((?:SegmentEditor)?InContextSeg(?:Training)?_{kind}\s+([^)]*?)\s*\)", text)
    return {name for names in lists for name in names.split()}


def test_the_lists_name_every_file_of_the_module_and_no_other():
    assert listed("SCRIPTS") == {name_of(path) for path in SOURCES}
    resources = [path for path in (MODULE / "Resources").rglob("*") if path.is_file()]
    assert listed("RESOURCES") == {name_of(path) for path in resources}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_file_beside_the_module_is_a_module(path):
    classes = [node.name for node in tree(path).body if isinstance(node, ast.ClassDef)]
    assert path.stem in classes


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_importing_a_file_only_defines(path):
    assert [ast.unparse(node) for node in tree(path).body if acts(node)] == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_imports_only_what_comes_with_slicer(path):
    foreign = set(imported(file_scope(tree(path).body))) - COMES_WITH_SLICER - OUR_OWN - sys.stdlib_module_names
    assert foreign == set()


@pytest.mark.parametrize("path", [*MODULES, FRAME], ids=name_of)
def test_a_module_does_not_need_the_library_to_be_listed(path):
    body = [node for node in file_scope(tree(path).body) if getattr(node, "module", "") != FRAME_NAME]
    assert not OUR_OWN & set(imported(body))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_prints_nothing_and_uses_nothing_newer_than_slicer(path):
    nodes = list(ast.walk(tree(path)))
    assert "print" not in {node.id for node in nodes if isinstance(node, ast.Name)}
    assert not harness.NEWER_THAN_SLICER & {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def test_torch_is_never_asked_of_pip():
    for path in MODULE.rglob("*.txt"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if re.match(r"torch(?![\w-])", line.strip())]
    for path in SOURCES:
        calls = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
        asking = [call for call in calls if "pip_" in ast.unparse(call.func)]
        assert not [ast.unparse(call) for call in asking if re.search(r"['\"]torch\b", ast.unparse(call))]


@pytest.mark.parametrize(
    ("text", "does"),
    [
        ("import slicer", False),
        ("LOG = logging.getLogger(__name__)", False),
        ("UI = Path(__file__).resolve().parents[1] / 'a.ui'", False),
        ("ICON = qt.QIcon('a.png')", True),
        ("READY = install()", True),
        ("CHOICES = {'a': lambda: _('A')}", False),
        ("NODE = slicer.mrmlScene.AddNewNodeByClass('vtkMRMLTextNode')", True),
        ("slicer.util.pip_install('x')", True),
        ("if True:\n    import numpy", True),
        ("try:\n    import x\nexcept ImportError:\n    install()", True),
    ],
)
def test_what_a_file_does_on_import_is_recognised(text, does):
    assert acts(ast.parse(text).body[0]) is does


def test_the_catalog_entry_follows_the_schema_of_the_index():
    entry = json.loads((ROOT / "InContextSeg.json").read_text(encoding="utf-8"))
    required, optional = {"$schema", "category", "scm_url"}, {"scm_revision", "scm_type", "build_dependencies"}
    optional |= {"dicom_support_rule", "build_subdirectory", "enabled", "tier"}
    assert required <= set(entry) <= required | optional
    assert entry["$schema"].endswith("/slicer-extension-catalog-entry-schema-v1.0.2.json#")
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert entry["build_dependencies"] == re.search(r'EXTENSION_DEPENDS "(.*)"', text)[1].split()
    assert (entry["category"], entry["tier"]) == ("Segmentation", 1)
    homepage = re.search(r'EXTENSION_HOMEPAGE "(.*)#readme"', text)[1]
    assert entry["scm_url"] == f"{homepage}.git"


def test_what_the_metadata_shows_is_in_the_repository():
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    addresses = re.findall(r"https://raw\.githubusercontent\.com/InContextSeg/InContextSeg/main/([^\s\"]+)", text)
    assert addresses and all((ROOT / address).is_file() for address in addresses)


@pytest.mark.parametrize("name", ["InContextSeg.png", "InContextSegTraining.png"])
def test_the_icons_are_one_picture_of_the_size_slicer_wants(name):
    icon = ROOT / "Resources" / "Icons" / name
    assert struct.unpack(">II", icon.read_bytes()[16:24]) == (128, 128)
    assert (MODULE / "Resources" / "Icons" / name).read_bytes() == icon.read_bytes()


def test_ctest_runs_what_reload_and_test_runs(monkeypatch):
    ran = []
    slicer = types.SimpleNamespace(
        selfTests={"InContextSeg": lambda: ran.append("test")}, util=types.SimpleNamespace(selectModule=ran.append)
    )
    monkeypatch.setitem(sys.modules, "slicer", slicer)
    spec = importlib.util.spec_from_file_location("InContextSegSelfTest", ROOT / "Testing" / "InContextSegSelfTest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.InContextSegSelfTest("test_the_module_passes_its_own_test").debug()
    assert ran == ["InContextSeg", "test"]
