"The training loop: reproducible when resumed, accumulated or shared, and loud when it diverges."
import io, json, math, os, re, resource, signal, subprocess, sys, textwrap, time
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader

from pointwssis.config import TrainConfig
from pointwssis.core import CheckpointError, ConfigError, DataError, StageError, remove_litter
from pointwssis.training import device, trainer
from pointwssis.training.trainer import Meter, STATES, StepSampler, learning_rate, load_into, make_optimizer, newest_state
from pointwssis.training.trainer import save_weights, train, update_average
from pointwssis.training.weights import load_weights, save_state

CFG = TrainConfig(steps=12, batch_size=4, lr=.1, warmup_steps=3, decay_at=(8,), precision="fp32", ema_decay=.9, save_every=4, checkpoint_steps=(6,))
LENGTH = 10


class Net(nn.Module):
    "Batch norm has buffers and dropout draws numbers, so both must survive a cut."
    def __init__(self, fill=0):
        super().__init__()
        torch.manual_seed(fill)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(.2), nn.Linear(8, 1))

    def forward(self, x): return self.layers(x)


class Items(torch.utils.data.Dataset):
    def __init__(self, cut=None): self.cut = cut

    def __getitem__(self, item):
        index, step, slot = item
        if step == self.cut: raise InterruptedError
        g = torch.Generator().manual_seed(index)
        noise = torch.randn(3, generator=torch.Generator().manual_seed(step * 1000 + slot))
        return torch.randn(3, generator=g) + .1 * noise, torch.tensor(index % 2 * 1.)


def loader(sampler, cut=None): return DataLoader(Items(cut), batch_sampler=sampler)


def loss(model, batch):
    x, y = batch
    out = model(x)[:, 0].float()
    return {"loss_a": (out - y).square().mean(), "loss_b": out.abs().mean() * .1, "positives": y.sum()}


def run(out, model=None, cfg=CFG, loader_fn=loader, loss_fn=loss, seed=0, **kw):
    model = model or Net()
    return model, train(model, loss_fn, loader_fn, cfg, out, seed, "cpu", length=LENGTH, log_every=3, **kw)


def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def without_speed(rows): return [{k: v for k, v in r.items() if k != "images_per_s"} for r in rows]


@pytest.mark.parametrize("cfg", [CFG, replace(CFG, optimizer="adamw", ema_decay=0., grad_accum_steps=2, clip_norm=.5, schedule="cosine", precision="auto")])
def test_resumed_equals_unbroken(tmp_path, cfg):
    whole, rows = run(tmp_path / "whole", cfg=cfg)
    with pytest.raises(InterruptedError): run(tmp_path / "cut", cfg=cfg, loader_fn=lambda s: loader(s, cut=9))
    assert torch.load(tmp_path / "cut/state.pt", weights_only=True)["step"] == 8
    resumed, rows_resumed = run(tmp_path / "cut", model=Net(fill=5), cfg=cfg)
    assert same(whole.state_dict(), resumed.state_dict())
    assert same(load_file(tmp_path / "whole/last.safetensors"), load_file(tmp_path / "cut/last.safetensors"))
    assert without_speed(rows) == without_speed(rows_resumed)
    assert same(load_file(tmp_path / "whole/step_6.safetensors"), load_file(tmp_path / "cut/step_6.safetensors"))


def arithmetic(out, precision):
    "In which arithmetic the loss was computed. Nothing is, here: emulated, it would take long."
    def watching(model, batch):
        seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32)
        with torch.autocast("cpu", enabled=False): return loss(model, batch)
    seen: list[torch.dtype] = []
    run(out, cfg=replace(CFG, precision=precision), loss_fn=watching)
    return set(seen)


@pytest.mark.parametrize("native", [True, False])
def test_training_runs_in_bf16_where_the_hardware_does_and_else_in_fp32(tmp_path, monkeypatch, native):
    monkeypatch.setattr(device, "computes_in_bf16", lambda _: native)
    assert arithmetic(tmp_path / "auto", "auto") == {torch.bfloat16 if native else torch.float32}
    assert arithmetic(tmp_path / "fp32", "fp32") == {torch.float32}
    monkeypatch.setattr(device, "computes_in_bf16", lambda _: not native)
    with pytest.raises(StageError, match="made with precision (bf16|fp32), now it is (bf16|fp32)"): arithmetic(tmp_path / "auto", "auto")


@pytest.fixture
def fp16(monkeypatch): monkeypatch.setattr(trainer, "choose_precision", lambda *_: "fp16")     # refused on a processor, which emulates it


def test_fp16_scales_its_loss_and_a_resumed_training_keeps_the_scale(tmp_path, monkeypatch, fp16):
    cfg, growing = replace(CFG, clip_norm=.5, optimizer="adamw", lr=.01), trainer.GradScaler
    monkeypatch.setattr(trainer, "GradScaler", lambda *args, **kw: growing(*args, **kw, growth_interval=3))
    whole, rows = run(tmp_path / "whole", cfg=cfg)
    with pytest.raises(InterruptedError): run(tmp_path / "cut", cfg=cfg, loader_fn=lambda s: loader(s, cut=9))
    def scale(name): return torch.load(tmp_path / name / "state.pt", weights_only=True)["scaler"]
    assert scale("cut")["scale"] != 2.**16                      # what it began with
    resumed, rows_resumed = run(tmp_path / "cut", model=Net(fill=5), cfg=cfg)
    assert scale("cut") == scale("whole")
    assert same(whole.state_dict(), resumed.state_dict()) and without_speed(rows) == without_speed(rows_resumed)


def test_gradients_are_clipped_without_the_scale_of_fp16_also_after_skipped_steps(tmp_path, monkeypatch):
    "The scale is too large for the first steps, which are skipped: momentum begins at zero, and not in memory that nothing has written."
    cfg = replace(CFG, clip_norm=.1, ema_decay=0., steps=24)
    def moved(name):
        torch.manual_seed(0)
        net = nn.Linear(3, 1)
        before = net.weight.detach().clone()
        return run(tmp_path / name, model=net, cfg=cfg)[0].weight.detach() - before
    plain = moved("fp32")
    monkeypatch.setattr(trainer, "choose_precision", lambda *_: "fp16")
    assert plain.norm() > .01 and (moved("fp16") - plain).norm() < .5 * plain.norm()


def test_a_step_whose_gradients_overflow_fp16_is_skipped_and_lowers_the_scale(tmp_path, fp16):
    cfg = replace(CFG, steps=3, ema_decay=0., save_every=9, checkpoint_steps=(1, 2, 3), warmup_steps=0)
    calls: list[int] = []
    def steep(model, batch):
        calls.append(1)
        return {k: v * (1e4 if len(calls) == 2 else 1e-3) for k, v in loss(model, batch).items()}
    run(tmp_path, cfg=cfg, loss_fn=steep)
    first, second, third = (load_file(tmp_path / f"step_{n}.safetensors")["layers.0.weight"] for n in (1, 2, 3))
    assert torch.equal(first, second) and not torch.equal(second, third)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["scaler"]["scale"] == 2.**15


FULL = "CUDA out of memory. Tried to allocate {}. GPU 0 has a total capacity of 23.64 GiB."


@pytest.mark.parametrize("images, parts, asked, weights, used, total, words", [
    (16, 1, "2.00 GiB", 1, 23, 24, "16 images at once need more than the 24.0 GiB.* About 13 fit. Set grad_accum_steps to 2,"),
    (16, 1, "40.00 GiB", 4, 20, 24, "About 5 fit. Set grad_accum_steps to 4,"),
    (8, 2, "512.00 MiB", 1, 9.5, 10, "8 images .* About 7 fit. Set grad_accum_steps to 4,"),
    (1, 16, "2.00 GiB", 1, 23, 24, "1 images .* Set short_sides smaller, or grad_checkpointing")])
def test_out_of_memory_names_the_batch_that_fits(images, parts, asked, weights, used, total, words):
    cfg, gib = replace(CFG, batch_size=16, grad_accum_steps=parts), 2**30
    error = device.out_of_memory(torch.OutOfMemoryError(FULL.format(asked)), cfg, images, weights * gib, used * gib, total * gib)
    assert re.search(words, str(error))


@pytest.mark.parametrize("at", ["forward", "backward"])
def test_a_full_memory_in_a_training_is_one_line(tmp_path, at):
    class Full(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            if at == "forward": raise torch.OutOfMemoryError(FULL.format("2.00 GiB"))
            return x.clone()

        @staticmethod
        def backward(ctx, grad): raise torch.OutOfMemoryError(FULL.format("2.00 GiB"))
    def too_large(model, batch): return {"loss": Full.apply(loss(model, batch)["loss_a"])}
    with pytest.raises(StageError, match="out of memory: 4 images at once .* Set grad_accum_steps to 4, .*grad_checkpointing to true"):
        run(tmp_path, loss_fn=too_large)


def test_seed_changes_the_run(tmp_path):
    assert not same(run(tmp_path / "a")[0].state_dict(), run(tmp_path / "b", seed=1)[0].state_dict())


def test_resume_false_starts_afresh(tmp_path):
    first, _ = run(tmp_path)
    again, rows = run(tmp_path, resume=False)
    assert same(first.state_dict(), again.state_dict()) and rows[0]["step"] == 3


def test_resume_refuses_other_settings(tmp_path):
    run(tmp_path)
    with pytest.raises(StageError, match="made with lr 0.1, now it is 0.2"): run(tmp_path, cfg=replace(CFG, lr=.2))
    with pytest.raises(StageError, match="seed 0, now it is 1"): run(tmp_path, seed=1)
    run(tmp_path, cfg=replace(CFG, workers=2, save_every=3))
    for name in STATES: (tmp_path / name).write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(CheckpointError, match="state_before.pt: damaged .* begin the training anew"): run(tmp_path)


def flipped(b):
    "A bit of the largest tensor; the space between the parts of an archive means nothing."
    archive = ZipFile(io.BytesIO(b))
    at = b.index(archive.read(max(archive.infolist(), key=lambda part: part.file_size)))
    return b[:at] + bytes([b[at] ^ 4]) + b[at + 1:]


TORN = {"cut": lambda b: b[:len(b) // 3], "empty": lambda b: b"", "zeros": lambda b: bytes(len(b)), "a flipped bit": flipped}


@pytest.mark.parametrize("torn", TORN.values(), ids=TORN)
def test_a_torn_state_falls_back_to_the_one_before(tmp_path, capsys, torn):
    whole, rows = run(tmp_path / "whole")
    out = tmp_path / "cut"
    with pytest.raises(InterruptedError): run(out, loader_fn=lambda s: loader(s, cut=9))
    (out / "state.pt").write_bytes(torn((out / "state.pt").read_bytes()))
    resumed, rows_resumed = run(out, model=Net(fill=5))
    assert "state.pt is damaged: going on from state_before.pt." in capsys.readouterr().err
    assert same(whole.state_dict(), resumed.state_dict()) and without_speed(rows) == without_speed(rows_resumed)


def test_killed_between_two_states(tmp_path):
    "The newest has stepped back and its follower is not there yet."
    whole, rows = run(tmp_path / "whole")
    with pytest.raises(InterruptedError): run(tmp_path / "cut", loader_fn=lambda s: loader(s, cut=9))
    (tmp_path / "cut/state.pt").rename(tmp_path / "cut/state_before.pt")
    resumed, rows_resumed = run(tmp_path / "cut", model=Net(fill=5))
    assert same(whole.state_dict(), resumed.state_dict()) and without_speed(rows) == without_speed(rows_resumed)


def test_a_full_disk_is_one_line_and_the_last_good_state_stays(tmp_path, monkeypatch):
    "The file may not grow beyond 4 KiB, as on a full disk or at the limit of a quota."
    with pytest.raises(InterruptedError): run(tmp_path, loader_fn=lambda s: loader(s, cut=9))
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(StageError, match=r"new\.pt: cannot be written: File too large"): save_state(tmp_path / "new.pt", {"x": torch.zeros(9999)})
        with pytest.raises(StageError, match=r"new\.safetensors: cannot be written: File too large"):
            save_weights(tmp_path / "new.safetensors", {"x": torch.zeros(9999)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert newest_state(tmp_path)[1]["step"] == 8 and not list(tmp_path.glob("*new*")) + list(tmp_path.glob(".*"))


KILLED = """
import os, resource, signal, stat, sys
from pathlib import Path
import torch
from pointwssis.training.trainer import save_weights
from pointwssis.training.weights import save_state
os.umask(0o022)
for save, name in ((save_weights, "w.safetensors"), (save_state, "s.pt")):
    save(name, {"x": torch.zeros(9)})
    print(oct(stat.S_IMODE(Path(name).stat().st_mode)))
    if not (child := os.fork()):
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        save(name, {"x": torch.zeros(99999)})
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGXFSZ)
"""

def test_a_file_that_a_killed_process_was_writing_has_a_name_of_ours(tmp_path):
    "So the next start finds and removes it; finished files can be read by others, as far as the system's settings allow."
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0o644", "True", "0o644", "True"]
    assert len(list(tmp_path.iterdir())) == 4 and len(remove_litter(tmp_path.iterdir())) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.pt", "w.safetensors"]


class Pretrained(nn.Module):
    "A backbone by its name, a head, and a frozen layer in each."
    def __init__(self, fill=0):
        super().__init__()
        torch.manual_seed(fill)
        self.trunk = nn.ModuleDict({"body": nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8))})
        self.head = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 1))
        for part in (self.trunk["body"], self.head): part[1].requires_grad_(False)

    def forward(self, x): return self.head(self.trunk["body"](x))


def moved(model, factor, **changes):
    "Lengths of one step of plain SGD in body and head."
    before = [p.detach().clone() for p in model.parameters()]
    cfg = replace(CFG, steps=1, warmup_steps=0, momentum=0., weight_decay=0., ema_decay=0., checkpoint_steps=(), backbone_lr_factor=factor, **changes)
    return lambda out: [p.detach() - b for p, b in zip(run(out, model, cfg)[0].parameters(), before)]


def test_the_backbone_learns_at_a_rate_of_its_own(tmp_path):
    full, less = (moved(Pretrained(), f)(tmp_path / str(f)) for f in (1., .1))
    names = [name for name, _ in Pretrained().named_parameters()]
    for name, a, b in zip(names, full, less, strict=True):
        assert bool(a.abs().sum()) == (".1." not in name and not name.startswith("head.1"))
        assert torch.allclose(b, a * (.1 if "body" in name else 1), rtol=1e-3, atol=1e-7), name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_groups_follow_the_schedule_and_only_the_backbone_is_slower(tmp_path, optimizer):
    cfg = replace(CFG, optimizer=optimizer, backbone_lr_factor=.1)
    groups = make_optimizer(Pretrained(), cfg).param_groups
    assert [sum(p.numel() for p in g["params"]) for g in groups] == [36, 32] and [g.get("lr_factor") for g in groups] == [None, .1]
    _, rows = run(tmp_path, Pretrained(), cfg)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)["optimizer"]["param_groups"]
    assert [g["lr"] for g in saved] == [learning_rate(cfg, 11), learning_rate(cfg, 11) * .1]
    assert rows[-1]["lr"] == learning_rate(cfg, 11)
    frozen = Pretrained()
    frozen.trunk.requires_grad_(False)
    assert len(make_optimizer(frozen, cfg).param_groups) == 1


def test_a_rate_of_its_own_survives_a_cut_and_is_not_changed_on_the_way(tmp_path):
    cfg = replace(CFG, backbone_lr_factor=.1)
    whole, _ = run(tmp_path / "whole", Pretrained(), cfg)
    with pytest.raises(InterruptedError): run(tmp_path / "cut", Pretrained(), cfg, loader_fn=lambda s: loader(s, cut=9))
    assert same(whole.state_dict(), run(tmp_path / "cut", Pretrained(fill=5), cfg)[0].state_dict())
    with pytest.raises(StageError, match="made with backbone_lr_factor 0.1, now it is 1.0"): run(tmp_path / "cut", Pretrained(), CFG)


def test_without_it_the_bits_are_those_of_one_group_and_older_states_go_on(tmp_path):
    cfg = replace(CFG, ema_decay=0.)
    model, plain = run(tmp_path, Pretrained(), cfg)[0], Pretrained()
    optimizer = torch.optim.SGD([p for p in plain.parameters() if p.requires_grad], cfg.lr, cfg.momentum, weight_decay=cfg.weight_decay, fused=True)
    for step, batch in enumerate(loader(StepSampler(LENGTH, cfg.batch_size, cfg.steps, 0))):
        optimizer.param_groups[0]["lr"] = learning_rate(cfg, step)
        sum(v for k, v in loss(plain, batch).items() if k.startswith("loss")).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert same(model.state_dict(), plain.state_dict())
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["settings"]["backbone_lr_factor"]
    torch.save(state, tmp_path / "state.pt")
    assert same(model.state_dict(), run(tmp_path, Pretrained(fill=5), cfg)[0].state_dict())


def test_files_and_history(tmp_path):
    model, rows = run(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"last.safetensors", *STATES, "step_6.safetensors", "tb"}
    assert [r["step"] for r in rows] == [3, 4, 6, 8, 9, 12]
    assert list(rows[0]) == ["step", "loss", "loss_a", "loss_b", "positives", "lr", "images_per_s"]
    assert all(math.isclose(r["loss"], r["loss_a"] + r["loss_b"], rel_tol=1e-5) and r["images_per_s"] > 0 for r in rows)
    json.dumps(rows)
    assert same(model.state_dict(), load_weights(tmp_path / "last.safetensors"))
    board = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert [(e.step, round(e.value, 4)) for e in board.Scalars("loss")] == [(r["step"], round(r["loss"], 4)) for r in rows]


def test_bar_is_quiet(tmp_path, capfd):
    run(tmp_path)
    shown = capfd.readouterr().err
    assert shown.count("\r") <= 3 and "12/12 steps" in shown and "images/s" in shown and "loss" in shown


def test_sampler_covers_each_epoch_once():
    for length, batch in ((10, 4), (7, 3), (3, 8)):
        items = [i for b in StepSampler(length, batch, steps=length * 2, seed=3) for i, _, _ in b]
        epochs = [items[k:k + length] for k in range(0, len(items), length)]
        assert all(sorted(e) == list(range(length)) for e in epochs)
        assert len({tuple(e) for e in epochs}) > 1


def test_sampler_shares_start_and_length():
    whole = list(StepSampler(10, 12, steps=5, seed=3))
    assert [(s, t) for b in whole for _, s, t in b] == [(s, t) for s in range(5) for t in range(12)]
    tail = StepSampler(10, 12, steps=5, seed=3, start=2)
    assert list(tail) == whole[2:] and len(tail) == 3
    shares = [list(StepSampler(10, 12, steps=5, seed=3, rank=r, world=2, grad_accum_steps=3)) for r in range(2)]
    assert len(shares[0]) == 15 and all(len(b) == 2 for b in shares[0])
    for step in range(5): assert sorted(i for s in shares for b in s[3 * step:3 * step + 3] for i in b) == sorted(whole[step])
    with pytest.raises(ConfigError, match="multiple of 8"): StepSampler(10, 12, 5, 0, world=8)
    with pytest.raises(DataError, match="no images"): StepSampler(0, 12, 5, 0)


def test_schedules():
    cfg = TrainConfig(steps=100, lr=1., warmup_steps=10, warmup_factor=.01, decay_at=(50, 80), final_factor=.1)
    step = [learning_rate(cfg, s) for s in (0, 5, 10, 49, 50, 79, 80, 99)]
    assert step == pytest.approx([.01, .505, 1, 1, .1, .1, .01, .01])
    cosine = [learning_rate(replace(cfg, schedule="cosine"), s) for s in (0, 10, 55, 100)]
    assert cosine == pytest.approx([.01, 1, .55, .1])
    assert learning_rate(replace(cfg, schedule="constant", warmup_steps=0), 0) == 1
    with pytest.raises(ConfigError, match="Did you mean 'constant'"): learning_rate(replace(cfg, schedule="constan"), 0)


def test_learning_rate_reaches_the_optimizer(tmp_path):
    _, rows = run(tmp_path)
    assert [r["lr"] for r in rows] == pytest.approx([learning_rate(CFG, r["step"] - 1) for r in rows])
    with pytest.raises(ConfigError, match="Did you mean 'sgd'"): run(tmp_path / "x", cfg=replace(CFG, optimizer="sgdd"))


def test_average_follows_the_formula():
    model = nn.BatchNorm1d(2)
    average = {k: v.clone() for k, v in model.state_dict().items()}
    wanted = average["weight"].clone()
    for step in range(1, 200):
        with torch.no_grad(): model.weight.add_(step)
        model.num_batches_tracked += 1
        decay = min(.9, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * model.weight.detach()
        update_average(average, model, .9, step)
    assert torch.allclose(average["weight"], wanted) and average["num_batches_tracked"] == 199


def test_average_is_what_is_saved(tmp_path):
    averaged, plain = run(tmp_path / "a")[0], run(tmp_path / "b", cfg=replace(CFG, ema_decay=0.))[0]
    raw = torch.load(tmp_path / "a/state.pt", weights_only=True)["model"]
    assert same(raw, plain.state_dict()) and not same(averaged.state_dict(), raw)


def plain_net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def test_accumulation_equals_the_large_batch(tmp_path):
    one = run(tmp_path / "one", model=plain_net(), cfg=CFG)
    two = run(tmp_path / "two", model=plain_net(), cfg=replace(CFG, grad_accum_steps=2))
    for key, value in one[0].state_dict().items(): assert torch.allclose(value, two[0].state_dict()[key], atol=1e-6)
    assert [r["loss"] for r in one[1]] == pytest.approx([r["loss"] for r in two[1]], abs=1e-5)


def test_clipping_bounds_the_step(tmp_path):
    cfg = replace(CFG, steps=1, clip_norm=1e-3, momentum=0., weight_decay=0., ema_decay=0., warmup_steps=0, checkpoint_steps=())
    model, before = plain_net(), plain_net()
    run(tmp_path, model=model, cfg=cfg)
    moved = torch.cat([(a - b).flatten() for a, b in zip(model.parameters(), before.parameters())]).norm().item()
    assert moved == pytest.approx(cfg.lr * 1e-3, rel=1e-3)


def test_frozen_parameters_stay(tmp_path):
    model = plain_net()
    model[0].requires_grad_(False)
    run(tmp_path, model=model)
    assert torch.equal(model[0].weight, plain_net()[0].weight) and not torch.equal(model[2].weight, plain_net()[2].weight)


def test_broken_loss_names_step_and_parts(tmp_path):
    calls = []
    def breaking(model, batch):
        calls.append(1)
        return loss(model, batch) | ({"loss_b": batch[0].sum() * float("nan")} if len(calls) == 5 else {})
    with pytest.raises(StageError, match=r"step 5: loss nan, loss_a \S+, loss_b nan") as error: run(tmp_path, loss_fn=breaking)
    assert "\n" not in str(error.value)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 4   # the last good one stays


def test_meter_does_not_read_each_step(monkeypatch):
    meter, reads = Meter(), []
    original = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda t: reads.append(1) or original(t))
    monkeypatch.setattr(torch.Tensor, "item", lambda t: pytest.fail("a host read"))
    for step in range(4): meter.add({"loss": torch.tensor(float(step))}, step)
    assert not reads
    assert meter.read() == {"loss": 1.5} and len(reads) == 1


def test_weights_round_trip_and_refusals(tmp_path):
    model = Net()
    save_weights(tmp_path / "a.safetensors", model.state_dict())
    torch.save({"model": model.state_dict()}, tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pth"): assert same(load_weights(tmp_path / name), model.state_dict())
    other, before = nn.Sequential(nn.Linear(3, 8)), torch.zeros(8, 3)
    nn.init.zeros_(other[0].weight)
    with pytest.raises(CheckpointError, match="a.safetensors: does not fit: 2 missing .first 0.weight.*unknown"):
        load_into(other, load_weights(tmp_path / "a.safetensors"), tmp_path / "a.safetensors")
    assert torch.equal(other[0].weight, before)
    with pytest.raises(CheckpointError, match=r"another shape .first layers.0.weight, \(8, 3\) instead of \(8, 4\)"):
        wide = Net()
        wide.layers[0] = nn.Linear(4, 8)
        load_into(wide, model.state_dict(), "x")


@pytest.mark.parametrize("name,content", [("a.safetensors", b"\x00" * 20), ("a.safetensors", b""), ("a.pth", b"nonsense"), ("a.pth", b""),
                                          ("a.pth", b"PK\x03\x04cut")])
def test_corrupt_weights(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}: refused: it"): load_weights(tmp_path / name)


def test_other_content_is_no_weights(tmp_path):
    with pytest.raises(CheckpointError, match="no such weights file"): load_weights(tmp_path / "none.pth")
    for content in ({"epoch": 3}, [1, 2], {}):
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(CheckpointError, match="holds no weights"): load_weights(tmp_path / "a.pth")
    torch.save(Net(), tmp_path / "whole.pth")      # a pickled object could run code
    with pytest.raises(CheckpointError, match="refused: it"): load_weights(tmp_path / "whole.pth")


PROGRAM = textwrap.dedent("""
    import sys; sys.path[:0] = sys.argv[2:]
    import json, torch
    from test_trainer import CFG, LENGTH, loader, loss, plain_net, replace, train
    torch.set_num_threads(1)
    for part, accumulate in (("a", 1), ("b", 2)):
        cfg = replace(CFG, grad_accum_steps=accumulate)
        train(plain_net(), loss, loader, cfg, f"{sys.argv[1]}/{part}", 0, "cpu", length=LENGTH, log_every=3)
""")


@pytest.mark.whole
def test_two_processes_equal_one(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    here = Path(__file__).parent
    launch = [sys.executable, "-W", "error::UserWarning", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launch, tmp_path / "program.py", tmp_path / "two", here, here.parent], capture_output=True, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    one, rows = run(tmp_path / "one", model=plain_net())
    for part in "ab":
        two = load_file(tmp_path / f"two/{part}/last.safetensors")
        for key, value in one.state_dict().items(): assert torch.allclose(value, two[key], atol=1e-6)
        history = torch.load(tmp_path / f"two/{part}/state.pt", weights_only=True)["history"]
        assert [r["loss"] for r in history] == pytest.approx([r["loss"] for r in rows], abs=1e-5)


@pytest.mark.parametrize("how, words", [(lambda: os.kill(os.getpid(), signal.SIGKILL), "(was killed by signal Killed|ended unexpectedly)"),
                                        (lambda: os._exit(3), "ended unexpectedly")])
def test_a_worker_that_dies_is_one_line(tmp_path, how, words):
    "The system ended it, for want of memory as a rule, or a library did."
    class Dying(Items):
        def __getitem__(self, item): return how() if item[1] == 2 else super().__getitem__(item)
    def workers(sampler): return DataLoader(Dying(), batch_sampler=sampler, num_workers=1)
    with pytest.raises(StageError, match=rf"a worker process that reads pictures {words}\. .*set workers lower, or to 0"): run(tmp_path, loader_fn=workers)


def test_a_worker_that_dies_while_the_network_trains_is_one_line(tmp_path):
    "PyTorch raises from the signal's handler, wherever the main thread is: in a step, or while the error of another place is raised."
    class Dying(Items):
        def __getitem__(self, item): return os._exit(3) if item[1] == 2 else super().__getitem__(item)
    def slow(model, batch):
        time.sleep(30)
        return loss(model, batch)
    def workers(sampler): return DataLoader(Dying(), batch_sampler=sampler, num_workers=1)
    with pytest.raises(StageError, match="a worker process that reads pictures ended unexpectedly"): run(tmp_path, loader_fn=workers, loss_fn=slow)


def test_a_loss_that_stands_still_shortens_the_schedule_and_survives_a_cut(tmp_path):
    "60 steps of a loss that nothing moves: seen at step 15, the rest takes a quarter of the steps, the rate falls to its end, and no kept weights are missing."
    def flat(model, batch): return {"loss": model(batch[0]).sum() * 0 + 1}
    cfg = replace(CFG, steps=60, schedule="cosine", decay_at=(), patience=6, checkpoint_steps=(6, 30, 50))
    _, rows = run(tmp_path / "whole", cfg=cfg, loss_fn=flat)
    still, last = 15, 15 + math.ceil((60 - 15) / 4)
    assert rows[-1]["step"] == last and rows[-1]["lr"] < .02 * cfg.lr
    assert all((tmp_path / "whole" / f"step_{n}.safetensors").exists() for n in cfg.checkpoint_steps)
    with pytest.raises(InterruptedError): run(tmp_path / "cut", cfg=cfg, loss_fn=flat, loader_fn=lambda s: loader(s, cut=still + 6))
    _, resumed = run(tmp_path / "cut", cfg=cfg, loss_fn=flat)
    assert without_speed(resumed) == without_speed(rows)
    assert run(tmp_path / "never", cfg=replace(cfg, patience=0), loss_fn=flat)[1][-1]["step"] == 60
    values = iter(.99 ** n for n in range(60))
    assert run(tmp_path / "falling", cfg=cfg, loss_fn=lambda m, b: {"loss": m(b[0]).sum() * 0 + next(values)})[1][-1]["step"] == 60
