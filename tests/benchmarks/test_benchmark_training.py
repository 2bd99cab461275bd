"The benchmark of the training step: both ways learn the same, from the same weights, and rows say so. No time is judged here."
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tiny import sample, tiny_model
from pointwssis.config import TrainConfig

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import training                                                                          # noqa: E402
from benchmarks.training import Task, against_bare, as_trained, compare, in_other_order, plainly                       # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture
def task(monkeypatch) -> Task:
    monkeypatch.setattr(training, "WARM", 2)
    cfg = TrainConfig(steps=6, batch_size=4, lr=.001, warmup_steps=0, decay_at=(), clip_norm=1., save_every=10**9, precision="fp32")
    return Task(tiny_model(), cfg, [[(i, sample(3, 4 * step + i)) for i in range(4)] for step in range(2)], CPU)


def test_both_ways_learn_the_same(task):
    "Without bf16 nothing is left but the order of work."
    (fast, loss), (slow, other) = as_trained(task), plainly(task)
    assert loss == pytest.approx(other, rel=2e-3) and fast > 0 and slow > 0
    assert in_other_order(task)[1] == pytest.approx(loss, rel=2e-3)
    assert as_trained(task)[1] == loss            # from the first weights again, in the first order


def test_parts_are_parts_of_the_same_batch(task):
    assert [len(b["images"]) for b in task.ready(2)] == [2] * 4 and [len(b["images"]) for b in task.ready(1)] == [4] * 2
    assert as_trained(task, grad_accum_steps=2)[1] == pytest.approx(as_trained(task)[1], rel=.1)


def test_a_faster_way_that_learns_something_else_is_no_row(task):
    row = compare("same", task, as_trained, plainly, 1, against="plain fp32", target=1.5)
    assert row.ratio > 0 and row.runs == 1 and "images/s" in row.note and row.against == "plain fp32"
    with pytest.raises(AssertionError, match="other: mean loss"):
        compare("other", task, as_trained, lambda t: plainly(replace(t, cfg=replace(t.cfg, lr=.3))), 1)


def test_a_step_is_held_against_its_network_alone(task):
    row = against_bare("a step", task)
    assert row.name == "a step: share of its network" and row.share and row.target == 1.1 and row.ours > 0 and row.other > 0
    assert row.runs == task.cfg.steps - 1 - training.WARM      # the last step asks for no other batch
    assert not row.opponent and as_trained(task)[1] == pytest.approx(plainly(task)[1], rel=2e-3)     # the weights are as they were


def test_the_task_of_a_gpu(tmp_path):
    "Its network and pictures, in small."
    task = training.coco_task(tmp_path, 24, CPU, quick=True)
    assert task.cfg.optimizer == "sgd" and task.size == "64 x 96" and len(task.ready(4)) == 16
    assert as_trained(replace(task, cfg=replace(task.cfg, steps=21, precision="auto")))[0] > 0
