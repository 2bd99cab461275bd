"A workflow engine gets the options of `reproduce` and limits of each stage; on a real Slurm it ends with the runner's numbers."
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pointwssis.core import StageError
from pointwssis.data import shapes
from pointwssis.runs import engine
from pointwssis.runs.cli import main
from pointwssis.runs.presets import preset
from pointwssis.runs.stage_graph import STAGES
from pointwssis.runs.fingerprints import is_done
from chain import TINY
from slurm import cluster, missing
from test_workflow import SNAKEMAKE

ROOT = Path(__file__).parents[2]


@pytest.fixture
def started(monkeypatch, tmp_path) -> list:
    "Commands that would have been run; Snakemake counts as installed."
    commands = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "find_spec", lambda name: True)
    monkeypatch.setattr(engine.subprocess, "run", lambda command: commands.append(command) or subprocess.CompletedProcess(command, 0))
    return commands


def test_the_options_of_reproduce_reach_the_workflow(started, tmp_path):
    (tmp_path / "profile").mkdir()
    words = ["reproduce", "--engine", "snakemake", "--profile", "profile", "--splits", "5p,10p", "--seeds", "0,1", "--ablations", "levels", "--labels-only",
             "--set", "student_train.steps=5", "--devices", "4", "--jobs", "7", "--runs", "elsewhere"]
    assert main(words) == 0
    ((*command,),) = started
    assert command[1:3] == ["-m", "snakemake"] and command[-4:] == ["--profile", "profile", "--jobs", "7"] and str(engine.WORKFLOW) in command
    assert json.loads(engine.SETTINGS.read_text()) == {
        "dataset": "shapes", "splits": ["5p", "10p"], "seeds": [0, 1], "tables": "levels", "labels_only": True, "data_root": "",
        "overrides": {"student_train.steps": 5}, "runs": "elsewhere", "devices": 4}


@pytest.mark.parametrize("words, message", [(["--engine", "snakemak"], "unknown engine 'snakemak'. Did you mean 'snakemake'?"),
                                            (["--engine", "snakemake", "--profile", "none"], "profile none: no such folder"),
                                            (["--engine", "snakemake", "--force"], "--force and --same-code do not go with --engine")])
def test_bad_options_of_an_engine_are_one_line(started, capsys, words, message):
    assert main(["reproduce", *words]) == 2 and not started
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_a_missing_engine_is_named_with_its_cure(started, capsys, monkeypatch):
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    assert main(["reproduce", "--engine", "snakemake"]) == 2 and not started
    assert "Run pip install 'pointwssis[cluster]'." in capsys.readouterr().err


def test_a_failed_workflow_is_an_error(started, monkeypatch):
    monkeypatch.setattr(engine.subprocess, "run", lambda command: subprocess.CompletedProcess(command, 1))
    with pytest.raises(StageError, match="exit code 1.*goes on from there"): engine.run_engine({})


def test_limits_follow_the_schedule_and_the_processes():
    coco, tiny = preset("coco", "10p"), preset("shapes")
    one, eight = (engine.resources_of(STAGES["student"], coco, n) for n in (1, 8))
    assert (one["gpu"], eight["gpu"]) == (1, 8) and eight["mem_mb"] == 8 * one["mem_mb"] and eight["cpus_per_task"] == 8 * one["cpus_per_task"]
    assert one["runtime"] - 60 == pytest.approx(8 * (eight["runtime"] - 60), abs=8) and one["runtime"] > 60 * 500
    assert engine.resources_of(STAGES["student"], tiny)["runtime"] < 180 and engine.resources_of(STAGES["split"], coco)["gpu"] == 0


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()) or not SNAKEMAKE, reason="wants Debian's slurmctld, slurmd, slurm-client and munge, and pip install 'pointwssis[cluster]'")
def test_two_splits_and_two_seeds_on_a_real_slurm(tmp_path, monkeypatch):
    "All stages as jobs of a cluster of one node; a job that is killed; nothing is run again; the numbers are the runner's."
    monkeypatch.chdir(tmp_path)
    shapes.write(tmp_path / "data", train=12, val=4)
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile/config.yaml").write_text("executor: slurm\njobs: 2\nlatency-wait: 20\nrestart-times: 1\nslurm-status-command: squeue\n"
                                                  "slurm-init-seconds-before-status-checks: 5\ndefault-resources:\n  slurm_partition: gpu\n  slurm_account: none\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/pointwssis").write_text(f"#!/bin/sh\nexec {sys.executable} -c 'import sys; from pointwssis.runs.cli import main; sys.exit(main())' \"$@\"\n")
    (tmp_path / "bin/pointwssis").chmod(0o755)
    changes = [f"--set={key}={json.dumps(value)}" for key, value in (TINY | {"controls": False}).items()]
    command = ["pointwssis", "reproduce", "--dataset=shapes", "--data-root=data", *changes]
    with cluster(tmp_path / "slurm") as env:
        env |= {"PATH": f"{tmp_path / 'bin'}:{env['PATH']}", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        jobs = [*command, "--engine=snakemake", "--profile=profile", "--splits=25p,50p", "--seeds=0,1"]
        run = subprocess.Popen(jobs, env=env)
        while run.poll() is None and not (found := subprocess.run(["squeue", "-h", "-t", "R", "-o", "%i %j %k"], env=env, capture_output=True,
                                                                  text=True).stdout.partition("teacher")[0].split("\n")[-1]): pass
        subprocess.run(["scancel", found.split()[0]], env=env, check=True)
        assert run.wait() == 0
        before = {path: path.stat().st_mtime_ns for path in Path("outputs/runs").glob("*/*/*/*/params.json")}
        assert subprocess.run(jobs, env=env).returncode == 0
        assert {path: path.stat().st_mtime_ns for path in before} == before
    folders = [Path(f"outputs/runs/shapes/{split}/s{seed}") for split in ("25p", "50p") for seed in (0, 1)]
    assert all(is_done(folder / stage) for folder in folders for stage, one in STAGES.items() if not one.control)
    subprocess.run([*command, "--split=25p", "--seed=1", "--runs=by_runner", "--jobs=1"], env=env, check=True)
    by_engine, by_runner = (json.loads((Path(runs) / "shapes/25p/s1/evaluate/metrics.json").read_text()) for runs in ("outputs/runs", "by_runner"))
    assert {k: v for k, v in by_engine.items() if k != "stages"} == {k: v for k, v in by_runner.items() if k != "stages"}
