"""The way of every tensor to a GPU and back, seen without one: on a claimed GPU, which stops whoever mixes its tensors with those of the host.
It says nothing about speed, about kernels or about memory; where there is a real GPU, test_guard.py uses it."""
from pathlib import Path

import numpy as np
import pytest
import torch

from pointwssis.config import TrainConfig
from pointwssis.data import shapes
from pointwssis.detector.batches import solov2_loss, training_batch
from pointwssis.detector.predict import load_model, predict_image
from pointwssis.training.device import computes_in_bf16
from pointwssis.training.trainer import train
from chain import BLIND, Chain
from claimed_gpu import claimed_gpu
from tiny import CFG, sample, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator is found")
BF16 = pytest.mark.skipif(not computes_in_bf16(torch.device("cpu")), reason="this processor would emulate bf16, which is slow and rounds otherwise")


MIXES = {"a sum": lambda a, b: a + b, "an index": lambda a, b: b[a.long()], "joined": lambda a, b: torch.cat([a, b]), "an array": lambda a, b: a.numpy()}


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
def test_the_claimed_gpu_stops_what_a_real_one_would(mix):
    with claimed_gpu() as gpu:
        a, b = torch.ones(2, device=gpu), torch.ones(2)
        with pytest.raises((RuntimeError, TypeError), match="not on the GPU|to numpy"): mix(a, b)
        assert (a + b.to("cuda")).device == (a + b.to(a)).device == gpu and (a.cpu() + b).device.type == "cpu" and (a + b.sum())[b.long()].tolist() == [3., 3.]


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=BF16)])
def test_training_on_it_gives_the_losses_of_the_cpu(tmp_path, precision):
    cfg = TrainConfig(steps=3, batch_size=2, optimizer="adamw", warmup_steps=0, decay_at=(), clip_norm=1., ema_decay=.9, save_every=2, precision=precision)
    found = training_batch(CFG, [(i, sample(3, i)) for i in range(2)])
    def losses(device: str, stop: int = 99) -> list[float]:
        def batches(sampler):
            for k, _ in enumerate(sampler):
                if k == stop: raise InterruptedError
                yield found
        return [row["loss"] for row in train(tiny_model(), solov2_loss, batches, cfg, tmp_path / device, 0, device, length=4, log_every=1)]
    with claimed_gpu():
        with pytest.raises(InterruptedError): losses("cuda", stop=2)
        resumed = losses("cuda")                           # from what was saved after the second step
    assert resumed == pytest.approx(losses("cpu"), rel=.01 if precision == "bf16" else .001)          # convolutions add in another order there


SIDES = {f"{net}_train.{key}": value for net in ("teacher", "student") for key, value in (("short_sides", (64,)), ("long_side", 64), ("batch_size", 2))}
NETS = {f"{net}.{key}": value for net in ("teacher", "student") for key, value in (("backbone", "timm:test_resnet"), ("instance_convs", 1))}
FEWER = {"teacher_train.steps": 2, "teacher_train.checkpoint_steps": (1,), "student_train.steps": 2, "refiner_train.steps": 2,
         "data.short_side": 64, "data.long_side": 64, "refiner.crop_size": 32, "refiner_train.batch_size": 2,
         **SIDES, **NETS}     # every operation goes through Python here


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Chain:
    place: Path = tmp_path_factory.mktemp("claimed")
    data = shapes.write(place / "data", train=4, val=2)
    chain = Chain(place, "shapes", "25p", data, device="cuda", **FEWER).run("split")
    with claimed_gpu(): return chain.run(*(name for name in BLIND if name != "student"), "supervised", "evaluate")


@pytest.mark.whole
def test_every_stage_finds_its_tensors_there(chain):
    assert len(chain.labels("sw_refined").ids) == 4 and chain.metrics["student_refined"]["steps"] == 2
    assert all((chain.inputs[name] / "last.safetensors").exists() for name in ("teacher", "refiner", "student_refined", "supervised"))
    assert {"teacher_ap_percent", "student_sw_refined_ap_percent", "supervised_ap_percent"} <= set(chain.metrics["evaluate"])


@pytest.mark.whole
def test_a_photograph_is_looked_at_there(chain):
    model = load_model(chain.cfg.student, chain.inputs["student_refined"] / "last.safetensors")
    with claimed_gpu() as gpu:
        found = predict_image(model.to(gpu), np.zeros((90, 120, 3), np.uint8), chain.cfg.data)
    assert found.masks.shape[1:] == (90, 120)
