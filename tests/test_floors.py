"""A room is a folder of notebooks. Rooms import only from rooms below them, which lets a reader enter each one alone."""
import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pointwssis"
MODULES = {path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): path
           for path in PACKAGE.rglob("*.py") if not path.stem.startswith("_") and path.parent.name != "configs"}
ROOMS = {path.name.partition("_")[2] for path in (ROOT / "nbs").glob("[0-9]_*") if path.is_dir()}


def room_of(module: str) -> str: return module.rpartition(".")[0] or "core"


def imported(source: str, module: str) -> set[str]:
    "Modules of this package that a module's source imports when it runs, at the top or inside a function."
    found, parents, tree = set(), module.split("."), ast.parse(source)
    tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): found |= {a.name.partition(".")[2] for a in node.names if a.name.startswith("pointwssis.")}
        if not isinstance(node, ast.ImportFrom): continue
        whole = ["pointwssis", *parents][:-node.level] if node.level else []
        base = ".".join([*whole, *filter(None, [node.module])])
        if base.split(".")[0] == "pointwssis": found |= {f"{base}.{name}".partition(".")[2] for name in ["", *(a.name for a in node.names)]}
    return {name.rstrip(".") for name in found} & set(MODULES)


def uses() -> dict[str, set[str]]:
    return {name: imported(path.read_text(encoding="utf-8"), name) for name, path in MODULES.items()}


def test_the_reader_of_imports_sees_every_form():
    source = "from .masks import x\nfrom . import store\nfrom pointwssis.data.coco import y\nfrom pointwssis import core\nimport pointwssis.journal\n"
    more = "if TYPE_CHECKING:\n    from pointwssis.data import shapes\ndef f():\n    from ..runs.cli import z\n    from ..method import stages\n"
    assert imported(source + more, "data.show") == {"data.masks", "data.store", "data.coco", "core", "journal", "runs.cli", "method.stages"}


def test_each_module_lies_in_the_room_of_its_notebook():
    for name, path in MODULES.items():
        notebook = path.read_text(encoding="utf-8").partition("File to edit: ")[2].split()[0]
        assert room_of(name) == Path(notebook).parent.name.partition("_")[2], name


def test_rooms_import_only_from_rooms_below():
    "graphlib finds a circle of rooms, and the floors: a room stands one above the highest that it uses."
    below = {room: set() for room in ROOMS}
    for name, used in uses().items(): below[room_of(name)] |= {room_of(other) for other in used} - {room_of(name)}
    order, floor = TopologicalSorter(below), {}
    for room in order.static_order(): floor[room] = 1 + max((floor[other] for other in below[room]), default=0)
    assert set(floor) == ROOMS and max(floor.values()) <= 8, floor


def test_modules_of_a_room_import_each_other_in_one_direction():
    list(TopologicalSorter(uses()).static_order())


@pytest.mark.parametrize("name", ["report.results", "report.tables", "report.figures", "report.report", "report.verify", "runs.stage_graph",
                                  "method.split_stage", "runs.runner", "runs.sweeps", "runs.cli"])
def test_needs_no_torch(name):
    code = f"import sys, pointwssis.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
