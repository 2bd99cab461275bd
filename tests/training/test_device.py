"Device and arithmetic of a training: memory order and compiling change how a step is executed, the precision what it computes."
import copy
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from pointwssis.config import DataConfig
from pointwssis.core import ConfigError, device_name, pick_device, rng
from pointwssis.detector.batches import solov2_loss, training_batch
from pointwssis.detector.predict import predictor
from pointwssis.training import device
from pointwssis.training.device import choose_precision, computes_in_bf16, describe, place, to_device
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
def test_only_long_trainings_on_gpus_are_compiled_unless_the_option_says_otherwise(monkeypatch, kind, steps, wanted):
    assert device.compiles(torch.device(kind), steps) is wanted
    monkeypatch.setattr(device, "memory_order", lambda _: torch.preserve_format)
    for option, compiled in (("auto", wanted), ("on", True), ("off", False)):
        net = nn.Linear(1, 1)
        with monkeypatch.context() as block:
            block.setattr(nn.Linear, "to", lambda net, *_, **__: net)
            assert bool(place(net, torch.device(kind), steps, option)._compiled_call_impl) is compiled


def test_compile_on_compiles_predictions_too(monkeypatch):
    monkeypatch.setattr(torch._dynamo.config, "suppress_errors", False)
    compile_it, graphs = nn.Module.compile, torch._dynamo.utils.counters["stats"]
    monkeypatch.setattr(nn.Module, "compile", lambda model: compile_it(model, backend="aot_eager"))
    plain, image = tiny_model(), rng(0, "image").integers(0, 256, (64, 96, 3), dtype=np.uint8)
    size, before = DataConfig(short_side=64, long_side=96), graphs["unique_graphs"]
    asked = predictor(copy.deepcopy(plain), size, CPU, compile="on")
    found, wanted = asked([image])[0], predictor(plain, size, CPU)([image])[0]
    assert graphs["unique_graphs"] > before and plain._compiled_call_impl is None and torch.allclose(found.scores, wanted.scores, atol=1e-4)


def test_a_batch_moves_whole():
    batch = training_batch(CFG, [(7, sample(3))])
    moved = to_device(batch, torch.device("meta"))
    targets = moved["targets"]
    assert moved["images"].is_meta and moved["sizes"].is_meta and moved["image_ids"] == [7]
    assert all(getattr(targets, name).is_meta for name in ("classes", "image", "cell", "level", "object", "masks"))
    assert targets.counts == batch["targets"].counts == (len(targets.cell),)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_batch_can_be_pinned():
    targets = training_batch(CFG, [(7, sample(3))])["targets"].pin_memory()
    assert targets.masks.is_pinned() and targets.cell.is_pinned() and sum(targets.counts) == len(targets.cell)


def processor(monkeypatch, machine="x86_64", **answers) -> None:
    "A processor of which torch gives these answers; None: this torch does not have the question."
    def torch_says(*names):
        asked = {name: answers.get(name, False) for name in names}
        return SimpleNamespace(**{f"_is_{name}_supported": lambda answer=answer: answer
                                  for name, answer in asked.items() if answer is not None})
    monkeypatch.setattr(torch.ops, "mkldnn", torch_says("mkldnn_bf16"))
    monkeypatch.setattr(torch, "cpu", torch_says("avx512_bf16", "amx_tile"))
    monkeypatch.setattr(device.platform, "machine", lambda: machine)
    device._warn_of_emulation.cache_clear()


PROCESSORS = {   # machine, torch's answers, whether it computes in bf16
    "AVX2": ("x86_64", {}, False),
    "AVX-512 alone, which oneDNN counts as enough": ("x86_64", {"mkldnn_bf16": True}, False),
    "AVX-512 BF16": ("x86_64", {"mkldnn_bf16": True, "avx512_bf16": True}, True),
    "AMX": ("AMD64", {"mkldnn_bf16": True, "amx_tile": True}, True),
    "AMX that oneDNN must not use": ("x86_64", {"amx_tile": True, "avx512_bf16": True}, False),
    "ARM with bf16": ("aarch64", {"mkldnn_bf16": True}, True),
    "ARM without": ("arm64", {}, False),
    "torch without oneDNN": ("arm64", {"mkldnn_bf16": None}, False),
    "an older torch": ("x86_64", {"mkldnn_bf16": True, "avx512_bf16": None, "amx_tile": None}, False),
}


@pytest.mark.parametrize("machine, answers, wanted", PROCESSORS.values(), ids=PROCESSORS)
def test_auto_takes_bf16_only_where_the_processor_has_it(monkeypatch, machine, answers, wanted):
    processor(monkeypatch, machine, **answers)
    chosen, reason = ("bf16", "") if wanted else ("fp32", ": no bf16 instructions")
    assert computes_in_bf16(CPU) is wanted and choose_precision("auto", CPU) == chosen
    assert choose_precision("fp32", CPU) == "fp32"
    assert describe(CPU, "auto") == f"{device_name(CPU)}, {chosen}{reason}"


CARDS = {"P100": ((6, 0), "fp32"), "V100": ((7, 0), "fp16"), "T4": ((7, 5), "fp16"), "A100": ((8, 0), "bf16"), "H100": ((9, 0), "bf16")}


@pytest.mark.parametrize("capability, chosen", CARDS.values(), ids=CARDS)
def test_auto_on_a_gpu_takes_what_its_capability_has_instructions_for(monkeypatch, capability, chosen):
    def supported(including_emulation=True): return chosen == "bf16" or including_emulation
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    gpu, reason = torch.device("cuda"), "" if chosen == "bf16" else ": no bf16 instructions"
    assert choose_precision("auto", gpu) == choose_precision("auto", gpu, training=False) == chosen
    assert describe(gpu, "auto") == f"a GPU, {chosen}{reason}"
    assert {choose_precision(name, gpu, warn=False) for name in ("fp32", "fp16", "bf16")} == {"fp32", "fp16", "bf16"}
    assert describe(gpu, "fp16") == "a GPU, fp16: as asked for"


def test_a_processor_has_no_fp16():
    with pytest.raises(ConfigError, match="'fp16' is not used on cpu. Set it to auto or fp32"): choose_precision("fp16", CPU)
    assert choose_precision("fp16", CPU, training=False) == "fp32"             # weights that a GPU has made are evaluated here, too


def test_asking_for_emulated_bf16_warns_once_and_names_the_factor(monkeypatch):
    processor(monkeypatch)
    with warnings.catch_warnings(action="error"): assert choose_precision("bf16", CPU, warn=False) == "bf16"
    with pytest.warns(UserWarning, match="8 times.*65.*95.*AVX2") as found:
        assert choose_precision("bf16", CPU) == choose_precision("bf16", CPU) == "bf16"
    assert len(found) == 1 and describe(CPU, "bf16").endswith("bf16: emulated")
    processor(monkeypatch, mkldnn_bf16=True, avx512_bf16=True)
    with warnings.catch_warnings(action="error"): assert choose_precision("bf16", CPU) == "bf16"


def test_predictions_of_a_processor_are_in_fp32(monkeypatch):
    processor(monkeypatch, mkldnn_bf16=True, avx512_bf16=True)
    names = ("auto", "fp32", "bf16")
    assert {choose_precision(name, CPU, training=False) for name in names} == {"fp32"}
    assert describe(CPU, "auto", training=False).endswith("fp32: predictions on a CPU are")


def test_unknown_precisions_are_refused():
    with pytest.raises(ConfigError, match="'bf61'. Did you mean 'bf16'. Known: auto, fp32, bf16, fp16"):
        choose_precision("bf61", CPU)


def test_apple_gpus_are_taken_in_fp32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    apple = pick_device()
    assert apple == pick_device("mps") == torch.device("mps")
    assert choose_precision("auto", apple) == "fp32"
    assert describe(apple, "auto") == "Apple GPU, fp32: bf16 is not used there"
    with pytest.raises(ConfigError, match="'bf16'.*mps.*auto or fp32"): choose_precision("bf16", apple)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device() == CPU
    with pytest.raises(ConfigError, match="device 'mps' is not here"): pick_device("mps")
