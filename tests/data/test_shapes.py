"The generated data set: the same to the pixel everywhere, every label visible, COCO on disk."
import hashlib
import json

import numpy as np
import pytest

from pointwssis.core import ConfigError, rng
from pointwssis.data import coco, shapes


def fingerprint(array): return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


@pytest.fixture(scope="module")
def scenes(): return [shapes.draw_image(rng(0, "train", i)) for i in range(40)]


def test_pixels_and_masks_are_pinned(scenes):
    assert fingerprint(np.stack([image for image, _, _ in scenes])) == "4cde341b8ebf6f7f"
    assert fingerprint(np.concatenate([masks for _, masks, _ in scenes])) == "e0997322af2e5adb"
    assert [classes for _, _, classes in scenes[:3]] == [[0, 2, 2], [0, 2], [2, 0, 0, 2]]


def test_an_object_must_show_60_pixels_and_15_percent():
    "Few scenes come near these borders, so the pinned ones do not tell."
    assert [shapes._enough(np.array([left]), [area]) for left, area in ((60, 60), (59, 60), (75, 500), (74, 500))] == [True, False, True, False]


def test_no_cosine_is_near_a_rounding_border():
    exact = np.cos(2 * np.pi * np.arange(shapes.TURN) / shapes.TURN) * shapes.ONE
    assert abs(abs(exact - np.floor(exact)) - .5).min() > 1e-3


def test_scenes_keep_their_promises(scenes):
    for image, masks, classes in scenes:
        assert image.shape == (128, 128, 3) and image.dtype == np.uint8
        assert masks.dtype == bool and 2 <= len(masks) == len(classes) <= 5
        assert masks.sum(0).max() == 1                              # visible parts never overlap
        assert (masks.sum((1, 2)) >= shapes.LEAST_AREA).all()
    assert {c for _, _, classes in scenes for c in classes} == set(range(len(shapes.CLASSES)))


def test_objects_hide_each_other(scenes):
    "A hidden object's mask misses pixels that its neighbour's has: boxes overlap though masks do not."
    def overlap(a, b): return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])
    crowded = 0
    for _, masks, _ in scenes:
        boxes = [coco.box_of(m) for m in masks]
        crowded += any(overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert crowded > len(scenes) // 2


def test_habits_are_habits_and_not_uniforms():
    "With habit 100 every object is near its class's colour; with habit 0 the classes' mean colours are alike."
    def distance(habit):
        found = [shapes.draw_image(rng(1, i), habit=habit) for i in range(40)]
        return np.mean([abs(image[m].mean(0) - shapes.COLOURS[k]).mean() for image, masks, classes in found for m, k in zip(masks, classes)])
    assert distance(100) < 40 < 50 < distance(0) and distance(100) < distance(80) < distance(0)


@pytest.mark.parametrize("form", shapes.CLASSES)
def test_forms_turn_without_changing(form):
    y, x = np.mgrid[-40:41, -40:41]
    area = [int((shapes.depth(form, x, y, 30, step) > 0).sum()) for step in (0, 60, 13, 100)]
    assert area[0] == area[1] and np.ptp(area) < .04 * area[0]
    inside = shapes.depth(form, x, y, 30, 0) > 0
    assert np.hypot(x, y)[inside].max() <= 30.5 and np.hypot(x, y)[inside].max() > 23
    assert inside[40, 40] == (form != "ring")


def test_knobs():
    quiet, loud = (shapes.draw_image(rng(3), noise=n)[0].astype(int) for n in (0, 40))
    assert 10 < abs(quiet - loud).mean() < 30
    grey = np.array([128, 128, 128])
    near, far = (np.mean([abs(shapes.colour_away_from(rng(s), grey, c) - grey).mean() for s in range(50)]) for c in (0, 70))
    assert far > near + 10
    assert len(shapes.draw_image(rng(1), objects=(5, 5))[1]) == 5


def test_folder_is_coco_and_repeats_byte_for_byte(tmp_path, scenes):
    for name in "ab": shapes.write(tmp_path / name, train=6, val=3, seed=0)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 11
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    train, val = (coco.load(tmp_path / "a" / "annotations" / f"instances_{s}.json", need="masks") for s in ("train", "val"))
    assert len(train.ids) == 6 and len(val.ids) == 3 and not set(train.ids) & set(val.ids)
    assert train.categories.names == shapes.CLASSES
    for image_id, (image, masks, classes) in zip(train.ids, scenes):
        records = train.annotations[image_id]
        assert np.array_equal(train.read_image(image_id), image)
        assert np.array_equal(np.stack([train.mask(a) for a in records]), masks)
        assert [train.categories.index(a["category_id"]) for a in records] == classes
        assert [a["area"] for a in records] == masks.sum((1, 2)).tolist()
    assert json.loads(train.path.read_text())["annotations"][0]["iscrowd"] == 0


def test_train_and_val_and_seeds_differ_and_more_images_extend(tmp_path):
    shapes.write(tmp_path / "a", train=2, val=2, seed=0)
    shapes.write(tmp_path / "b", train=3, val=1, seed=0)
    shapes.write(tmp_path / "c", train=1, val=1, seed=1)
    def pixels(folder, name, image): return (tmp_path / folder / name / f"{image:06d}.png").read_bytes()
    assert [pixels("a", "train", i) for i in (1, 2)] == [pixels("b", "train", i) for i in (1, 2)]
    assert pixels("a", "train", 1) != pixels("a", "val", 100_001) and pixels("a", "train", 1) != pixels("c", "train", 1)


def test_too_small_pictures_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="32 pixels a side have no room"): shapes.write(tmp_path, 1, 1, size=32)
    assert not list(tmp_path.iterdir())


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "train/000002.png").mkdir(parents=True)
    with pytest.raises(OSError, match="000002.png"): shapes.write(tmp_path, train=3, val=1)
    assert not (tmp_path / "annotations").exists()


def test_a_window_of_a_texture_is_what_the_whole_shows_there():
    base, part = np.array([110, 120, 130]), np.s_[10:20, 30:50]
    for seed in range(20):
        whole, window = (shapes.texture(rng(seed), 64, base, window=w) for w in (shapes.WHOLE, part))
        assert np.array_equal(whole[part], window)
