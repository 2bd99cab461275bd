"The code that made a result: a hash of the sources that a stage imports, and the commit of this package's own repository."
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest

from pointwssis.report import provenance
from pointwssis.report.provenance import closure, git_commit, imported_modules, source_hash
from pointwssis.runs import runner
from pointwssis.runs.stage_graph import STAGES


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True).stdout


def notebook(path: Path, *cells) -> Path:
    nbformat.write(nbformat.v4.new_notebook(cells=list(cells)), path)
    return path


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    "A package of three modules, in a repository that is its own."
    folder = tmp_path / "pointwssis"
    folder.mkdir()
    texts = {"__init__": "", "a": "def f():\n    from .b import x", "b": "x = 1", "c": "from . import a"}
    for name, text in texts.items(): (folder / f"{name}.py").write_text(text)
    for name in ("nbs", "runs"): (tmp_path / name).mkdir()
    for name in ("runs/params.json", "nbs/a.ipynb"): (tmp_path / name).write_text("{}")
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nlib_name = pointwssis\ntst_flags = 100%\n")
    git(tmp_path, "init", "-q"), git(tmp_path, "add", "."), git(tmp_path, "commit", "-qm", "first")
    monkeypatch.setattr(provenance, "PACKAGE", folder)
    monkeypatch.setattr(provenance, "_git", lambda *words, at=folder: ask(*words, at=at))
    return folder


ask = provenance._git


def test_the_modules_of_a_source_and_all_that_they_import(package):
    assert list(closure({"c"})) == ["a", "b", "c"] and list(closure({"a"})) == ["a", "b"] and list(closure({"b"})) == ["b"]
    assert imported_modules("import pointwssis.a, numpy\nfrom pointwssis import b, missing\nfrom .c import y") == {"a", "b", "c"}


def test_a_stage_has_another_hash_when_its_code_has_changed(package, tmp_path):
    code, prose = nbformat.v4.new_code_cell("%matplotlib inline\nfrom pointwssis import a"), nbformat.v4.new_markdown_cell("prose")
    path = tmp_path / "stage.ipynb"
    first = source_hash(notebook(path, code))
    assert source_hash(notebook(path, code, prose)) == first
    assert source_hash(notebook(path, code, nbformat.v4.new_code_cell("1"))) != first
    (package / "c.py").write_text("not imported")
    assert source_hash(notebook(path, code)) == first
    (package / "b.py").write_text("x = 22")
    assert source_hash(notebook(path, code)) != first


def test_every_stage_sees_what_it_is_made_of():
    for stage in STAGES.values():
        path = runner.NOTEBOOKS / f"{stage.notebook or stage.name}.ipynb"
        cells = nbformat.read(path, 4).cells
        code = "\n".join(c.source for c in cells if c.cell_type == "code").replace("%matplotlib", "#")
        assert {"core", "runs.stage_graph", "config", "registry", "data.coco"} <= set(closure(imported_modules(code))), stage.name
        assert len(source_hash(path)) == 64


def test_the_commit_is_dirty_for_sources_alone(package, tmp_path):
    commit = git_commit()
    assert git(tmp_path, "rev-parse", "HEAD").startswith(commit) and len(commit) == 12
    for name in ("runs/params.json", "figures.md"): (tmp_path / name).write_text("changed")
    assert git_commit() == commit
    for name in ("pointwssis/a.py", "pointwssis/new.py", "nbs/new.ipynb"):
        (tmp_path / name).write_text("changed")
        assert git_commit() == f"{commit}-dirty"
        git(tmp_path, "stash", "-qu")
        assert git_commit() == commit


def test_no_commit_of_somebody_elses_repository(package, tmp_path):
    "In a virtual environment inside a project, and in a project that has a settings.ini too."
    git(tmp_path, "rm", "-rq", "--cached", "pointwssis")
    assert git_commit() == ""
    git(tmp_path, "add", ".")
    assert git_commit() != ""
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nlib_name = another\n")
    assert git_commit() == ""
    (tmp_path / "settings.ini").write_text("no section")
    assert git_commit() == ""
    shutil.rmtree(tmp_path / ".git")
    assert git_commit() == ""


def test_without_git_there_is_no_commit_and_no_error(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() == ""
