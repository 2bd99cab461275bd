"Settings of all tests: one thread, a cache folder of their own, and a checkout that stays as it was."
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BY_XDIST = "PYTEST_XDIST_WORKER" in os.environ      # this process is one of several; the first has set what follows
if not BY_XDIST:
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("MPLCONFIGDIR", str(user_cache / "matplotlib"))   # its list of fonts takes seconds to make
    own = tempfile.mkdtemp(prefix="pointwssis-tests-")
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "agg",
                   "XDG_CACHE_HOME": own, "IPYTHONDIR": f"{own}/ipython"}


LONG = ("tests/test_notebooks.py", "tests/runs/", "tests/method/", "tests/training/", "tests/report/")


def pytest_collection_modifyitems(items):
    "Folders of long files first: make test gives each process a file at a time, and none should wait for another at the end."
    items.sort(key=lambda item: next((n for n, start in enumerate(LONG) if item.nodeid.startswith(start)), len(LONG)))


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    "The built-in data set with 12 images for training and 4 for validation; nobody changes it."
    from pointwssis.data import shapes
    return shapes.write(tmp_path_factory.mktemp("drawn") / "data", train=12, val=4)


@pytest.fixture(scope="session")
def kernel_pool():
    "Kernels that serve the stages of many tests."
    from pointwssis.runs.kernels import Kernels
    pool = Kernels()
    yield pool
    pool.clear()


@contextmanager
def keep_kernels(pool, patch):
    "Stages run in kernels of a pool that are there already, in the working directory of the test."
    from pointwssis.process import end_orphans
    from pointwssis.runs import kernels, runner

    @contextmanager
    def there():
        end_orphans()
        if any(kernel.stopped for kernel in pool._all): pool.clear()
        here = f"__import__('pointwssis.runs.kernels').runs.kernels._FIRST.update(cwd={os.getcwd()!r}) or __import__('os').chdir({os.getcwd()!r})"
        for kernel in pool._all:
            if kernel.is_alive(): kernels.ask(kernel, "", here)
        yield pool
    patch.setattr(runner, "kernels", there)
    yield


@pytest.fixture
def warm(kernel_pool, monkeypatch):
    "Stages run in kernels that served other tests."
    with keep_kernels(kernel_pool, monkeypatch): yield


@pytest.fixture(scope="module")
def warm_module(kernel_pool):
    "The same for all tests of a file, and for what its fixtures run."
    with pytest.MonkeyPatch.context() as patch, keep_kernels(kernel_pool, patch): yield


@pytest.fixture
def half_a_second(monkeypatch):
    "Each step of a training takes half a second, for which no image is drawn."
    from pointwssis.runs import timing
    monkeypatch.setattr(timing, "_images_of", lambda cfg, folder: None)
    monkeypatch.setattr(timing, "seconds_of_step", lambda cfg, strong: .5)


@pytest.fixture
def stages(tmp_path, monkeypatch) -> Path:
    "Fake notebooks for every stage; the working directory is a folder of its own."
    from fake_stages import PARAMETERS, notebook, writes
    from pointwssis.runs import runner
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "_machine", lambda *_: {"device": "CPU", "precision": ""})     # loads no torch
    monkeypatch.setattr(runner, "git_commit", lambda: "")
    monkeypatch.setattr(runner, "default_jobs", lambda *_: 1)
    for name in {stage.notebook or stage.name for stage in runner.STAGES.values()}:
        labels = {"student": '\nlabels = "sw"', "pseudo": "\npoints = True"}.get(name, "")
        notebook(tmp_path / "stages" / f"{name}.ipynb", writes(name), parameters=PARAMETERS + labels)
    return tmp_path / "stages"


def pytest_addoption(parser):
    parser.addoption("--unchanged", action="store_true", help="fail when the tests leave git status different")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config) -> int:
    "One worker more than cores, as tests also wait, and at most eight: each holds torch in its memory."
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores + 1, 8)


def git_status() -> str:
    command = ["git", "status", "--porcelain", "--untracked-files=all"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout


def pytest_sessionstart(session):
    if not BY_XDIST and session.config.getoption("--unchanged"): session.config.git_status = git_status()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    config = session.config
    if not BY_XDIST and hasattr(config, "git_status") and (now := git_status()) != config.git_status:
        config.left_behind = f"The tests changed the checkout. Before:\n{config.git_status}\nAfter:\n{now}"
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    if text := getattr(config, "left_behind", ""): terminalreporter.write_line(text, red=True)


def pytest_unconfigure():
    if not BY_XDIST: shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)
