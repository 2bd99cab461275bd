"The pictures of a run: outcomes of masks, images that are not shown, runs whose files are gone."
import json

import numpy as np
import pytest
from chain import Chain
from matplotlib.figure import Figure

from pointwssis.core import file_hash
from pointwssis.method.overview import PICTURES, save_pictures
from pointwssis.method.run_pictures import outcome, resized, text_place
from pointwssis.method.finished_run import FinishedRun, readable


@pytest.fixture(scope="module")
def run(tmp_path_factory, drawn) -> FinishedRun:
    "A run of which the split alone is at hand."
    place = tmp_path_factory.mktemp("run")
    chain = Chain(place / "made", "shapes", "25p", drawn).run("split")
    (place / "s0/split").mkdir(parents=True)
    chain.inputs["split"].rename(place / "s0/split/artifacts")
    return FinishedRun(chain.cfg, place / "s0")


def masks(*places: tuple[int, int]) -> np.ndarray:
    "Squares of 20 pixels, by their left upper corner."
    found = np.zeros((len(places), 60, 80), bool)
    for mask, (x, y) in zip(found, places): mask[y:y + 20, x:x + 20] = True
    return found


IMAGE = np.zeros((60, 80, 3), np.uint8)


def test_a_mask_of_the_wrong_class_is_false_and_its_object_is_missed():
    true = masks((0, 0), (50, 30)), [0, 1]
    shown = outcome(IMAGE, (masks((2, 0), (50, 31)), [0, 0]), true, "student")
    assert shown["title"] == "student: 1 of 2 missed, 1 false" and shown["classes"] == [0, 3]
    assert shown["missed"] == [(60, 40)] and shown["false"] == [(60, 41)]


def test_two_masks_of_one_object_share_its_colour_and_none_is_false():
    shown = outcome(IMAGE, (masks((0, 0), (1, 0)), [0, 0]), (masks((0, 0)), [0]), "n")
    assert shown["classes"] == [0, 0] and not shown["missed"] and not shown["false"]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_places_and_masks_move_with_the_size(width):
    item = {"image": IMAGE, "masks": masks((20, 20)), "points": [(30, 30)], "texts": [(30, 30, "0.5")], "title": "t"}
    made = resized(item, width)
    scale = width / 80
    assert made["image"].shape == (round(60 * scale), width, 3) and made["points"] == [(30 * scale, 30 * scale)]
    assert made["texts"] == [(30 * scale, 30 * scale, "0.5")] and made["title"] == "t"
    assert np.sum(made["masks"]) == pytest.approx(400 * scale ** 2, rel=.03)


def test_hidden_images_are_shown_nowhere(run):
    weak, val = run.weak.ids[0], run.val.ids[0]
    without = FinishedRun(run.cfg, run.folder, (weak, val))
    assert weak not in without.weak.ids and len(without.weak.ids) == len(run.weak.ids) - 1
    assert without.val_images(3) == [i for i in run.val_images(3) if i != val] != run.val_images(3)     # the others stay


def test_images_with_few_objects_come_first_and_any_will_do(run):
    assert all(1 < len(run.truth.annotations[i]) < 9 for i in readable(run.truth))
    crowded = run.truth.select(i for i in run.truth.ids if len(run.truth.annotations[i]) == 1)
    assert readable(crowded) == crowded.ids


def test_a_run_without_weights_and_pseudo_labels_has_no_pictures_and_no_error(run, tmp_path):
    assert {draw(run) for draw in PICTURES.values()} == {None} and save_pictures(tmp_path, run.cfg, run.folder) == []


def test_pictures_carry_the_name_of_the_folder_where_the_run_lies(run, tmp_path, monkeypatch):
    monkeypatch.setattr("pointwssis.method.overview.PICTURES", {"square": lambda run: (Figure(), [7])})
    made = save_pictures(tmp_path, run.cfg, tmp_path / "moved/25p/s0")
    assert {path.stem for path in made} == {"moved_25p_square"}
    assert json.loads((tmp_path / "moved_25p_square.json").read_text())["dataset"] == "moved"


def test_pictures_name_the_weights_that_they_were_drawn_with(run, tmp_path, monkeypatch):
    monkeypatch.setattr("pointwssis.method.overview.PICTURES", {"square": lambda run: (Figure(), [7])})
    weights = tmp_path / "a/25p/s0/student_refined/artifacts/last.safetensors"
    for content in (None, b"weights"):
        if content: (weights.parent.mkdir(parents=True), weights.write_bytes(content))
        save_pictures(tmp_path, run.cfg, tmp_path / "a/25p/s0")
        assert json.loads((tmp_path / "a_25p_square.json").read_text())["student"] == (file_hash(weights) if content else "")


def test_a_text_leaves_a_small_mask_visible():
    mask = np.zeros((100, 80), bool)
    mask[40:50, 10:20] = True
    assert text_place(mask, 15, 45) == (15, 54)
    assert text_place(np.roll(mask, 48, 0), 15, 93) == (15, 83)     # above, at the lower edge
    mask[20:90] = True
    assert text_place(mask, 15, 45) == (15, 45)
