"The time of a run is said before it starts, from steps of the detector that will be trained."
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pointwssis.core import write_json
from pointwssis.data import coco
from pointwssis.detector.solov2 import SOLOv2
from pointwssis.method import training_stages
from pointwssis.process import GROUP
from pointwssis.registry import DETECTORS
from pointwssis.runs import runner, summary, sweeps, timing
from pointwssis.runs.cli import main
from pointwssis.runs.presets import preset
from pointwssis.runs.settings import SIZES
from pointwssis.runs.stage_graph import wanted_stages
from pointwssis.runs.sweeps import experiments
from pointwssis.runs.timing import estimate, estimate_of, estimate_of_all, seconds_of_step, work_of

STAGES = wanted_stages(preset("shapes"))


@pytest.fixture
def strong(drawn) -> coco.CocoData: return coco.load(drawn / "annotations/instances_train.json", drawn / "train", "masks")


def test_steps_are_those_of_the_detector_that_is_configured(strong, monkeypatch):
    asked = []
    class Other(SOLOv2):
        @staticmethod
        def batch(cfg, items):
            asked.append("batch")
            return SOLOv2.batch(cfg, items)
        def loss(self, batch):
            asked.append("loss")
            return SOLOv2.loss(self, batch)
    monkeypatch.setitem(DETECTORS._found, "solov2", Other)
    cfg = preset("shapes", **{"teacher_train.batch_size": 2})
    monkeypatch.setattr(timing, "WARM", (3, 3))
    found = seconds_of_step(cfg, strong, steps=2)
    assert found.shape == (2,) and (found > 0).all() and found.max() < 60
    assert asked.count("loss") == asked.count("batch") == 2 + 5      # one and one, then three and two


def test_slow_steps_are_not_waited_for(monkeypatch, strong):
    calls = []
    monkeypatch.setattr(timing, "_seconds", lambda cfg, strong, warm, steps: calls.append((warm, steps)) or np.full(steps, 48.))
    assert seconds_of_step(preset("shapes"), strong) == [48.] and calls == [(1, 1)]


@pytest.mark.parametrize("first, warm", [(.01, 40), (.5, 10), (4., 5)])
def test_the_first_seconds_do_not_count(monkeypatch, strong, first, warm):
    calls = []
    monkeypatch.setattr(timing, "_seconds", lambda cfg, strong, warm, steps: calls.append((warm, steps)) or np.full(steps, first))
    seconds_of_step(preset("shapes"), strong)
    assert calls == [(1, 1), (warm, 10)]


@pytest.mark.parametrize("device, batch, accumulated, timed", [("cuda", 16, 1, 4), ("cpu", 16, 1, 8), ("cuda", 6, 1, 6), ("cuda", 16, 8, 16)])
def test_a_step_is_the_share_of_one_process(monkeypatch, strong, device, batch, accumulated, timed):
    "Four processes, two a machine: GPUs divide a batch by four, cores by the machines; a batch that cannot be shared stays whole."
    asked = []
    def fit_detector(cfg, strong, net, schedule, out, log_every):
        asked.append(schedule.batch_size)
        write_json(out / "history.json", [{"images_per_s": 2.}] * schedule.steps)
    monkeypatch.setenv(GROUP, "127.0.0.1 29400 4 2")
    monkeypatch.setattr(timing, "pick_device", lambda name: torch.device(device))
    monkeypatch.setattr(training_stages, "fit_detector", fit_detector)
    cfg = preset("shapes", **{"teacher_train.batch_size": batch, "teacher_train.grad_accum_steps": accumulated})
    found = timing._seconds(cfg, strong, 1, 2)
    assert asked == [timed] and found.tolist() == [timed / 2] * 2


def test_steps_that_differ_give_a_range():
    "Of the ten, one was disturbed; which the median leaves out."
    said = timing.total_time(np.array([1., 1., 1., 1., 1., 1., 1.2, 1.4, 1.4, 30.]), 3600)
    assert said == "A step takes 1.00 s here (1.00 to 1.35), all of it about 60 minutes (60 minutes to 81 minutes)."


def test_the_time_of_several_runs_counts_shared_stages_once(tmp_path, half_a_second):
    one, two = experiments("shapes", ["10p"]), experiments("shapes", ["10p", "5p"])
    alone = estimate_of_all(one, tmp_path)
    assert alone == "1 run, 12 stages to do. A step takes 0.50 s here, all of it about 46 minutes."
    assert estimate_of_all(two, tmp_path).startswith("2 runs, 23 stages to do. ")       # the supervised network sees the same masks
    for name in STAGES: write_json(tmp_path / "shapes/10p/s0" / name / "params.json", {"status": "done"})
    assert estimate_of_all(one, tmp_path) == "" and estimate_of_all(one, tmp_path, again=True) == alone
    assert estimate_of_all(two, tmp_path).startswith("2 runs, 11 stages to do. ")


def test_a_second_round_adds_its_own_masks_and_student_to_the_time(tmp_path, half_a_second):
    both = [one for one in experiments("shapes", ["10p"], tables="additions") if one.config.variant in ("recipe_competition", "ours_second_round")]
    first, all_of_it = estimate_of_all(both[:1], tmp_path), estimate_of_all(both, tmp_path)
    assert first.startswith("1 run, 6 stages to do. ") and all_of_it.startswith("2 runs, 9 stages to do. ")     # pseudo, student_refined, evaluate


def test_settings_of_each_stage_of_a_sweep_are_compared_once(tmp_path, monkeypatch, half_a_second):
    "An estimate costs as many steps as the sweep has stages, however deep the graph is."
    asked = []
    monkeypatch.setattr(timing, "decisive", lambda stage, settings: asked.append(stage.name) or settings)
    wanted = experiments("shapes", ["10p", "5p"], [0, 1])
    timing._identity.cache_clear()
    assert estimate_of_all(wanted, tmp_path) and len(asked) == sum(len(one.stages) for one in wanted)
    timing._identity.cache_clear()


def test_a_sweep_says_its_time_before_the_first_run(monkeypatch, capsys, tmp_path, half_a_second):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweeps, "reproduce_all", lambda wanted, runs, force, begin, *rest, **options: [begin(one) for one in wanted])
    assert main(["reproduce", "--dataset", "shapes", "--seeds", "0,1"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("2 runs, 24 stages to do. A step takes 0.50 s here") and "[1/2]" in said[2]


def test_the_time_is_of_what_is_left_to_do(tmp_path, monkeypatch, half_a_second):
    monkeypatch.chdir(tmp_path)
    params, run = {"dataset": "shapes", "split": "10p"}, Path("runs/shapes/10p/s0")
    whole = estimate_of(params, "runs", STAGES)
    assert whole.startswith("A step takes 0.50 s here, all of it about 46 minutes. Quicker: --set student_train.steps=400 saves about 17 minutes.")
    for name in {*STAGES} - {"student_refined", "pseudo", "evaluate"}: write_json(run / name / "params.json", {"status": "done"})
    assert "about 8 minutes" in estimate_of(params, "runs", STAGES) and estimate_of(params, "runs", STAGES, again=True) == whole
    write_json(run / "student_refined/params.json", {"status": "done"})
    assert estimate_of(params, "runs", STAGES) == ""


def test_the_demo_begins_at_once(tmp_path, monkeypatch):
    "Its time is documented, and ten timed steps would be a part of it."
    monkeypatch.setattr(timing, "seconds_of_step", lambda cfg, strong: pytest.fail("timed"))
    assert estimate_of({"dataset": "demo", "split": "10p"}, tmp_path, STAGES) == ""


def test_batches_count(strong):
    cfg = preset("shapes")
    twice = replace(cfg, student_train=replace(cfg.student_train, batch_size=2 * cfg.teacher_train.batch_size))
    assert work_of(twice, ["supervised"])["supervised"] == 2 * work_of(cfg, ["supervised"])["supervised"]
    assert "--set" not in estimate(cfg, 1., ["teacher"])


@pytest.mark.parametrize("backbone, is_said", [(SIZES["base"].backbone, True), (SIZES["small"].backbone, False), ("timm:test_resnet", False)])
def test_a_smaller_network_is_offered_where_there_is_one(backbone, is_said):
    cfg = preset("custom", **{"teacher.backbone": backbone})
    assert ("--size small" in estimate(cfg, 1., STAGES)) == is_said


def test_reproduce_says_the_time_before_the_first_stage(monkeypatch, capsys, tmp_path, half_a_second):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(summary, "summary", lambda folder: "summary")
    def reproduce(*args, **options):
        print("first stage")
        return [SimpleNamespace(folder=tmp_path / "a/b")]
    monkeypatch.setattr(runner, "reproduce", reproduce)
    assert main(["reproduce", "--dataset", "shapes"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("A step takes 0.50 s here, all of it about 46 minutes.") and said[1] == "first stage"


def test_faults_of_the_data_are_left_to_the_stages(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train.json").write_text("{")
    assert estimate_of({"dataset": "custom", "data_root": str(tmp_path), "overrides": {"teacher.weights": ""}}, tmp_path, STAGES) == ""
