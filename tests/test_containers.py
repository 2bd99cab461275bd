"The Dockerfiles name files that exist, install the lock, and end as another user than root."
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "containers"))

import try_steps      # noqa: E402

FILES = ("containers/Dockerfile", "containers/Dockerfile.cuda")


def steps(name: str) -> list[tuple[str, str]]: return try_steps.instructions((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", FILES)
def test_the_image_is_made_from_the_lock_and_belongs_to_a_user(name):
    found = steps(name)
    words = dict(found)
    assert found[0][0] == "FROM" and words["USER"].startswith("1000") and words["ENTRYPOINT"] == '["containers/entry.sh"]'
    runs = [text for kind, text in found if kind == "RUN"]
    assert any(text.startswith("make setup") for text in runs)
    order = [kind if kind != "RUN" else text.split()[0] for kind, text in found]
    assert order.index("COPY") < order.index("make") < len(order) - 1 - order[::-1].index("COPY")      # code that changes leaves the packages alone


@pytest.mark.parametrize("name", FILES)
def test_folders_that_the_package_consists_of_are_there_when_it_is_installed(name):
    folders = re.findall(r'"pointwssis\.\w+": "([\w/]+)"', (ROOT / "setup.py").read_text(encoding="utf-8"))
    found = steps(name)
    before = found[:found.index(next(step for step in found if step[1].startswith("make setup")))]
    copied = {path.as_posix() for kind, words in before if kind == "COPY" for path in try_steps.copied(words)}
    assert len(folders) == 2 and all(any(path.startswith(f"{folder}/") for path in copied) for folder in folders)


def test_both_images_are_alike_but_for_the_gpu():
    plain, cuda = ({pair for pair in steps(name) if pair[0] != "ENV"} for name in FILES)
    assert plain == cuda and "NVIDIA_DRIVER_CAPABILITIES" in dict(steps(FILES[1]))["ENV"]


def test_files_that_are_copied_exist_and_runs_stay_outside():
    for name in FILES:
        for kind, words in steps(name):
            if kind == "COPY": assert try_steps.copied(words), words
    everything = {path.as_posix() for path in try_steps.copied("--chown=user:user . .")}
    assert {"containers/entry.sh", "pointwssis/__init__.py", "requirements.lock", "nbs/00_tour.ipynb"} <= everything
    assert not [name for name in everything if name.startswith(("runs/", ".git/", "outputs/", ".venv/")) or "__pycache__" in name]


def test_a_step_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="ADD"): try_steps.instructions("FROM a\nADD b c\n")


def test_lines_that_go_on_are_one_step():
    assert try_steps.instructions("# note\nRUN a \\\n    # why\n    && b\nUSER 1000") == [("RUN", "a && b"), ("USER", "1000")]


@pytest.mark.parametrize("words, called", [(["reproduce", "--dataset", "demo"], "pointwssis reproduce --dataset demo"), (["lab", "--port=1"], "jupyter lab")])
def test_the_entry_starts_a_command_or_jupyterlab(tmp_path, words, called):
    for program in ("pointwssis", "jupyter"):
        (tmp_path / program).write_text(f'#!/bin/sh\necho {program} "$@"\n')
        (tmp_path / program).chmod(0o755)
    command = [shutil.which("bash"), str(ROOT / "containers/entry.sh"), *words]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    assert done.stdout.startswith(called) and words[-1] in done.stdout
