"""A module imports only from floors below its own: that is what lets a reader start at the bottom."""
import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pointwssis"
FLOORS = [
    {"core", "decode", "parallel", "markup"},
    {"executed", "sums", "options", "ablations", "sources", "masks", "store", "checkpoint", "results", "sampler", "process", "journal", "show", "page", "matches", "image_files"},
    {"config", "coco", "device", "plan", "details", "bootstrap", "weights", "pictures", "summary"},
    {"backbone", "submission", "shapes", "points", "targets", "engine", "evaluate", "crops", "plots", "evidence"},
    {"refinenet", "splits", "dataset", "prompt", "tables", "manifests"},
    {"refiner", "solov2", "graph", "survey", "batches", "comparisons"},
    {"pseudo", "predict", "release", "report", "places"},
    {"gallery", "verify"},
    {"split_stage", "kernels", "jobs"},
    {"stages"},
    {"pipeline", "published", "records"},
    {"experiments", "doctor"},
    {"commands"},
    {"cli"},
]
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("_"))


def imported(source: str) -> set[str]:
    "Modules of this package that a source imports, at the top or inside a function."
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and not node.module: found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 1: found.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.module == "pointwssis": found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pointwssis."): found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import): found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("pointwssis.")}
    return found - {"__version__"}


def test_the_reader_of_imports_sees_every_form():
    source = "from .a import x\nfrom . import b\nfrom pointwssis.c import y\nfrom pointwssis import d\nimport pointwssis.e\n"
    assert imported(source + "def f():\n    from .g.h import z\n") == {"a", "b", "c", "d", "e", "g"}


def test_every_module_has_a_floor():
    assert set(MODULES) <= set(FLOOR)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_downwards(name):
    used = imported((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    assert {other for other in used if FLOOR[other] >= FLOOR[name]} == set()


@pytest.mark.parametrize("name", ["results", "tables", "plots", "report", "verify", "graph", "split_stage", "pipeline", "experiments", "cli"])
def test_needs_no_torch(name):
    code = f"import sys, pointwssis.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode == 0
