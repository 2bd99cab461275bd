"""`make test` fails when a test writes into the checkout."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("body, code", [("pass", 0), ("open('left', 'w').close()", 1)])
def test_a_file_left_in_the_checkout_fails_the_run(body, code, tmp_path):
    tests = tmp_path / "tests"
    tests.mkdir()
    shutil.copy(Path(__file__).parent / "conftest.py", tests)
    (tests / "test_one.py").write_text(f"def test_one():\n    {body}\n")
    (tmp_path / ".gitignore").write_text("__pycache__\n.pytest_cache\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    command = [sys.executable, "-m", "pytest", "-q", "--unchanged", "-p", "no:xdist"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env)
    assert done.returncode == code and ("?? left" in done.stdout) == bool(code), done.stdout
    assert "1 passed" in done.stdout.splitlines()[-1]
