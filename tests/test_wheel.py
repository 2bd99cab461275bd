"""The built package works from any folder: it carries its stage notebooks, its style and its page, and writes only where it is called."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent
SOURCES = ("settings.ini", "setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE", "pointwssis", "nbs/stages", "workflow")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    "A folder with the installed package, built from a copy of its sources."
    place = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        new = place / "source" / name
        new.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, new)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile",
               "--no-build-isolation", "--disable-pip-version-check", "--target", place / "site", place / "source"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return place / "site"


def test_the_package_carries_what_is_no_module(site):
    names = {path.name for path in (ROOT / "nbs/stages").glob("*.ipynb")}
    assert {path.name for path in (site / "pointwssis/stage_notebooks").glob("*.ipynb")} == names
    assert (site / "pointwssis/workflow/Snakefile").read_bytes() == (ROOT / "workflow/Snakefile").read_bytes()
    for pattern in ("*.mplstyle", "*.html", "*.md", "bridges/configs/*.*"):
        assert {path.name for path in (site / "pointwssis").glob(pattern)} == {path.name for path in (ROOT / "pointwssis").glob(pattern)} != set()


def test_a_stage_runs_from_the_installed_package(site, tmp_path, drawn):
    shutil.copytree(drawn, tmp_path / "data")
    command = [site / "bin/pointwssis", "run", "split", "--data-root", "data", "--split", "50p"]
    before = sorted(site.rglob("*"))
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "outputs"]
    assert sorted(site.rglob("*")) == before
