"""Recipes: masks of different points that compete for pixels, against the paper's suppression."""
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from faster_coco_eval import mask as rle_api
from hypothesis import given, settings
from hypothesis import strategies as st

from pointwssis.config import SOLOv2Config
from pointwssis.core import ConfigError
from pointwssis.data.coco import CategoryTable, CocoData, decode, encode
from pointwssis.data.points import Prompts
from pointwssis.detector.cells import Outputs
from pointwssis.detector.inference import candidates, to_instances
from pointwssis.method import stages
from pointwssis.method.prompts import points_inside
from pointwssis.method.pseudo_labels import PseudoMask, write_pseudo
from pointwssis.method.recipes import compete, reasons, share_pixels
from pointwssis.registry import RECIPES
from pointwssis.runs.presets import preset
from pointwssis.runs.stage_graph import config_of

H, W = 12, 17
scenes = st.lists(st.tuples(st.integers(0, 2**32 - 1), st.floats(0, W - .01), st.floats(0, H - .01)), max_size=6)


def scene(drawn):
    masks = [np.random.default_rng(seed).random((H, W)) < .4 for seed, _, _ in drawn]
    return masks, [(x, y) for _, x, y in drawn], list(range(10, 10 + len(drawn)))


@given(scenes)
@settings(max_examples=60, deadline=None)
def test_shared_masks_are_disjoint_and_cover_what_was_claimed(drawn):
    masks, points, ids = scene(drawn)
    parts = [decode(rle, H, W) for rle in share_pixels([encode(m) for m in masks], points, ids)]
    if not parts: return
    assert (np.sum(parts, 0) == np.any(masks, 0)).all()
    for part, mask in zip(parts, masks): assert not (part & ~mask).any()


@given(scenes, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_the_order_of_points_changes_nothing(drawn, random):
    masks, points, ids = scene(drawn)
    order = random.sample(range(len(ids)), len(ids))
    rles = [encode(m) for m in masks]
    plain = dict(zip(ids, share_pixels(rles, points, ids)))
    mixed = dict(zip([ids[k] for k in order], share_pixels(*([v[k] for k in order] for v in (rles, points, ids)))))
    assert plain == mixed


def test_a_pixel_goes_to_the_nearest_point_by_the_plain_rule():
    masks, points, ids = scene([(1, 3.2, 4.4), (2, 9.5, 5.5), (3, 14.1, 2.0)])
    parts = [decode(rle, H, W) for rle in share_pixels([encode(m) for m in masks], points, ids)]
    for y, x in itertools.product(range(H), range(W)):
        claims = [k for k in range(3) if masks[k][y, x]]
        winner = min(claims, key=lambda k: (points[k][0] - x - .5)**2 + (points[k][1] - y - .5)**2, default=None)
        assert [k for k in range(3) if parts[k][y, x]] == ([] if winner is None else [winner])


def test_the_level_that_holds_other_points_loses():
    features = torch.zeros(2, 2, 4)
    features[0, :, :2] = features[1, :, 2:] = 1
    whole, left = torch.tensor([9., 9.]), torch.tensor([9., -9.])
    kernels = torch.stack([torch.stack([whole, left])] * 2)
    assert points_inside(kernels, features, torch.tensor([[2., 3.], [13., 3.]]), .5).tolist() == [[1, 0], [1, 1]]


def answers(recipe: str, side: int):
    "Masks of a click in 64 x 64 pixels, when each level's mask is a square of this side at stride 4."
    cfg = SOLOv2Config(num_classes=1, num_grids=(4, 4, 2, 2, 2))
    features = torch.full((1, 1, 16, 16), -4.)
    features[0, 0, 5:5 + side, 4:4 + side] = 4.
    logits = [torch.full((1, 1, s, s), 3. if level == 2 else -3.) for level, s in enumerate(cfg.num_grids)]
    outputs = Outputs(logits, [torch.ones(1, 1, s, s) for s in cfg.num_grids], features, [])
    click = Prompts(torch.tensor([[20., 24.]]), torch.tensor([0]))
    found = candidates(outputs, 0, RECIPES[recipe].prompt, click, (64, 64), cfg)
    return to_instances(found, features[0], (64, 64), (64, 64), cfg, "none")


@pytest.mark.parametrize("recipe, least", [("paper", 5), ("competition", 5), ("competition_in_box", 5), ("competition_any_size", 1), ("competition_three_passes", 1)])
def test_a_click_keeps_a_small_mask_where_the_recipe_says_so(recipe, least):
    "Stride 16 of the clicked level takes masks of up to 16 pixels at stride 4; an empty mask is none in any recipe."
    assert [len(answers(recipe, side)) for side in range(6)] == [int(side >= least) for side in range(6)]
    assert answers(recipe, 5).points.tolist() == [0]


@pytest.fixture
def weak():
    def record(i, x): return {"id": i, "image_id": 7, "category_id": 1, "point": [x, 5.], "iscrowd": 0}
    table = CategoryTable((1,), ("disc",))
    return CocoData(Path("w.json"), Path(), {7: {"id": 7, "file_name": "7.png", "height": H, "width": W}},
                    {7: [record(1, 3.), record(2, 9.), record(3, 9.)]}, table, {})


def box(x0, x1):
    mask = np.zeros((H, W), bool)
    mask[2:9, x0:x1] = True
    return encode(mask)


def test_points_without_a_mask_are_listed_with_the_step_that_lost_it(weak, tmp_path):
    masks = [PseudoMask(1, 7, 0, box(0, 6), .9), PseudoMask(2, 7, 0, box(7, 12), .9), PseudoMask(3, 7, 0, box(8, 12), .8)]
    kept = compete(masks, weak)
    assert [bool(rle_api.area(m.rle)) for m in kept] == [True, True, False]
    why = reasons(weak, {"no mask": masks[:2], "shared": kept})
    assert why == {3: "no mask"} and reasons(weak, {"no mask": masks, "shared": kept}) == {3: "shared"}
    strong = CocoData(Path("s.json"), Path(), {}, {}, weak.categories, {})
    written = write_pseudo(tmp_path / "sw.json", strong, weak, kept, reasons={3: "shared"})
    assert [(a["id"], a["reason"]) for a in written["dropped_points"]] == [(3, "shared")]


def test_a_mask_elsewhere_than_its_point_is_no_label():
    "Also where the competition cut the part around the point away; the stage names the reason, and rings around their points stay."
    def one(i, *box): return PseudoMask(i, 1, 0, encode(painted(*box)), .9)
    def painted(x0, y0, x1, y1):
        mask = np.zeros((H, W), bool)
        mask[y0:y1, x0:x1] = True
        return mask
    at = {1: [2., 2.], 2: [8., 6.], 3: [8., 7.], 4: [15., 2.]}
    records = [{"id": i, "image_id": 1, "category_id": 1, "point": xy, "iscrowd": 0} for i, xy in at.items()]
    weak = CocoData(Path("w.json"), Path(), {1: {"id": 1, "height": H, "width": W}}, {1: records}, CategoryTable((1,), ("a",)), {})
    hollow = PseudoMask(4, 1, 0, encode(painted(12, 0, 17, 5) & ~painted(14, 1, 16, 4)), .9)
    masks = [one(1, 0, 0, 2, 4), one(2, 6, 4, 10, 7), one(3, 6, 3, 10, 7), hollow]     # up to it; around it; only where the second is nearer; a ring
    kept = {name: RECIPES[name].after(masks, weak, None) for name in ("competition", "competition_in_box")}
    assert [m.point_id for m in kept["competition"]] == [1, 2, 3, 4] and [m.point_id for m in kept["competition_in_box"]] == [2, 4]
    assert all(m in kept["competition"] for m in kept["competition_in_box"])
    cfg = config_of(overrides={"recipe": "competition_in_box", "first_round": "main"})
    assert set(stages.lost_at(cfg, weak, masks, masks, kept["competition_in_box"]).values()) == {"its mask lies elsewhere, or masks of other points hold its pixels"}
    assert set(stages.lost_at(cfg, weak, [], [], []).values()) == {"the student draws no mask"}


def test_a_mask_that_leaves_its_point_out_says_so(weak, tmp_path):
    strong = CocoData(Path("s.json"), Path(), {}, {}, weak.categories, {})
    written = write_pseudo(tmp_path / "sw.json", strong, weak, [PseudoMask(1, 7, 0, box(0, 6), .9), PseudoMask(2, 7, 0, box(12, 15), .9)])
    assert [a.get("point_outside", False) for a in written["annotations"]] == [False, True]


@pytest.mark.parametrize("wrong", [{"prompt": "none"}, {"behaviour": "published"}])
def test_a_competition_needs_points(wrong):
    with pytest.raises(ConfigError, match="recipe 'competition' needs prompt point and behaviour fixed"):
        preset("shapes", recipe="competition", **wrong)


def test_each_pass_of_the_refiner_gets_the_shared_masks_of_the_one_before(weak):
    "The last pass is not shared: the recipe's last step does that."
    seen = []
    def grow(masks, number):
        seen.append((number, [m.rle for m in masks]))
        return [replace(m, rle=box(*((0, 8) if m.point_id == 1 else (4, 12)))) for m in masks]
    rough = [PseudoMask(1, 7, 0, box(0, 4), .9), PseudoMask(2, 7, 0, box(8, 12), .9)]
    shared = [box(0, 6), box(6, 12)]
    assert [m.rle for m in RECIPES["competition_three_passes"].refined(rough, weak, grow)] == [box(0, 8), box(4, 12)]
    assert seen == [(1, [m.rle for m in rough]), (2, shared), (3, shared)]
    for name in ("paper", "competition", "competition_any_size", "competition_in_box"):
        seen.clear()
        RECIPES[name].refined(rough, weak, grow)
        assert [number for number, _ in seen] == [1]


def test_the_papers_recipe_is_one_word_away():
    "Also the student is then trained as in the paper; so it is with each recipe that is named, and tables of recipes compare labels alone."
    def training(**kw): return (t := preset("nuclei", **kw).student_train).copy_paste_prob, t.label_weight
    assert training() == (.5, "margin")
    for name in RECIPES: assert training(recipe=name) == (0, "none") and preset("nuclei", recipe=name).recipe == name
    assert training(recipe="paper", **{"student_train.copy_paste_prob": .2}) == (.2, "none")


def test_presets_of_the_paper_keep_its_recipe():
    ours = dict.fromkeys(("custom", "nuclei", "demo"), "competition_three_passes")
    assert {name: preset(name).recipe for name in ("coco", "bdd100k", "shapes", "animals7", *ours)} == {
        "coco": "paper", "bdd100k": "paper", "shapes": "paper", "animals7": "paper"} | ours
