"One setting, `behaviour`: what `published` keeps of the published code's faults, and `fixed` does not."
from dataclasses import replace

import pytest
import torch

from pointwssis import coco, shapes
from pointwssis.config import TrainConfig
from pointwssis.dataset import CocoDataset, collate
from pointwssis.targets import assign
from tiny import CFG


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    shapes.write(root, train=4, val=1, size=72)
    return coco.load(root / "annotations/instances_train.json", need="masks")


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
