"""The package is what the notebooks export, and the notebooks are stored clean."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    "The sources in a folder of their own: notebooks and configurations, without the exported modules."
    root = tmp_path_factory.mktemp("drift")
    for name in ("settings.ini", "pyproject.toml"): shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "nbs", root / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    shutil.copytree(ROOT / "pointwssis/bridges/configs", root / "pointwssis/bridges/configs")
    run(root, "nbdev_export")
    return root


def run(root: Path, *command: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([str(BIN / command[0]), *command[1:]], cwd=root, env=env, check=True, capture_output=True)


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py"))}


def test_the_package_is_what_the_notebooks_export(copy):
    exported, committed = contents(copy / "pointwssis"), contents(ROOT / "pointwssis")
    assert sorted(exported) == sorted(committed)
    assert [name for name in exported if exported[name] != committed[name]] == []
    assert (copy / "pyproject.toml").read_text() == (ROOT / "pyproject.toml").read_text()


def test_notebooks_are_clean(copy):
    run(copy, "nbdev_clean", "--fname", "nbs")
    stored = {path.relative_to(copy): path.read_text() for path in sorted(copy.glob("nbs/**/*.ipynb"))}
    assert stored and [str(path) for path, text in stored.items() if (ROOT / path).read_text() != text] == []
