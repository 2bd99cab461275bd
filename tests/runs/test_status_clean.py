"`pointwssis status` tells the truth about runs; `pointwssis clean` names what it would remove, and takes nothing that is needed or at work."
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pointwssis.core import StageError, write_json
from pointwssis.data.store import cache_folder
from pointwssis.process import claim
from pointwssis.runs.clean import rooms
from pointwssis.runs.cli import main
from pointwssis.runs.fingerprints import is_done
from pointwssis.runs.status import disk_use, state_of
from fake_stages import notebook, run, writes

RUN = Path("outputs/runs/shapes/10p/s0")


def said(capsys, *argv: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main([*argv]) == code
    return "".join(capsys.readouterr())


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def finished(place: Path, **files: int) -> None:
    "A finished stage with files of so many bytes."
    (place / "artifacts").mkdir(parents=True)
    for name, size in files.items(): (place / "artifacts" / name.replace("__", ".")).write_bytes(b"x" * size)
    write_json(place / "params.json", {"status": "done", "artifacts": {"files": len(files), "bytes": sum(files.values())}})


def test_an_interrupted_run_goes_on_after_a_clean_of_caches_and_states(stages, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run(stages, "split")
    cut = "from pathlib import Path\nPath(out, 'state.pt').write_text('step 8')\nimport os, signal\nos.kill(os.getppid(), 0)\nraise KeyboardInterrupt"
    notebook(stages / "teacher.ipynb", cut)
    with pytest.raises(StageError): run(stages, "teacher")
    shutil.move(RUN / "failed/teacher", RUN / ".teacher.partial")      # as a killed process leaves it
    cache_folder().mkdir(parents=True, exist_ok=True)
    (cache_folder() / "one.json").write_text("{}")
    assert "teacher partial" in said(capsys, "status")
    assert "freed" in said(capsys, "clean", "caches", "states", "--yes") and not list(cache_folder().iterdir())
    notebook(stages / "teacher.ipynb", "from pathlib import Path\nassert Path(out, 'state.pt').read_text() == 'step 8'", writes("teacher"))
    assert run(stages, "teacher").how == "ran" and state_of(RUN, "teacher") == "done"
    assert "states" in said(capsys, "clean", "--yes")
    assert not (RUN / "teacher/artifacts/state.pt").exists() and run(stages, "teacher").how == "kept"


def test_status_lists_runs_stages_scores_and_disk_use(here, capsys):
    finished(RUN / "split", a__json=100)
    finished(RUN / "evaluate", b__json=900)
    write_json(RUN / "evaluate/metrics.json", {"teacher_ap_percent": 10.04, "student_sw_refined_ap_percent": 21.})
    (RUN / "failed/pseudo").mkdir(parents=True)
    other = Path("outputs/runs/birds/12.5p-levels/s3")
    (other / ".teacher.partial").mkdir(parents=True)
    os.link(RUN / "split/artifacts/a.json", other / "a.json")
    Path("outputs/runs/birds/data").mkdir()
    with claim(RUN / "student"):
        lines = said(capsys, "status").splitlines()
        made = {row["run"]: row for row in json.loads(said(capsys, "status", "--json"))}
    assert lines[0].split() == ["run", "stages", "teacher", "student", "supervised", "labels", "disk"]
    assert lines[1].startswith("birds/12.5p-levels/s3  teacher partial") and "2 done, pseudo failed, student running" in lines[2]
    assert lines[2].split()[-6:-1] == ["10.0", "21.0", "—", "—", lines[2].split()[-2]] and len(lines) == 4
    assert made["shapes/10p/s0"]["stages"] == {"split": "done", "evaluate": "done", "pseudo": "failed", "student": "running"}
    assert made["birds/12.5p-levels/s3"]["bytes"] + made["shapes/10p/s0"]["bytes"] == disk_use([Path("outputs")])


def test_status_without_a_run(here, capsys):
    assert "outputs/runs: no such folder of runs" in said(capsys, "status", code=2)
    Path("outputs/runs").mkdir(parents=True)
    assert "No run yet" in said(capsys, "status")


def test_clean_says_what_it_would_free_before_it_does(here, capsys, monkeypatch):
    finished(RUN / "teacher", state__pt=4000, last__safetensors=50)
    (RUN / ".student.partial/artifacts").mkdir(parents=True)
    (RUN / ".student.partial/artifacts/state.pt").write_bytes(b"x" * 7000)
    for argv in (["clean"], ["clean", "states"]):
        text = said(capsys, *argv)
        assert "4.0 kB" in text and ("7.0 kB" in text) == (argv == ["clean"]) and "Nothing was removed. Pass --yes" in text
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer in ("", "n", "what"):
        monkeypatch.setattr("builtins.input", lambda text: answer)
        assert "Nothing was removed." in said(capsys, "clean")
    assert (RUN / "teacher/artifacts/state.pt").is_file()
    monkeypatch.setattr("builtins.input", lambda text: "y")
    assert "11 kB freed" in said(capsys, "clean") and is_done(RUN / "teacher")
    assert (RUN / "teacher/artifacts/last.safetensors").is_file() and not (RUN / ".student.partial").exists()
    assert "Nothing to free." in said(capsys, "clean")


def test_a_run_goes_by_name_alone(here, capsys):
    finished(RUN / "teacher", last__safetensors=50)
    finished(RUN.with_name("s1") / "teacher", last__safetensors=50)
    assert "Nothing to free." in said(capsys, "clean", "--yes")
    assert "no run 'shape'. Did you mean 'shapes'?" in said(capsys, "clean", "shape", "--yes", code=2)
    assert "everything of this run" in said(capsys, "clean", "shapes/10p/s0", "--yes") and not RUN.exists() and RUN.with_name("s1").exists()
    said(capsys, "clean", "shapes", "--yes")
    assert list(Path("outputs/runs").iterdir()) == []


def test_folds_of_a_cross_validation_are_runs_too(here, capsys):
    fold = Path("outputs/runs/birds/folds/fold1/20p/s0")
    finished(Path("outputs/runs/birds/20p/s0/teacher"), last__safetensors=50)
    finished(fold / "teacher", state__pt=4000)
    assert [line.split()[0] for line in said(capsys, "status").splitlines()] == ["run", "birds/20p/s0", "birds/folds/fold1/20p/s0", "all"]
    with claim(fold / "student"): assert "left alone, student is running" in said(capsys, "clean", "birds", "--yes")
    assert "4.0 kB freed" in said(capsys, "clean", "states", "--yes")
    said(capsys, "clean", "birds", "--yes")
    assert not Path("outputs/runs/birds").exists()


def test_a_stage_at_work_is_left_alone(here, capsys):
    finished(RUN / "teacher", state__pt=4000)
    with claim(RUN / "teacher"):
        assert "left alone, teacher is running" in said(capsys, "clean", "--yes")
        assert "left alone, teacher is running" in said(capsys, "clean", "shapes", "--yes")
    with claim(RUN / "student") as partial:
        (partial / "state.pt").touch()
        assert "left alone, student is running" in said(capsys, "clean", "partial", "--yes") and (partial / "state.pt").exists()
        (partial / "state.pt").unlink()
    assert (RUN / "teacher/artifacts/state.pt").exists()


def test_committed_evidence_is_left_alone(here, capsys):
    finished(RUN / "teacher", state__pt=4000)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    Path(".gitignore").write_text("artifacts/\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "evidence"]): subprocess.run([*git, *words], check=True)
    for words in ([], ["states"], ["shapes"], ["shapes/10p/s0"]):
        assert "left alone, git tracks files of this run" in said(capsys, "clean", *words, "--yes")
    assert (RUN / "teacher/artifacts/state.pt").exists()
    finished(RUN.with_name("s1") / "teacher", state__pt=4000)      # not tracked
    assert [room.place for room in rooms(Path("outputs/runs"), ["states"], lambda text: None)] == [RUN.with_name("s1") / "teacher"]


def test_a_folder_of_runs_that_is_not_there_is_named(tmp_path, capsys):
    "Caches can be freed without runs, so it is a note and no error."
    assert main(["clean", "--runs", str(tmp_path / "nope")]) == 0
    assert f"{tmp_path / 'nope'}: no such folder of runs" in capsys.readouterr().out


def test_without_git_a_checkout_is_left_alone(here, capsys, monkeypatch):
    finished(RUN / "teacher", state__pt=4000)
    def missing(*args, **options): raise FileNotFoundError("git")
    monkeypatch.setattr("pointwssis.runs.clean.subprocess.run", missing)
    assert len(rooms(Path("outputs/runs"), ["states"], print)) == 1
    Path(".git").mkdir()
    assert rooms(Path("outputs/runs"), ["states"], print) == []


def test_the_sum_of_a_manifest_follows(here, capsys):
    from pointwssis.core import file_hash
    finished(RUN / "teacher", state__pt=4000)
    manifest, sums = RUN / "teacher/params.json", Path("outputs/figures/SHA256SUMS")
    sums.parent.mkdir()
    sums.write_text(f"{file_hash(manifest)}  ../runs/shapes/10p/s0/teacher/params.json\n" + "0" * 64 + "  other\n")
    said(capsys, "clean", "states", "--yes")
    assert sums.read_text().split() == [file_hash(manifest), "../runs/shapes/10p/s0/teacher/params.json", "0" * 64, "other"]
