"""The examples in the notebooks are tests too: every one of them runs from top to bottom."""
import atexit
import gc
import io
import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr
from multiprocessing import get_context, set_start_method
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "nbs").rglob("*.ipynb")
                   if not path.parent.name.startswith((".", "_")) and not (path.parent / ".notest").exists())


def errors_of(notebook: str) -> str:
    "Run a notebook as nbdev_test does; the error of its last cell, if it has one."
    from nbdev.test import test_nb as run
    set_start_method(None, force=True)   # a notebook's own processes start as they do for its reader
    atexit.register(gc.freeze)   # at the end each notebook's shell collects garbage: half a minute, unless nothing is left to look at
    os.environ["POINTWSSIS_NOTEBOOK_STEPS"] = "6"   # trainings of minutes for a reader take seconds here
    with redirect_stderr(io.StringIO()) as told:
        passed, _ = run(ROOT / notebook, skip_flags=["notest"], basepath=ROOT)
    return "" if passed else told.getvalue() or "it failed without a word"


@pytest.fixture(scope="module")
def elsewhere():
    "Another process, so that a notebook leaves nothing behind for other tests."
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool: yield pool


def needs_detectron2(notebook: str) -> bool:
    "True if a notebook of the bridge does more than require Detectron2."
    return "8_bridges" in notebook and "d2_install" not in Path(notebook).stem


def marked(notebook: str):
    "A notebook as a parameter; those that train for minutes belong to the long tests."
    return pytest.param(notebook, marks=[pytest.mark.slow] * notebook.endswith("_tutorial.ipynb"))


@pytest.mark.parametrize("notebook", list(map(marked, NOTEBOOKS)))
def test_every_notebook_runs(notebook, elsewhere):
    if needs_detectron2(notebook): pytest.importorskip("detectron2._C", reason="Detectron2 cannot be imported: docs/detectron2.md", exc_type=ImportError)
    error = elsewhere.submit(errors_of, notebook).result()
    assert not error, error
