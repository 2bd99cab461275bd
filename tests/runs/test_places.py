"A start that is killed while it makes room for another attempt loses nothing."
import json
import os
from pathlib import Path

import pytest

from pointwssis.runs import places


@pytest.fixture
def left(tmp_path) -> tuple[Path, Path]:
    "A working folder with a training state, and the stage's place."
    partial = tmp_path / ".teacher.partial"
    (partial / "artifacts").mkdir(parents=True)
    (partial / "artifacts/state.pt").write_text("a state")
    (partial / "params.json").write_text(json.dumps({"fingerprint": "old"}))
    return partial, tmp_path / "teacher"


def killed_at(monkeypatch, number: int) -> None:
    "Let the n-th renaming be the last thing that happens."
    real, seen = os.replace, []
    def replace(*names):
        seen.append(names)
        if len(seen) == number: raise KeyboardInterrupt
        return real(*names)
    monkeypatch.setattr(places.os, "replace", replace)


@pytest.mark.parametrize("number", [1, 2])
def test_a_training_state_is_moved_aside_whole(left, monkeypatch, number):
    partial, target = left
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        killed_at(patch, number)
        places.prepare_folder(partial, target, "new", resumes=True, afresh=False)
    places.prepare_folder(partial, target, "new", resumes=True, afresh=False)
    assert [path.read_text() for path in target.parent.rglob("state.pt")] == ["a state"]
    assert [path.parts[-3][:-2] for path in target.parent.rglob("state.pt")] == ["teacher"]
    assert [path.name for path in partial.iterdir()] == ["artifacts"] and not any((partial / "artifacts").iterdir())


@pytest.mark.parametrize("number", [1, 2])
def test_an_attempt_that_failed_is_taken_up_whole(left, monkeypatch, number):
    partial, target = left
    failed = target.parent / "failed" / "teacher"
    failed.parent.mkdir()
    partial.rename(failed)
    partial.mkdir()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        killed_at(patch, number)
        places.prepare_folder(partial, target, "old", resumes=True, afresh=False)
    places.prepare_folder(partial, target, "old", resumes=True, afresh=False)
    assert (partial / "artifacts/state.pt").read_text() == "a state"
    assert json.loads((partial / "params.json").read_text()) == {"fingerprint": "old"}


def test_the_time_of_a_killed_attempt_is_that_to_its_last_file(left):
    "A stage that goes on from a killed and a failed attempt counts the seconds of both."
    partial, target = left
    def attempt(folder, begun, last, **manifest):
        (folder / "params.json").write_text(json.dumps({"fingerprint": "old", "source": "code", **manifest}))
        os.utime(folder / "params.json", (begun, begun))
        for path in (folder, folder / "artifacts", folder / "artifacts/state.pt"): os.utime(path, (last, last))
    attempt(partial, 1000, 1090, status="running", wall_s=10)
    assert places.prepare_folder(partial, target, "old", resumes=True, afresh=False) == ("code", 100)
    failed = target.parent / "failed" / "teacher"
    failed.parent.mkdir()
    partial.rename(failed)
    attempt(failed, 1000, 1090, status="failed", wall_s=130)
    partial.mkdir()
    assert places.prepare_folder(partial, target, "old", resumes=True, afresh=False) == ("code", 130)
