"The page of promises names only tests that exist."
import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"^\| (?P<promise>.+?) \| (?P<test>\S+) \|$", re.M)
PAGE = (ROOT / "docs/promises.md").read_text(encoding="utf-8")
ROWS = [match.groups() for match in ROW.finditer(PAGE) if match["test"] not in ("test", "---")]


def functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("promise, test", ROWS, ids=[test for _, test in ROWS])
def test_the_test_of_a_promise_exists(promise, test):
    name, found, function = test.partition("::")
    assert (ROOT / name).is_file() and (not found or function in functions(ROOT / name))


def test_every_line_of_the_page_is_read():
    lines = [line for line in PAGE.splitlines() if line.startswith("|") and not re.match(r"\| (promise|---) ", line)]
    assert len(lines) == len(ROWS)
