"""The examples in the notebooks are tests too: every one of them runs from top to bottom."""
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_notebook_runs():
    command = [Path(sys.executable).parent / "nbdev_test", "--n_workers", "2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
