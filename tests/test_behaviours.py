"One setting, `behaviour`: what `published` keeps of the published code's faults, and `fixed` does not."
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pointwssis import coco, shapes
from pointwssis.config import Config, TrainConfig, preset
from pointwssis.core import ConfigError
from pointwssis.dataset import CocoDataset, collate
from pointwssis.evaluate import coco_ap
from pointwssis.prompt import Prompts, candidates
from pointwssis.pseudo import PseudoMask, as_results, choose_weights
from pointwssis.targets import assign
from tiny import CFG, tiny_model


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    shapes.write(root, train=4, val=1, size=72)
    return coco.load(root / "annotations/instances_train.json", need="masks")


def test_only_two_words_are_known():
    assert preset("shapes").behaviour == "fixed" and preset("coco", behaviour="published").behaviour == "published"
    for make in (lambda: preset("shapes", behaviour="publish"), lambda: Config("shapes", behaviour="publish")):
        with pytest.raises(ConfigError, match="unknown behaviour 'publish'. Did you mean 'published'"): make()


# --- points without a mask

@pytest.mark.parametrize("cache", [False, True])
def test_a_point_without_mask_is_background_when_published_and_ignored_when_fixed(data, cache):
    first = data.ids[0]
    lost = {"id": 1, "image_id": first, "category_id": data.categories.ids[0], "point": [40., 20.], "iscrowd": 0}
    blind = replace(data, annotations=data.annotations | {first: []}, info={"dropped_points": [lost]})
    schedule = TrainConfig(short_sides=(72,), long_side=72, flip=0.)
    labels = {}
    for behaviour in ("published", "fixed"):
        batch = collate([CocoDataset(blind, schedule, cache=cache, behaviour=behaviour)[0, 0, 0]])
        labels[behaviour] = assign(CFG, batch["truth"], (24, 24)).classes
    assert (labels["published"] == CFG.num_classes).all()
    assert (labels["fixed"] == -1).any() and set(labels["fixed"].unique().tolist()) == {-1, CFG.num_classes}


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
    monkeypatch.setattr("pointwssis.solov2.candidates", note)
    click = Prompts(torch.tensor([[48.003, 30.]], dtype=torch.float64), torch.tensor([0]), torch.tensor([[40., 20., 56., 40.]]))
    for prompt in ("point", "point_with_size"):
        for behaviour in ("published", "fixed"):
            model.predict(torch.zeros(1, 3, 64, 96), [(64, 96)], [(64, 96)], [click], prompt, "mask", behaviour)
    exact = 48.003 - .5
    assert seen[0] == pytest.approx(int(exact / 96 * 10_000) / 10_000 * 96) and seen[0] < exact - 1e-3
    assert seen[1:] == [pytest.approx(exact)] * 3


# --- which refiner

def test_published_takes_the_best_weights_and_fixed_asks_nobody():
    saved, asked = [Path(name) for name in "abc"], []
    def judge(path): return asked.append(path) or {"a": 1., "b": 3., "c": 3.}[path.name]
    assert choose_weights(saved, judge) == saved[2] and asked == []
    assert choose_weights(saved, judge, "published") == saved[1] and asked == saved
    assert choose_weights(saved[:1], judge) == choose_weights(saved[:1], judge, "published") == saved[0]


def test_pseudo_masks_are_judged_as_equally_sure(data):
    first = data.ids[0]
    masks = [PseudoMask(a["id"], first, data.categories.index(a["category_id"]), a["segmentation"], .2 + .1 * k)
             for k, a in enumerate(data.annotations[first])]
    results = as_results(masks, data)
    assert {r["score"] for r in results} == {1.} and coco_ap(data.select([first]), results)["ap_percent"] == pytest.approx(100)
