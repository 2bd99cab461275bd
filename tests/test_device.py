"Where a training runs: memory order and compiling change how a step is executed, not what it computes."
import copy

import pytest
import torch
from torch import nn

from pointwssis import device
from pointwssis.batches import solov2_loss, training_batch
from pointwssis.device import place, to_device
from tiny import CFG, sample, tiny_model

CPU = torch.device("cpu")


def learned(model) -> dict[str, torch.Tensor]:
    "The losses of one batch, and the gradients."
    found = solov2_loss(model, training_batch(CFG, [(i, sample(4, i)) for i in range(2)]))
    sum(found.values()).backward()
    return {k: v.detach() for k, v in found.items()} | {name: p.grad for name, p in model.named_parameters()}


def same(ours, theirs) -> bool:
    "Up to the order of additions, which the batch norms of a network without training make much of."
    return all((ours[k] - theirs[k]).norm() <= .03 * ours[k].norm() for k in ours)


def test_memory_order_changes_no_result(monkeypatch):
    plain = tiny_model().train()
    monkeypatch.setattr(device, "memory_order", lambda device: torch.channels_last)
    other = place(copy.deepcopy(plain), CPU)
    wide = [p for p in other.parameters() if p.dim() == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert wide and all(p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous() for p in wide)
    assert same(learned(plain), learned(other)) and all(p.grad.stride() == p.stride() for p in wide)


def test_a_compiled_network_is_one_graph_and_learns_the_same(monkeypatch):
    monkeypatch.setattr(device, "compiles", lambda device, steps: True)
    monkeypatch.setattr(torch._dynamo.config, "suppress_errors", False)
    compile_it, graphs = nn.Module.compile, torch._dynamo.utils.counters["stats"]
    monkeypatch.setattr(nn.Module, "compile", lambda model: compile_it(model, backend="aot_eager", fullgraph=True))
    plain, before = tiny_model().train(), graphs["unique_graphs"]
    other = place(copy.deepcopy(plain), CPU)
    assert same(learned(plain), learned(other)) and graphs["unique_graphs"] == before + 1
    assert list(other.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("kind, steps, wanted", [("cpu", 10**6, False), ("cuda", 10**6, True), ("cuda", 100, False)])
def test_only_long_trainings_on_gpus_are_compiled(kind, steps, wanted):
    assert device.compiles(torch.device(kind), steps) is wanted


def test_a_batch_moves_whole():
    batch = training_batch(CFG, [(7, sample(3))])
    moved = to_device(batch, torch.device("meta"))
    targets = moved["targets"]
    assert moved["images"].is_meta and moved["sizes"].is_meta and moved["image_ids"] == [7]
    assert all(getattr(targets, name).is_meta for name in ("classes", "image", "cell", "level", "object", "masks"))
    assert targets.counts == batch["targets"].counts == (len(targets.cell),)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_batch_can_be_pinned():
    targets = training_batch(CFG, [(7, sample(3))])["targets"].pin_memory()
    assert targets.masks.is_pinned() and targets.cell.is_pinned() and sum(targets.counts) == len(targets.cell)
