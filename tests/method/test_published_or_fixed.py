"One setting, `behaviour`: what `published` keeps of the published code's faults, and `fixed` does not."
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from pointwssis.config import Config, SOLOv2Config, TrainConfig
from pointwssis.core import ConfigError
from pointwssis.data import coco
from pointwssis.data.evaluation import coco_ap
from pointwssis.data.points import Point, Prompts, as_prompts
from pointwssis.data.transforms import collate
from pointwssis.data.training_set import CocoDataset
from pointwssis.detector.inference import candidates
from pointwssis.detector.targets import assign
from pointwssis.method.prompts import point_cells
from pointwssis.method.pseudo_labels import PseudoMask, as_results, choose_weights
from pointwssis.quirks import BEHAVIOURS, FIXED, PUBLISHED, Quirks
from pointwssis.runs.presets import preset
from tiny import CFG, tiny_model

PACKAGE = Path(__file__).parents[2] / "pointwssis"


@pytest.fixture(scope="module")
def data(drawn): return coco.load(drawn / "annotations/instances_train.json", need="masks")


def test_only_two_words_are_known():
    assert preset("shapes").behaviour == "fixed" and preset("coco", behaviour="published").behaviour == "published"
    for make in (lambda: preset("shapes", behaviour="publish"), lambda: Config("shapes", behaviour="publish")):
        with pytest.raises(ConfigError, match="unknown behaviour 'publish'. Did you mean 'published'"): make()


def test_a_configuration_keeps_all_quirks_or_none():
    assert preset("shapes").quirks == FIXED == Quirks() and preset("coco", behaviour="published").quirks == PUBLISHED
    assert set(BEHAVIOURS) == {"published", "fixed"} and set(asdict(PUBLISHED).values()) == {True}


def test_every_quirk_is_read_somewhere_and_no_module_compares_the_word():
    sources = [(path.stem, path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")]
    assert {name for name in asdict(FIXED) if not any(f"quirks.{name}" in text for _, text in sources)} == set()
    assert [stem for stem, text in sources if re.search(r'behaviour (==|!=|in|not in) ', text)] == ["config"]


# --- points without a mask

@pytest.mark.parametrize("cache", [False, True])
def test_a_point_without_mask_is_background_when_published_and_ignored_when_fixed(data, cache):
    first = data.ids[0]
    lost = {"id": 1, "image_id": first, "category_id": data.categories.ids[0], "point": [40., 20.], "iscrowd": 0}
    blind = replace(data, annotations=data.annotations | {first: []}, info={"dropped_points": [lost]})
    schedule = TrainConfig(short_sides=(128,), long_side=128, flip_prob=0.)
    labels = {}
    for unmatched in ("background", "ignore"):
        batch = collate([CocoDataset(blind, schedule, cache=cache, unmatched=unmatched)[0, 0, 0]])
        labels[unmatched] = assign(CFG, batch["truth"], (32, 32)).classes
    assert (labels["background"] == CFG.num_classes).all()
    assert (labels["ignore"] == -1).any() and set(labels["ignore"].unique().tolist()) == {-1, CFG.num_classes}


# --- cut points

def test_coarse_points_are_cut_not_rounded():
    xy = torch.tensor([[99.996, 0.], [50.005, 19.99999], [0.00099, 12.3456]], dtype=torch.float64)
    cut = Prompts(xy, torch.zeros(3, dtype=torch.long)).coarse((20, 100)).xy
    assert torch.allclose(cut, torch.tensor([[99.99, 0.], [50., 19.998], [0., 12.344]], dtype=torch.float64), atol=1e-9)


def test_published_points_are_cut_and_only_under_the_point_prompt(monkeypatch):
    seen, model = [], tiny_model()

    def note(out, b, prompt, known, *rest):
        seen.append(known.xy[0, 0].item())
        return candidates(out, b, prompt, known, *rest)
    monkeypatch.setattr("pointwssis.detector.solov2.candidates", note)
    click = Prompts(torch.tensor([[48.003, 30.]], dtype=torch.float64), torch.tensor([0]), torch.tensor([[40., 20., 56., 40.]]))
    for prompt in ("point", "point_with_size"):
        for quirks in (PUBLISHED, FIXED):
            model.predict(torch.zeros(1, 3, 64, 96), [(64, 96)], [(64, 96)], [click], prompt, "mask", quirks)
    exact = 48.003 - .5
    assert seen[0] == pytest.approx(int(exact / 96 * 10_000) / 10_000 * 96) and seen[0] < exact - 1e-3
    assert seen[1:] == [pytest.approx(exact)] * 3


# --- cells of clicks

@pytest.mark.parametrize("share, cell", [(.9625, 76), (.9624, 76), (.9626, 77), (0., 0), (.5, 39)])
def test_published_cells_are_counted_by_a_division_in_floats(share, cell):
    grids = SOLOv2Config(num_grids=(80, 64, 32, 24, 12))
    xy = torch.tensor([[share * 640, 0.]], dtype=torch.float64)
    assert point_cells(xy, (640, 640), grids, PUBLISHED)[0, 0].item() == cell == int(share // (1 / 80))
    assert point_cells(xy, (640, 640), grids)[0, 0].item() == int(share * 80)


def asked(model, points, quirks):
    return model.predict(torch.zeros(1, 3, 64, 96), [(64, 96)], [(64, 96)], [points], "point", "mask", quirks)[0]


def drawn(model, points, quirks):
    "Candidates before any NMS."
    with torch.inference_mode():
        known = as_prompts(points).to_input((64, 96), (64, 96), "cpu")
        return candidates(model.features(torch.zeros(1, 3, 64, 96)), 0, "point", known, (64, 96), CFG, quirks)


def test_a_later_click_in_the_same_cell_replaces_the_earlier_one_when_published():
    model, (x, y) = tiny_model(), (49., 33.)
    twice = [Point(x, y, 0, 7), Point(x, y, 1, 8)]
    assert drawn(model, twice, PUBLISHED).points.tolist() == [1] and drawn(model, twice, FIXED).points.tolist() == [0, 1]
    assert drawn(model, twice[::-1], PUBLISHED).classes.tolist() == [0]
    assert set(asked(model, twice, PUBLISHED).points.tolist()) <= {1}


def test_a_click_keeps_the_levels_where_it_is_alone():
    "Clicks 5 pixels apart share the cells of the coarse grids alone."
    model = tiny_model()
    near = [Point(49., 33., 0, 7), Point(55., 33., 1, 8)]
    cells = point_cells(as_prompts(near).xy - .5, (64, 96), CFG, PUBLISHED)
    assert (cells[0] == cells[1]).any() and (cells[0] != cells[1]).any()
    found, alone = drawn(model, near, PUBLISHED), drawn(model, near[:1], PUBLISHED)
    shared = [level for level in range(5) if cells[0, level] == cells[1, level]]
    assert found.points.tolist() == [0, 1]
    with torch.inference_mode(): out = model.features(torch.zeros(1, 3, 64, 96))
    known = as_prompts(near).to_input((64, 96), (64, 96), "cpu")
    for level in range(5):
        left = candidates(out, 0, "point", known, (64, 96), CFG, PUBLISHED, level).points.tolist()
        assert left == ([1] if level in shared else [0, 1])
    assert torch.equal(found.kernels[1], drawn(model, near[1:], PUBLISHED).kernels[0]) and len(alone.points) == 1


# --- which refiner

def test_published_takes_the_best_weights_and_fixed_asks_nobody():
    saved, asked = [Path(name) for name in "abc"], []
    def judge(path): return asked.append(path) or {"a": 1., "b": 3., "c": 3.}[path.name]
    assert choose_weights(saved, judge) == saved[2] and asked == []
    assert choose_weights(saved, judge, PUBLISHED) == saved[1] and asked == saved
    assert choose_weights(saved[:1], judge) == choose_weights(saved[:1], judge, PUBLISHED) == saved[0]


def test_pseudo_masks_are_judged_as_equally_sure(data):
    first = data.ids[0]
    masks = [PseudoMask(a["id"], first, data.categories.index(a["category_id"]), a["segmentation"], .2 + .1 * k)
             for k, a in enumerate(data.annotations[first])]
    results = as_results(masks, data)
    assert {r["score"] for r in results} == {1.} and coco_ap(data.select([first]), results)["ap_percent"] == pytest.approx(100)
