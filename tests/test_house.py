"""Promises of the repository as a whole: no leftovers, no paths of one machine, a fresh README, sizes that a reader can hold."""
import ast
import io
import json
import re
import subprocess
import sys
import tokenize
import zipfile
from collections import Counter
from copy import deepcopy
from functools import cache
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
TEXT = {".py", ".ipynb", ".md", ".ini", ".toml", ".cff", ".json", ".csv", ".lock", ".txt", ""}
MACHINE_PATH = re.compile(r"(?<![\w.:/~])/(?:home|root|work|tmp|Users|opt|mnt|var|data|usr/local)/\w")
LEFTOVER = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|X" r"XX)\b")
CODE_MARK = re.compile(r"[=()\[\]]")


@cache
def tracked(*patterns: str) -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT / name for name in names if (ROOT / name).is_file()]


@cache
def sources() -> list[tuple[str, str]]:
    "Every Python source of the house with its place: files, and the code cells of notebooks."
    found = [(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")) for path in tracked("*.py")]
    for path in tracked("nbs/*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        found += [(f"{path.name}, cell {cell['id']}", "".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]
    return found


@cache
def parsed(path: Path) -> ast.Module: return ast.parse(path.read_text(encoding="utf-8"))


@cache
def prose_of(path: Path) -> str:
    "A file's text; of a notebook its cells and text outputs, of both no base64 of pictures or packed numbers."
    return re.sub(r'"image/(png|jpeg)": ?"[^"]*"|"<[a-z]\d:[^"]*"', "", path.read_text(encoding="utf-8"))


def comments(source: str) -> list[str]:
    lines = ["#" if line.startswith(("%", "!")) else line for line in source.splitlines()]
    tokens = tokenize.generate_tokens(io.StringIO("\n".join(lines)).readline)
    return [token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#")]


def is_code(comment: str) -> bool:
    "True if a comment on a line of its own is a statement that was switched off."
    if comment.startswith(("|", "%%", "noqa")) or not CODE_MARK.search(comment): return False
    try: body = ast.parse(comment).body
    except SyntaxError: return False
    return any(isinstance(node, (ast.Assign, ast.AugAssign, ast.Import, ast.ImportFrom, ast.Return)) for node in body) or (
        bool(body) and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Call))


def test_pytest_can_import_every_test_file():
    "Without packages in tests/, a file name stands for a module, so that two files of a name cannot both be collected."
    names = Counter(path.name for path in tracked("tests/*.py"))
    assert not [name for name, count in names.items() if count > 1]


def test_notebooks_of_a_room_are_numbered_from_1_without_gaps():
    "The numbers are the reading order."
    rooms = {path.parent for path in tracked("nbs/[1-9]_*/*.ipynb")}
    numbers = {room.name: sorted(int(path.name[:2]) for path in room.glob("*.ipynb")) for room in rooms}
    assert len(rooms) == 9 and [room for room, found in numbers.items() if found != [*range(1, len(found) + 1)]] == []


def test_no_path_of_one_machine():
    "Paths in containers/ are of the image."
    texts = [path for path in tracked() if path.suffix in TEXT and path != Path(__file__).resolve() and path.parent != ROOT / "containers"]
    found = [f"{path.relative_to(ROOT)}: {match.group()}" for path in texts
             for match in MACHINE_PATH.finditer(prose_of(path))]
    assert found == []


def test_nothing_is_left_for_later():
    assert [str(path.relative_to(ROOT)) for path in tracked() if path.suffix in TEXT and LEFTOVER.search(prose_of(path))] == []


@pytest.mark.parametrize("comment, code", [("x = f(y)", True), ("import os", False), ("return x[0]", True), ("print(x)", True),
                                           ("the shape (H, W)", False), ("(B, C, S, S)", False), ("x0, y0: half open", False)])
def test_the_finder_of_dead_code(comment, code):
    assert is_code(comment) == code


def test_no_code_is_commented_out():
    assert [f"{place}: {comment}" for place, source in sources() for comment in comments(source) if is_code(comment)] == []


def test_readme_is_made_from_the_index(tmp_path):
    command = [str(Path(sys.executable).parent / "jupyter"), "nbconvert", "--log-level=WARN", "--config=nbs/readme_config.py"]
    subprocess.run([*command, f"--output-dir={tmp_path}", "nbs/index.ipynb"], cwd=ROOT, check=True, capture_output=True)
    for made in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert made.read_bytes() == (ROOT / made.relative_to(tmp_path)).read_bytes(), f"{made.name} is stale: run make readme"


def test_the_numbers_of_the_readme_are_those_of_the_evidence():
    "The index computes them from runs/ and figures/."
    stored = nbformat.read(ROOT / "nbs/index.ipynb", 4)
    made = NotebookClient(deepcopy(stored), resources={"metadata": {"path": ROOT / "nbs"}}).execute()
    def said(index) -> list[str]: return [out.data["text/markdown"] for cell in index.cells if cell.cell_type == "code" for out in cell.outputs]
    assert len(said(made)) == 3 and said(stored) == said(made), "README.md is stale: run make readme"


def test_the_recorded_values_are_bytes_to_git():
    names = [str(path.relative_to(ROOT)) for path in tracked("tests/recorded/golden/*.npz", "tests/recorded/golden/*.safetensors")]
    command = ["git", "check-attr", "text", "--", *names]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert len(names) == 5 and said.count(": text: unset\n") == 5


def test_the_wheel_holds_the_package_alone(tmp_path):
    made = ["egg_info", f"--egg-base={tmp_path}", "build", f"--build-base={tmp_path}", "bdist_wheel", f"--dist-dir={tmp_path}"]
    subprocess.run([sys.executable, "setup.py", "-q", *made], cwd=ROOT, capture_output=True, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel: names = wheel.namelist()
    assert "pointwssis/detector/solov2.py" in names and {name.split("/")[0].split("-")[0] for name in names} == {"pointwssis"}


def test_the_evidence_is_small():
    sizes = [path.stat().st_size for path in tracked("runs", "figures") if path.is_file()]
    assert sum(sizes) < 40e6


def test_a_user_may_rely_on_few_names():
    "Names in `__all__` of all modules; a notebook keeps an internal name out with `exporti`."
    nodes = [node for path in (ROOT / "pointwssis").rglob("*.py") if not path.stem.startswith("_") for node in parsed(path).body]
    lists = [node.value.elts for node in nodes if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"]
    assert sum(map(len, lists)) <= 146


@cache
def modules() -> dict[str, ast.Module]:
    "Every exported module by name, such as `data.masks`, parsed."
    files = {".".join(path.relative_to(ROOT / "pointwssis").with_suffix("").parts): path for path in (ROOT / "pointwssis").rglob("*.py")
             if not path.stem.startswith("_") and path.parent.name != "configs"}
    return {name: parsed(path) for name, path in sorted(files.items())}


def test_no_module_imports_a_name_that_it_does_not_use():
    "A name may pass through a module where another file takes it from there."
    everything = "\n".join(path.read_text(encoding="utf-8") for path in tracked("*.py", "nbs/*.ipynb"))
    found = []
    for module, tree in modules().items():
        stem = module.rpartition(".")[2]
        imports = [name.asname or name.name.partition(".")[0] for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))
                   and getattr(node, "module", "") != "__future__" for name in node.names]
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        found += [f"{module}: {name}" for name in imports if name not in used
                  and not re.search(rf"\b{stem}\.{name}\b|from [\w.]*\b{stem} import [^\n]*\b{name}\b", everything)]
    assert found == []


def test_functions_fit_a_screen():
    "At most 40 lines without the docstring."
    def length(node: ast.FunctionDef) -> int:
        text = node.body[0] if isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant) else None
        return node.end_lineno - node.lineno + 1 - (text.end_lineno - text.lineno + 1 if text else 0)
    found = [f"{path.name}: {node.name}, {length(node)} lines" for path in tracked("pointwssis/*.py")
             for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef) and length(node) > 40]
    assert not found, found


def test_docstrings_name_the_thing_returned_or_begin_with_a_verb():
    kinds = ast.Module, ast.ClassDef, ast.FunctionDef
    others = {path.name: parsed(path) for path in tracked("tests/*.py", "benchmarks/*.py", "containers/*.py")}
    texts = [(name, ast.get_docstring(node) or "") for name, tree in (modules() | others).items()
             for node in ast.walk(tree) if isinstance(node, kinds)]
    asking = re.compile(r"(What|Which|Whether|How|Who|Why|Where|When|Those)\b")
    assert [(name, text) for name, text in texts if asking.match(text)] == []


def test_no_two_functions_classes_or_modules_share_a_name():
    "A function may bear the name of its own module, a method any name."
    names = [node.name for tree in modules().values() for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    names = [name for name in names if not name.startswith("_")]
    stems = [name.rpartition(".")[2] for name in modules()]
    assert {name for found in (names, stems) for name in found if found.count(name) > 1} == set()
    homes = [(node.name, module.rpartition(".")[2]) for module, tree in modules().items() for node in tree.body
             if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assert [(name, home) for name, home in homes if name in stems and name != home] == []


def test_make_lab_opens_the_tour_and_asks_for_no_news(tmp_path):
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith("QUIET := ")]
    assert json.loads(line.removeprefix("QUIET := "))["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"
    said = subprocess.run(["make", "--dry-run", "lab"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (place,) = re.findall(r"default_url=/lab/tree/(\S+)", said)
    assert place == "nbs/00_tour.ipynb" and (ROOT / place).is_file()


LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")
PATH = re.compile(r"`((?:nbs|tests|docs|pointwssis|benchmarks|workflow|figures|runs)/[\w./-]+\.(?:ipynb|py|md|json|webp|png))`")


@cache
def texts() -> list[tuple[Path, str]]:
    "Pages and Markdown cells, each with the folder that its links are relative to."
    found = [(path.parent, path.read_text(encoding="utf-8")) for path in tracked("README.md", "docs/*.md", "benchmarks/*.md")]
    for path in tracked("nbs/*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        found += [(path.parent, "".join(cell["source"])) for cell in cells if cell["cell_type"] == "markdown"]
    return found


def test_links_and_paths_in_prose_lead_to_files():
    links = [(folder / link, link) for folder, text in texts() for link in LINK.findall(text) if ":" not in link]
    paths = [(ROOT / path, path) for _, text in texts() for path in PATH.findall(text)]
    assert len(links) > 50 and [link for place, link in [*links, *paths] if not place.exists()] == []


LIMIT = 100   # characters of a code line that JupyterLab shows at a window of 1,280 pixels without a scroll bar


def test_code_lines_of_notebooks_fit_a_window():
    cells = [(path, cell) for path in tracked("nbs/*.ipynb") for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    lines = [(path.name, line) for path, cell in cells if cell["cell_type"] == "code" for line in "".join(cell["source"]).split("\n")]
    assert [place for place in lines if len(place[1]) > LIMIT] == []
