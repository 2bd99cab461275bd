"Several processes compute what one computes: losses, gradients, labels and metrics; and none is left when one dies."
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pointwssis.process import GROUP
from pointwssis.training.together import Address
from chain import Chain

pytestmark = pytest.mark.whole
HERE = Path(__file__).parent
PROGRAM = """
import sys; sys.path[:0] = sys.argv[2:]
import torch
from test_together import GRADIENTS
from pointwssis.training.distributed import average_gradients, process_group
torch.set_num_threads(1)
with process_group(torch.device("cpu")) as (rank, world, device):
    for name, gradients in GRADIENTS.items():
        found = gradients(rank, world)
        if rank == 0: torch.save(found, f"{sys.argv[1]}/{name}.pt")
"""


def detector_gradients(rank: int, world: int) -> dict[str, torch.Tensor]:
    "Gradients of a batch of four images with 0, 1, 5 and 2 objects; batch norms train."
    from pointwssis.detector.batches import solov2_loss, training_batch
    from pointwssis.training.distributed import average_gradients, sync_norms
    from tiny import CFG, sample, tiny_model
    model = sync_norms(tiny_model().train(), torch.device("cpu"))
    batch = training_batch(CFG, [(i, sample(objects, i)) for i, objects in enumerate((0, 1, 5, 2))][rank::world])
    losses = solov2_loss(model, batch)
    sum(v for k, v in losses.items() if k.startswith("loss")).backward()
    params = [p for p in model.parameters() if p.requires_grad]
    average_gradients(params)
    named = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return named | {k: v.detach() for k, v in losses.items()} | {f"buffer {k}": v for k, v in model.named_buffers()}


def refiner_gradients(rank: int, world: int) -> dict[str, torch.Tensor]:
    from dataclasses import replace
    from pointwssis.config import RefinerConfig
    from pointwssis.refiner.network import MaskRefineNet
    from pointwssis.refiner.training import refiner_loss
    from pointwssis.training.distributed import average_gradients, sync_norms
    cfg = replace(RefinerConfig(), backbone="timm:test_resnet", weights="", aspp_channels=16, decoder_channels=(16, 16, 8), crop_size=64)
    torch.manual_seed(0)
    net = sync_norms(MaskRefineNet(3, cfg).train(), torch.device("cpu"))
    g = torch.Generator().manual_seed(1)
    batch = {"image": torch.randint(0, 256, (4, 3, 64, 64), generator=g, dtype=torch.uint8), "rough": torch.rand(4, 1, 64, 64, generator=g) > .4,
             "target": torch.rand(4, 64, 64, generator=g).gt(torch.tensor([.1, .5, .7, .9]).view(-1, 1, 1)).float(),
             "point": torch.tensor([[30., 30.]] * 4), "class": torch.tensor([0, 1, 2, 1])}
    losses = refiner_loss(net, {k: v[rank::world] for k, v in batch.items()})
    sum(losses.values()).backward()
    params = list(net.parameters())
    average_gradients(params)
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in net.named_parameters()} | {f"buffer {k}": v for k, v in net.named_buffers()}


GRADIENTS = {"detector": detector_gradients, "refiner": refiner_gradients}


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_gradients_equal_those_of_one_process(tmp_path, world):
    "At the same batch, to 1e-5, with objects on some of the processes only; also the running statistics of the batch norms."
    (tmp_path / "program.py").write_text(PROGRAM)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    done = subprocess.run([*launch, tmp_path / "program.py", tmp_path, HERE, HERE.parent], capture_output=True, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=240)
    assert done.returncode == 0, done.stderr
    for name, gradients in GRADIENTS.items():
        found, wanted = torch.load(tmp_path / f"{name}.pt"), gradients(0, 1)
        assert found.keys() == wanted.keys()
        largest = {k: ((found[k].float() - v.float()).abs() / v.float().abs().clamp(min=1)).max().item() for k, v in wanted.items() if "num_batches" not in k}
        worst = max(largest, key=largest.get)
        assert largest[worst] <= 1e-5, (name, worst, largest[worst])


STAGES = ("split", "teacher", "refiner", "pseudo", "student_refined", "evaluate")
EXACT = {"teacher_train.precision": "fp32", "student_train.precision": "fp32", "refiner_train.precision": "fp32"}
OTHER = "import sys, torch; torch.set_num_threads(1); from pointwssis.training.together import Address, serve; sys.exit(serve(Address.read(sys.argv[1]), 1, 1))"


@pytest.fixture(scope="module")
def chains(tmp_path_factory, drawn):
    "The same tiny run by one process, and by two; what the second has left in its folder while they worked is read before it goes."
    place = tmp_path_factory.mktemp("chains")
    one = Chain(place / "one", "shapes", "50p", drawn, **EXACT).run(*STAGES)
    store = Address("127.0.0.1", 0, 2, 2).connect(hosts=True)
    address = Address("127.0.0.1", store.underlying_store.port, 2, 2)
    other = subprocess.Popen([sys.executable, "-c", OTHER, str(address)], env=os.environ | {"TQDM_DISABLE": "1"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(GROUP, str(address))
        two = Chain(place / "two", "shapes", "50p", drawn, **EXACT).run(*STAGES)
    store.set("end", "0")
    assert other.wait(timeout=60) == 0
    return one, two


@pytest.mark.parametrize("stage", ["teacher", "refiner", "student_refined"])
def test_trainings_of_two_processes_equal_those_of_one(chains, stage):
    "Weights to 1e-3 of their size, losses to 1e-4: six steps of AdamW enlarge differences of rounding."
    one, two = (load_file(chain.inputs[stage] / "last.safetensors") for chain in chains)
    assert one.keys() == two.keys()
    apart = max(((one[k].float() - two[k].float()).norm() / one[k].float().norm().clamp(min=1)).item() for k in one)
    losses = [[row["loss"] for row in json.loads((chain.inputs[stage] / "history.json").read_text())] for chain in chains]
    assert apart < 1e-3 and losses[0] == pytest.approx(losses[1], rel=1e-4), (apart, losses)


def test_metrics_of_two_processes_equal_those_of_one(chains):
    "Percentages to 0.5, numbers of images and points exactly."
    one, two = (chain.metrics["evaluate"] for chain in chains)
    assert {k: v for k, v in one.items() if isinstance(v, int)} == {k: v for k, v in two.items() if isinstance(v, int)}
    percent = [k for k, v in one.items() if isinstance(v, float)]
    assert percent and {k: two[k] for k in percent} == pytest.approx({k: one[k] for k in percent}, abs=.5)
    assert chains[1].metrics["refiner"]["pairs"] == pytest.approx(chains[0].metrics["refiner"]["pairs"], abs=1)


def test_each_image_is_predicted_once_and_in_order(chains):
    "Each process has half of the images in its journal; the labels lie in the order of one process."
    one, two = chains
    for stage, name in (("pseudo", "rough"), ("evaluate", "results_teacher"), ("refiner", "pairs_step_2")):
        def ids(chain, file): return [json.loads(line[17:])[0] for line in (chain.inputs[stage] / "unfinished" / file).read_bytes().splitlines()[1:]]
        whole, halves = ids(one, f"{name}.jsonl"), [ids(two, f"{name}{number}.jsonl") for number in ("", ".1")]
        assert sorted(sum(halves, [])) == sorted(whole) and halves == [whole[0::2], whole[1::2]]
    labels = [[(a["image_id"], a.get("point_id")) for i in data.ids for a in data.annotations[i]] for data in (c.labels("sw_refined") for c in chains)]
    assert labels[0] == labels[1]
