"`pointwssis predict`: which images are meant, which files come out, clicks, and bad input in one line."
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pointwssis.core import write_json
from pointwssis.data import coco, shapes
from pointwssis.data.masks import decode, encode, pixels_of
from pointwssis.detector.inference import Instances
from pointwssis.detector.solov2 import SOLOv2
from pointwssis.method import stages
from pointwssis.registry import REFINERS
from pointwssis.runs import clicks, predicting
from pointwssis.runs.cli import main
from pointwssis.runs.presets import preset
from pointwssis.training.weights import save_weights
from chain import Chain, linked

RUN = Path("outputs/runs/mine/10p/s0")
EVERY = {"student.score_threshold": 0., "student.update_threshold": 0., "student.max_per_image": 10}
WEIGHTS = RUN / "student_refined/artifacts/last.safetensors"


@pytest.fixture
def here(tmp_path, monkeypatch, drawn) -> Path:
    "A run with a teacher, a student and a refiner of random weights, and a folder of images."
    monkeypatch.chdir(tmp_path)
    cfg = preset("shapes", **EVERY)
    torch.manual_seed(0)
    state = SOLOv2(replace(cfg.student, num_classes=3)).state_dict()
    for stage in ("teacher", "student_refined"):
        save_weights(RUN / stage / "artifacts/last.safetensors", state)
        write_json(RUN / stage / "params.json", {"stage": stage, "parameters": {"dataset": "shapes", "overrides": EVERY}})
    save_weights(RUN / "refiner/artifacts/last.safetensors", {})
    table = coco.CategoryTable((1, 2, 3), ("disc", "ring", "star"))
    coco.save(RUN / "split/artifacts/x_10p_s.json", [{"id": 1, "file_name": "1.png", "width": 128, "height": 128}], [], table)
    for n, size in enumerate(((128, 128), (128, 96), (300, 280)), 1):
        path = tmp_path / f"photos/{'deep/' * (n == 2)}{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((*size[::-1], 3), np.uint8)).save(path)
    return tmp_path


def discs(images, points=None):
    "A network that finds a square of side 20 around each click, or one square in the corner; nothing at a click in the first row of tiles' pixels."
    def one(image, known):
        clicks = [(p.x, p.y, p.class_index) for p in known] if known is not None else [(12, 12, 1)]
        masks = np.zeros((len(clicks), *image.shape[:2]), bool)
        for m, (x, y, _) in zip(masks, clicks):
            if y >= 2: m[max(0, int(y) - 10):int(y) + 10, max(0, int(x) - 10):int(x) + 10] = True
        number = torch.arange(len(clicks))
        return Instances(torch.from_numpy(masks), torch.full((len(clicks),), .9), torch.tensor([c for *_, c in clicks], dtype=torch.long),
                         number if known is not None else torch.full((len(clicks),), -1))
    return [one(image, points[n] if points else None) for n, image in enumerate(images)]


@pytest.fixture
def seen(here, monkeypatch):
    "The same with a network that is known."
    asked = []
    def predictor(model, data, device, prompt="none", *rest, **more):
        asked.append(prompt)
        assert len(rest) == 5 or more.keys() == {"precision", "compile"}        # the options of the part
        return discs
    for module in (predicting, clicks): monkeypatch.setattr(module, "predictor", predictor)
    return asked


class Larger:
    "A refiner that adds a column."
    @classmethod
    def load(cls, cfg, num_classes, weights): return cls()

    def refine(self, items):
        return [[encode(np.pad(m := decode(rle, *rle["size"]), ((0, 0), (1, 0)))[:, :-1] | m) for rle in rough] for _, rough, _, _ in items]


def predict(*words: str) -> int: return main(["predict", *words, "--weights", str(WEIGHTS)])
def written() -> dict: return json.loads(Path("predictions/predictions.json").read_text())
def files() -> list[str]: return sorted(p.relative_to("predictions").as_posix() for p in Path("predictions").rglob("*") if p.is_file())


def fails(capsys, *words: str, lines: int = 1) -> str:
    capsys.readouterr()
    code = predict(*words)
    said = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    assert code == 2 and len(said) == lines, said
    return "\n".join(said)


def test_a_folder_becomes_pictures_and_one_coco_file(seen, capsys):
    assert predict("photos") == 0
    assert files() == ["overlay/1.jpg", "overlay/3.jpg", "overlay/deep/2.jpg", "predictions.json"]
    said = capsys.readouterr().out
    assert "3 images, 11 objects: ring 11. File names are relative to photos." in said
    data = coco.load("predictions/predictions.json", "photos", need="masks")
    assert {r["file_name"] for r in data.images.values()} == {"1.png", "3.png", "deep/2.png"} and data.categories.names == ("disc", "ring", "star")
    one = next(a for i in data.ids for a in data.annotations[i] if data.images[i]["file_name"] == "deep/2.png")
    assert one["score"] == .9 and one["category_id"] == 2 and data.mask(one).sum() == 20 * 20 and one["bbox"] == [2, 2, 20, 20]
    picture = np.asarray(Image.open("predictions/overlay/deep/2.jpg"))
    assert picture.shape[1] == 128 and picture.shape[0] > 96 and picture[96:].mean() > 150 > picture[:96].mean()      # the legend


def test_patterns_files_and_lists(seen, capsys):
    assert predict("photos/[13].png", "photos/deep/2.png", "--save", "coco") == 0
    assert [r["file_name"] for r in written()["images"]] == ["1.png", "3.png", "deep/2.png"] and files() == ["predictions.json"]
    write_json("list.json", {"images": [{"id": 70, "file_name": "deep/2.png", "width": 128, "height": 96}]})
    assert predict("list.json", "--image-folder", "photos", "--out", "other", "--save", "masks,coco") == 0
    made = json.loads(Path("other/predictions.json").read_text())
    assert [r["id"] for r in made["images"]] == [70] == [a["image_id"] for a in made["annotations"]]
    labels = np.asarray(Image.open("other/masks/deep/2.png"))
    assert labels.dtype == np.uint16 and labels.shape == (96, 128) and set(np.unique(labels)) == {0, 1}
    assert Path("other/masks/deep/2.csv").read_text().splitlines() == ["id,class,score,area", f"1,ring,0.9000,{(labels == 1).sum()}"]


def test_a_second_prediction_does_not_see_the_first(seen):
    for _ in range(2): assert predict("photos", "--out", "photos/found") == 0
    assert len(json.loads(Path("photos/found/predictions.json").read_text())["images"]) == 3


def test_large_images_are_cut_and_others_are_not(seen, capsys):
    "The image of 300 x 280 pixels is over twice as large as the training images of 128; each of its nine tiles shows one object."
    assert predict("photos") == 0
    said = capsys.readouterr().out
    assert "An image of 300 x 280 pixels, over 2 times as large as those of the training (128 x 128), is predicted in tiles of that size" in said
    assert "--tile 0 predicts it as a whole" in said
    counts = {r["file_name"]: sum(a["image_id"] == r["id"] for a in written()["annotations"]) for r in written()["images"]}
    assert counts == {"1.png": 1, "3.png": 9, "deep/2.png": 1}
    assert predict("photos", "--tile", "0") == 0 and len(written()["annotations"]) == 3
    assert predict("photos", "--tile", "64") == 0 and len(written()["annotations"]) > 20


def outlined(*sides: int) -> None:
    "The training image of the run, with a square of each side."
    (path,) = Path(RUN / "split/artifacts").glob("*_s.json")
    table = coco.load(path).categories
    squares = [[0, 0, side, 0, side, side, 0, side] for side in sides]
    coco.save(path, [{"id": 1, "file_name": "1.png", "width": 128, "height": 128}],
              [{"id": n, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": [xy]} for n, xy in enumerate(squares, 1)], table)


def test_a_large_image_of_one_scene_stays_whole(seen, capsys, monkeypatch):
    "The network finds a square of 20 pixels in the image scaled down to 128: as large as the outlined ones, or half as large."
    monkeypatch.setitem(REFINERS._found, preset("shapes").refiner.kind, Larger)
    outlined(18, 20, 22)
    assert predict("photos") == 0
    assert "is predicted as a whole: most of its objects have the relative size of the training's; --tile 128 cuts it" in capsys.readouterr().out
    assert len(written()["annotations"]) == 3
    outlined(36, 40, 44)
    assert predict("photos") == 0
    assert "is predicted in tiles" in capsys.readouterr().out and len(written()["annotations"]) == 11
    table("3.png,150,140,ring")
    outlined(18, 20, 22)
    assert predict("photos", "--points", "clicks.csv") == 0
    assert "is predicted as a whole" in capsys.readouterr().out


def test_an_image_under_the_size_is_as_without_tiles(here):
    "With the real network."
    Image.fromarray(shapes.draw_image(np.random.default_rng(0), 128)[0]).save("photos/1.png")
    found = []
    for tile in ((), ("--tile", "0"), ("--tile", "128")):
        assert predict("photos/1.png", "--score", "0", *tile) == 0
        found.append(written()["annotations"])
    assert found[0] and found[0] == found[1] == found[2]


def table(*rows: str) -> None: Path("clicks.csv").write_text("\n".join(["file,x,y,class", *rows]) + "\n")


def test_each_click_gets_a_mask_or_a_reason(seen, capsys, monkeypatch):
    monkeypatch.setitem(REFINERS._found, preset("shapes").refiner.kind, Larger)
    table("1.png,40,40,disc", "1.png,80,80,star", "deep/2.png,30,1,ring", "3.png,150,140,ring")
    assert predict("photos", "--points", "clicks.csv", "--save", "coco,masks") == 0
    said, made = capsys.readouterr().out, written()
    assert "Masks are those of the run's teacher, refined." in said
    assert "1 of 4 clicks without a mask:" in said and "deep/2.png (30, 1): the teacher draws no mask" in said
    assert [(a["point"], a["category_id"], a["area"]) for a in made["annotations"]] == [([40, 40], 1, 420), ([80, 80], 3, 420), ([150, 140], 2, 420)]
    assert [(a["point"], a["reason"]) for a in made["dropped_points"]] == [([30, 1], "the teacher draws no mask")]
    rough = json.loads(Path("predictions/teacher/predictions.json").read_text())
    assert [a["area"] for a in rough["annotations"]] == [400, 400, 400]
    wide = coco.load("predictions/predictions.json", "photos")
    moved = next(a for i in wide.ids for a in wide.annotations[i] if a["point"] == [150, 140])
    assert moved["bbox"] == [140, 130, 21, 20]      # a click in a tile, in pixels of the image


def test_each_clicked_image_is_decoded_once(seen, monkeypatch):
    "For tiles, teacher, refiner and pictures alike; in several batches, with an image that holds several clicked tiles."
    monkeypatch.setitem(REFINERS._found, preset("shapes").refiner.kind, Larger)
    monkeypatch.setattr(clicks, "AT_ONCE", 2)
    read, decoded = coco.read_picture, Counter()
    def counting(path, name=""):
        decoded[Path(path).name] += 1
        return read(path, name)
    monkeypatch.setattr(coco, "read_picture", counting)
    table("1.png,40,40,disc", "deep/2.png,30,30,ring", "3.png,150,140,ring", "3.png,20,20,disc")
    assert predict("photos", "--points", "clicks.csv") == 0
    assert decoded == {"1.png": 1, "2.png": 1, "3.png": 1} and len(written()["annotations"]) == 4


@pytest.mark.parametrize("content", [b"no picture", "PNG", "JPEG"], ids=["no picture", "PNG cut off", "JPEG cut off"])
def test_a_clicked_image_that_cannot_be_read_costs_no_other(seen, capsys, monkeypatch, content):
    monkeypatch.setitem(REFINERS._found, preset("shapes").refiner.kind, Larger)
    path = Path("photos/1.png")
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    if isinstance(content, str): Image.fromarray(noise).save(path, content)
    path.write_bytes(path.read_bytes()[:9000] if isinstance(content, str) else content)     # a JPEG's size is known before it is decoded
    message = f"photos/1.png{': image 1 of clicks.csv' * (content == 'JPEG')} cannot be read"
    table("1.png,40,40,disc", "3.png,150,140,ring")
    assert message in fails(capsys, "photos", "--points", "clicks.csv")
    assert [a["point"] for a in written()["annotations"]] == [[150, 140]]
    table("1.png,40,40,disc")
    assert message in fails(capsys, "photos", "--points", "clicks.csv")


def test_clicks_without_a_run_ask_the_network_given(seen, capsys):
    Path("w.safetensors").write_bytes(WEIGHTS.read_bytes())
    table("1.png,40,40,class 2")
    assert main(["predict", "photos/1.png", "--weights", "w.safetensors", "--points", "clicks.csv"]) == 0
    assert "Masks are those of w.safetensors, asked at each click." in capsys.readouterr().out
    assert [a["area"] for a in written()["annotations"]] == [400] and seen == ["point"]


BAD = {
    "no image in the folder": (lambda: Path("empty").mkdir(), ["empty"], "empty: no image in this folder."),
    "nothing matches": (lambda: None, ["*.tif"], "*.tif: no file matches. Check the pattern."),
    "no such image": (lambda: None, ["photos/9.png"], "photos/9.png: no such image."),
    "a list without images": (lambda: write_json("list.json", {"images": []}), ["list.json"], "list.json: lists no image."),
    "no list": (lambda: write_json("list.json", [1]), ["list.json"], "'images' is not a list of records"),
    "out is a file": (lambda: Path("predictions").write_text(""), ["photos"], "predictions: is a file. Give another folder as --out DIR."),
    "unknown kind": (lambda: None, ["photos", "--save", "overlays"], "unknown kind 'overlays'. Did you mean 'overlay'?"),
    "tiny tiles": (lambda: None, ["photos", "--tile", "8"], "tiles of 8 pixels are too small."),
    "one name": (lambda: Image.new("RGB", (8, 8)).save("photos/1.jpg"), ["photos"], "several images are named '1'."),
    "clicks elsewhere": (lambda: table("9.png,1,1,disc"), ["photos", "--points", "clicks.csv"], "clicks.csv: line 2: no image '9.png' in photos."),
    "clicks on another image": (lambda: table("deep/2.png,1,4,disc"), ["photos/1.png", "photos/3.png", "--points", "clicks.csv"],
                                "clicks.csv: deep/2.png is clicked on and not among the images."),
    "clicks of another class": (lambda: table("1.png,1,4,disk"), ["photos", "--points", "clicks.csv"], "unknown class 'disk'. Did you mean 'disc'?"),
    "no clicks": (lambda: None, ["photos", "--points", "clicks.csv"], "clicks.csv: no such file or folder."),
}


@pytest.mark.parametrize("spoil, words, says", BAD.values(), ids=BAD)
def test_bad_input_is_one_line(here, capsys, spoil, words, says):
    spoil()
    assert says in fails(capsys, *words)
    assert not Path("predictions").is_dir()


def test_images_that_cannot_be_read_are_named_and_the_others_done(seen, capsys):
    for name in ("0", "4"): Path(f"photos/{name}.png").write_bytes(b"no picture")
    said = fails(capsys, "photos", lines=2)
    assert "photos/0.png cannot be read as an image" in said and "photos/4.png cannot be read as an image" in said
    assert len(written()["images"]) == 3 and Path("predictions/overlay/3.jpg").is_file()


@pytest.mark.parametrize("settings, who", [({}, "run's teacher"), ({"recipe": "competition_in_box", "first_round": "main"}, "first round's student")])
def test_clicks_are_answered_as_the_stage_pseudo_answers_them(tmp_path, drawn, monkeypatch, capsys, settings, who):
    "The same masks, bit for bit, and the same reasons, from real networks."
    chain, run = Chain(tmp_path, "demo", "50p", drawn, **settings).run("split", "teacher", "refiner"), tmp_path / "drawn/50p-again/s0"
    for stage in ("teacher", "refiner"): shutil.copytree(chain.inputs[stage], run / stage / "artifacts")
    if settings:     # the teacher's weights stand for a student's
        first = shutil.copytree(chain.inputs["teacher"], tmp_path / "drawn/50p/s0/student_refined/artifacts")
        chain.inputs["first_student_refined"] = Path(first)
        (run / "teacher/artifacts/last.safetensors").write_bytes(b"no weights")
    weak, labels = chain.half("w"), chain.run("pseudo").labels("sw_refined")
    capsys.readouterr()
    networks = clicks.networks_for_clicks(None, run / "student_refined/artifacts/last.safetensors", len(weak.categories), chain.cfg, print)
    assert capsys.readouterr().out == f"Masks are those of the {who}, refined.\n"
    teacher, final, lost = clicks.masks_of_clicks(*networks, weak, chain.cfg, lambda height, width, read: None)
    made = {m.point_id: m.rle for m in final if len(pixels_of(m.rle))}
    assert made == {k: a["segmentation"] for k, a in linked(labels).items()} and len(made) > 3
    assert lost == {a["id"]: a["reason"] for a in labels.info["dropped_points"]}
    assert {m.point_id: m.rle for m in teacher if len(pixels_of(m.rle))} == {k: a["segmentation"] for k, a in linked(chain.labels("sw")).items()}
    counts, refine, empty = chain.metrics["pseudo"], stages.refined_labels, encode(np.zeros((128, 128), bool))
    monkeypatch.setattr(stages, "refined_labels", lambda *parts: [replace(m, rle=m.rle if k else empty) for k, m in enumerate(refine(*parts))])
    (tmp_path / "again").mkdir()
    fewer = stages.pseudo(chain.cfg, chain.inputs, tmp_path / "again")
    assert fewer["masks"] == counts["masks"] - 1 == fewer["points"] - fewer["points_without_mask"]     # an empty mask is none
