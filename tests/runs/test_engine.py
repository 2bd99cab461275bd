"A workflow engine gets the options of `reproduce` and limits of each stage; on a real Slurm it ends with the runner's numbers."
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pointwssis.core import StageError, file_hash
from pointwssis.data import shapes
from pointwssis.runs import engine
from pointwssis.runs.cli import main
from pointwssis.runs.presets import preset
from pointwssis.runs.stage_graph import STAGES, config_of, wanted_stages
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


# images of 64 pixels, in fp32 on one thread, so that two executions give equal numbers
BRIEF = TINY | {"controls": False, "data.short_side": 64, "data.long_side": 64} | {
    f"{who}_train.{key}": value for who in ("teacher", "student", "refiner")
    for key, value in {"steps": 4, "batch_size": 2, "precision": "fp32", "short_sides": (64,), "long_side": 64}.items()}
PROFILE = """executor: slurm
jobs: 2
latency-wait: 20
restart-times: 1
slurm-status-command: squeue
slurm-init-seconds-before-status-checks: 5
default-resources:
  slurm_partition: gpu
  slurm_account: none
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> dict[str, str]:
    "A folder with drawn data and a profile; the environment in which the command line finds this checkout."
    monkeypatch.chdir(tmp_path)
    shapes.write(tmp_path / "data", train=12, val=4)
    for name in ("profile", "bin"): (tmp_path / name).mkdir()
    (tmp_path / "profile/config.yaml").write_text(PROFILE)
    (tmp_path / "bin/pointwssis").write_text(f"#!/bin/sh\nexec {sys.executable} -c 'import sys; from pointwssis.runs.cli import main; sys.exit(main())' \"$@\"\n")
    (tmp_path / "bin/pointwssis").chmod(0o755)
    return {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
            "PYTHONPYCACHEPREFIX": str(tmp_path / "compiled"), "PYTHONDONTWRITEBYTECODE": ""}    # modules are compiled once, not in each of 200 processes


COMMAND = ["pointwssis", "reproduce", "--dataset=shapes", "--data-root=data", *(f"--set={key}={json.dumps(value)}" for key, value in BRIEF.items())]


def results(runs: Path, split: str, seed: int) -> dict[str, str]:
    "Hashes of the weights and annotation files that all stages of a run have made."
    folder = runs / f"shapes/{split}/s{seed}"
    return {str(path.relative_to(folder)): file_hash(path) for kind in ("safetensors", "json") for path in folder.glob(f"*/artifacts/*.{kind}")
            if path.name != "history.json"}


def metrics(runs: Path, split: str, seed: int) -> dict[str, float]:
    found = json.loads((runs / f"shapes/{split}/s{seed}/evaluate/metrics.json").read_text())
    return {key: value for key, value in found.items() if key != "stages"}


def jobs_of(env: dict[str, str]) -> list[dict[str, str]]:
    "All jobs that the cluster has had."
    text = subprocess.run(["scontrol", "show", "jobs", "--oneliner"], env=env, capture_output=True, text=True, check=True).stdout
    return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in text.splitlines() if line.startswith("JobId")]


def kill_a_teacher(env: dict[str, str], run: subprocess.Popen) -> None:
    "Cancel the first job of a teacher once its notebook runs."
    while run.poll() is None:
        time.sleep(1)
        found = [job for job in jobs_of(env) if job["JobState"] == "RUNNING" and "rule_teacher" in job.get("Comment", "")]
        if found and list(Path("outputs/runs").glob("*/*/*/.teacher.partial/*.ipynb")):
            subprocess.run(["scancel", found[0]["JobId"]], env=env, check=True)
            return


def check_limits(jobs: list[dict[str, str]]) -> None:
    "Each stage has asked for what the presets say."
    for job in jobs:
        stage, split, seed = re.match(r"rule_(\w+)_wildcards_shapes_(\d+p)_s(\d)", job["Comment"]).groups()
        limits = engine.resources_of(STAGES[stage], config_of("shapes", split, int(seed), overrides=BRIEF))
        hours, minutes, _ = map(int, job["TimeLimit"].rpartition("-")[2].split(":"))
        days = int(job["TimeLimit"].rpartition("-")[0] or 0)
        asked = dict(pair.split("=") for pair in job.get("ReqTRES", job.get("TRES")).split(","))   # newer and older Slurm
        assert (24 * days + hours) * 60 + minutes == limits["runtime"] and int(job["CPUs/Task"]) == limits["cpus_per_task"]
        assert asked["mem"] == f"{limits['mem_mb'] // 1024}G" and int(job.get("TresPerJob", "gpu:0").rpartition(":")[2]) == limits["gpu"]


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()) or not SNAKEMAKE, reason="wants Debian's slurmctld, slurmd, slurm-client and munge, and pip install 'pointwssis[cluster]'")
def test_two_splits_and_two_seeds_on_a_real_slurm(tmp_path, here):
    "All stages as jobs of a cluster of one node; a job that is killed; nothing is run again; the numbers are the runner's."
    with cluster(tmp_path / "slurm") as env:
        env |= here
        command = [*COMMAND, "--engine=snakemake", "--profile=profile", "--splits=25p,50p", "--seeds=0,1"]
        run = subprocess.Popen(command, env=env)
        kill_a_teacher(env, run)
        assert run.wait() == 0
        jobs, before = jobs_of(env), {path: path.stat().st_mtime_ns for path in Path("outputs/runs").glob("*/*/*/*/params.json")}
        (killed,) = [job for job in jobs if job["JobState"] == "CANCELLED"]
        stages = [job for job in jobs if job["JobState"] == "COMPLETED" and job["Comment"] != "rule_all"]
        assert killed["Comment"] in {job["Comment"] for job in stages} and len(stages) == len(before) == 4 * len(wanted_stages(config_of(overrides=BRIEF)))
        check_limits(stages)
        assert subprocess.run(command, env=env).returncode == 0
        again = [job["Comment"] for job in jobs_of(env) if job["JobId"] not in {one["JobId"] for one in jobs}]
        assert again == ["rule_all"] and {path: path.stat().st_mtime_ns for path in before} == before     # the tables alone
    subprocess.run([*COMMAND, "--split=25p", "--seed=1", "--runs=by_runner", "--jobs=1"], env=env, check=True)
    assert metrics(Path("outputs/runs"), "25p", 1) == metrics(Path("by_runner"), "25p", 1)
    assert results(Path("outputs/runs"), "25p", 1) == results(Path("by_runner"), "25p", 1)
