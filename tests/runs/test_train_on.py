"A user's own images: two files of annotation tools, one call, no truth of the clicked images; wrong input is one line."
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
from PIL import Image

from pointwssis.core import DataError
from pointwssis.data import coco, shapes
from pointwssis.data.convert import convert, read_annotations, write_annotations
from pointwssis.data.masks import centroid
from pointwssis.data.show import show_grid
from pointwssis.detector.predict import trained_size
from pointwssis.report import own_page
from pointwssis.runs.cli import main
from pointwssis.runs.own_data import cross_folds, gather, hold_out
from pointwssis.runs import train_on
from pointwssis.runs.settings import SIZES
from pointwssis.runs.train_on import side_of_copies

TINY = {"teacher.backbone": "timm:test_resnet", "student.backbone": "timm:test_resnet", "refiner.backbone": "torchvision:resnet18", "teacher.weights": "",
        "student.weights": "", "refiner.weights": "", "teacher.frozen_norm": False, "student.frozen_norm": False, "teacher_train.steps": 3,
        "teacher_train.checkpoint_steps": [1, 2], "refiner_train.steps": 2, "student_train.steps": 3, "data.short_side": 64, "data.long_side": 64,
        "teacher_train.short_sides": [64], "student_train.short_sides": [64], "teacher_train.long_side": 64, "student_train.long_side": 64,
        "teacher.num_grids": [8, 7, 6, 6, 6], "student.num_grids": [8, 7, 6, 6, 6], "refiner.crop_size": 32}


def in_this_process(source: str, output: Path, params: dict, **_) -> None:
    "A stage without the seconds that a kernel takes to start."
    nb, scope = nbformat.read(source, 4), {}
    for cell in (c for c in nb.cells if c.cell_type == "code"):
        exec("\n".join(line for line in cell.source.split("\n") if not line.startswith("%")), scope)
        if "parameters" in cell.metadata.get("tags", []): scope.update(params)
    nbformat.write(nb, output)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    "Sixteen images: ten outlined in CVAT, five clicked on in a table, one in no file."
    root = tmp_path_factory.mktemp("own")
    every = coco.load(shapes.write(root / "set", train=16, val=2, size=72) / "annotations/instances_train.json")
    shutil.copytree(every.image_root, root / "photos")
    write_annotations("cvat", root / "outlines.xml", every.select(every.ids[:10]))
    used = {a["category_id"] for i in every.ids[:10] for a in every.annotations[i]}
    rows = [(every.images[i]["file_name"], *centroid(every.mask(a)), every.categories.names[every.categories.index(a["category_id"])])
            for i in every.ids[10:15] for a in every.annotations[i] if a["category_id"] in used]
    (root / "clicks.csv").write_text("\n".join(",".join(map(str, row)) for row in [("file", "x", "y", "class"), *rows]) + "\n")
    return root


@pytest.fixture
def here(drawn, tmp_path, monkeypatch, warm) -> Path:
    for name in ("outlines.xml", "clicks.csv"): shutil.copy(drawn / name, tmp_path)
    shutil.copytree(drawn / "photos", tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(papermill, "execute_notebook", in_this_process)
    monkeypatch.setattr("pointwssis.runs.train_on.start_weights", lambda size: ("", "none"))
    monkeypatch.setattr("pointwssis.runs.timing.WARM", (1, 1))
    return tmp_path


def train(*more: str) -> int:
    chosen = [part for key, value in TINY.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    return main(["train", "--images", "photos", "--masks", "outlines.xml", "--points", "clicks.csv", "--jobs", "1", *chosen, *more])


def test_from_two_files_to_a_student_and_a_page(here, capsys, monkeypatch):
    titles = []
    def drawn(items: list, **how):
        titles.extend(item["title"] for item in items)
        return show_grid(items, **how)
    monkeypatch.setattr(own_page, "show_grid", drawn)
    words = ["--name", "mine", "--folds", "0", "--set", "student_train.batch_size=4"]
    assert train(*words) == 0
    said = capsys.readouterr().out
    run = next(Path("outputs/runs/mine").glob("*p/s0"))
    assert "AP of 2 images: teacher" in said and "A step takes" in said and "your choice" in said
    assert "1 image of photos in no file: not used" in said
    page, rate = (run / "result/index.html").read_text(), "student_train.lr is 0.0005 instead of 0.001, in proportion to batch_size 4 instead of 8."
    assert rate in said and rate in page and "The student&#39;s AP minus the teacher&#39;s is" in page
    assert len({title for title in titles if title.startswith("0000")}) == 6      # each picture of two evaluated and four clicked images has a name
    command = re.search(r"pointwssis (predict PHOTO.jpg --weights \S+last.safetensors)", page)[1]
    assert main([*command.replace("PHOTO.jpg", "photos/000001.png").split()]) == 0
    plan = re.search(r"pointwssis (plan --hours 8 [^<]+)", page)[1]
    assert main(plan.split()) == 0 and "a mask" in capsys.readouterr().out
    weak = json.loads(next((run / "split/artifacts").glob("*_w.json")).read_text())
    assert {key for a in weak["annotations"] for key in a} == {"id", "image_id", "category_id", "point", "iscrowd"}
    labels = coco.load(run / "result/pseudo_labels.json", "photos")
    assert {r["file_name"] for r in labels.images.values()} == {r["file_name"] for r in weak["images"]}
    todo = (run / "result/next.csv").read_text().splitlines()
    assert len(todo) >= 1 + len(weak["images"]) and ",outline," in todo[1] and f"{page.count('data:image/png')}" == "3"
    assert train(*words) == 0 and "up to date" in capsys.readouterr().out


@pytest.mark.whole
def test_few_outlined_images_are_cross_validated(here, capsys):
    assert train("--name", "few") == 0
    said, place = capsys.readouterr().out, Path("outputs/runs/few")
    run, page = next(place.glob("*p/s0")), next(place.glob("*p/s0/result/index.html")).read_text()
    count = int(re.search(r"AP of (\d+) images: teacher", said)[1])
    assert 4 < count <= 10 and f"AP will be of {count} outlined images, cross-validated: 2 times a teacher and a student" in said
    assert "The cross-validation does it 2 times more" in said and f"AP is of {count} images" in page and "cross-validated: 2 times" in page
    def names(folder: Path, file: str) -> set[str]:
        return {r["file_name"] for r in json.loads(next(folder.glob(f"data/annotations/{file}")).read_text())["images"]}
    learned, judged = ([names(place / f"folds/fold{n}", file) for n in (1, 2)] for file in ("own_*_s.json", "own_val.json"))
    assert all(not a & b for a, b in zip(learned, judged)) and not judged[0] & judged[1]
    assert names(place, "own_*_s.json") == learned[0] | judged[0] and names(place, "own_val.json") == judged[0] | judged[1]
    assert "pointwssis plan" not in page        # it counts runs that are evaluated
    assert not (run / "evaluate").exists() and (run / "result/pseudo_labels.json").is_file()
    assert train("--name", "few") == 0 and "done in" not in capsys.readouterr().out
    assert train("--name", "few", "--set", "first_round=main", "--set", "variant=second") == 0      # a second round, judged in the same way
    said, again = capsys.readouterr().out, next(place.glob("*p-second/s0"))
    assert f"AP of {count} images: teacher" in said and "teacher taken over" in said and (again / "result/index.html").is_file()
    assert any(name.startswith("first_student_refined/") for name in json.loads((again / "pseudo/params.json").read_text())["inputs"])


@pytest.mark.whole
def test_large_images_are_trained_on_as_copies_and_labelled_as_they_are(here, capsys, monkeypatch):
    "The images have 72 pixels; 30 stand for a network that needs fewer."
    monkeypatch.setattr("pointwssis.runs.train_on.side_of_copies", lambda sides, size: 30)
    assert train("--name", "large", "--folds", "0") == 0
    said, place = capsys.readouterr().out, Path("outputs/runs/large")
    assert "Images have 72 pixels: copies of at most 30 are trained on" in said and "take at most 0.0 GB" in said
    weak = json.loads(next(place.glob("*p/s0/split/artifacts/*_w.json")).read_text())
    copies = {r["file_name"]: r["width"] for r in weak["images"]}
    assert trained_size(next(place.glob("*p/s0/student_refined/artifacts/last.safetensors"))) == (72, 72), "or predict would cut such images"
    assert set(copies.values()) == {30} and all(Image.open(place / "data/images" / name).size == (30, 30) for name in copies)
    labels = coco.load(next(place.glob("*p/s0/result/pseudo_labels.json")), "photos")
    assert {r["width"] for r in labels.images.values()} == {72} and {labels.mask(a).shape for a in labels.records()} <= {(72, 72)}
    made = {path: path.stat().st_mtime_ns for path in (place / "data/images").iterdir()}
    assert train("--name", "large", "--folds", "0") == 0 and "done in" not in capsys.readouterr().out
    assert made == {path: path.stat().st_mtime_ns for path in (place / "data/images").iterdir()}
    assert train("--name", "whole", "--folds", "0", "--long-side", "0", "--force") == 0 and not Path("outputs/runs/whole/data/images").exists()
    assert train("--long-side", "-1") == 2 and "long_side -1: give pixels, or 0" in capsys.readouterr().err


@pytest.mark.parametrize(("pixels", "size", "side"), [(4000, "small", 1024), (1500, "small", 0), (4000, "base", 1600), (2000, "base", 0), (256, "large", 0)])
def test_only_much_larger_images_are_copied(pixels, size, side): assert side_of_copies(np.full(9, pixels), size) == side


def test_folds_leave_every_class_to_learn_from(here):
    data = read_annotations("cvat", "outlines.xml", "photos")
    for seed in range(5):
        for learned, part in cross_folds(data, seed, 3):
            classes = [{a["category_id"] for i in d.ids for a in d.annotations[i]} for d in (learned, part)]
            assert part.ids and classes[1] <= classes[0] and set(learned.ids) | set(part.ids) == set(data.ids) and not set(learned.ids) & set(part.ids)
    with pytest.raises(DataError, match="3 outlined images cannot be divided"): cross_folds(data.select(data.ids[:3]), 0)


def test_pseudo_labels_are_corrected_in_a_tool_and_come_back_as_outlines(here):
    data = read_annotations("cvat", "outlines.xml", "photos")
    coco.save("pseudo_labels.json", list(data.images.values()), [a for i in data.ids for a in data.annotations[i]], data.categories)
    convert("coco", "pseudo_labels.json", "correct.json", "label_studio", root="photos")
    convert("label_studio", "correct.json", "strong.json", root="photos")
    own = gather(Path("photos"), Path("strong.json"), Path("clicks.csv"))
    assert len(own.strong.ids) == 10


def test_outlines_and_clicks_of_several_files_count_together(here, capsys):
    "As those of one file, whatever the tools; images in two of them are one line."
    data = read_annotations("cvat", "outlines.xml", "photos")
    write_annotations("cvat", "first.xml", data.select(data.ids[:4]))
    write_annotations("label_studio", "corrected.json", data.select(data.ids[4:]))
    header, *rows = Path("clicks.csv").read_text().splitlines()
    first = [row for row in rows if row.startswith(rows[0].split(",")[0])]
    for name, part in (("a.csv", first), ("b.csv", rows[len(first):])): Path(name).write_text("\n".join([header, *part]))
    one = gather(Path("photos"), Path("outlines.xml"), Path("b.csv"), folds=0)
    two = gather(Path("photos"), [Path("first.xml"), Path("corrected.json")], [Path("b.csv")], folds=0)
    def objects(own) -> set:
        return {(data.images[i]["file_name"], data.categories.names[data.categories.index(a["category_id"])], tuple(a["bbox"]))
                for data in (own.strong, own.val) for i in data.ids for a in data.annotations[i]}
    assert objects(one) == objects(two) and len(two.strong.ids) + len(two.val.ids) == 10
    both = gather(Path("photos"), Path("outlines.xml"), [Path("a.csv"), Path("b.csv")])
    assert len({a["id"] for a in both.weak.records()}) == both.weak.num_annotations > one.weak.num_annotations
    few = one.strong.categories.names[:2]
    assert gather(Path("photos"), [Path("first.xml"), Path("corrected.json")], Path("b.csv"), classes=few, empty="skip").strong.categories.names == few
    words = ["train", "--images", "photos", "--masks", "outlines.xml", "first.xml", "--points", "clicks.csv"]
    assert main(words) == 2
    assert capsys.readouterr().err == "error: first.xml: 000001.png is in outlines.xml too. Remove it from one of the two.\n"


def edit(name: str, old: str, new: str): Path(name).write_text(Path(name).read_text().replace(old, new))
def first_class() -> str: return Path("clicks.csv").read_text().splitlines()[1].split(",")[3]


def outlined_and_clicked():
    edit("outlines.xml", "</image>", f'<points label="{first_class()}" points="3,4"/></image>')


def no_outline():
    edit("outlines.xml", "</labels>", "<label><name>ufo</name></label></labels>")
    edit("clicks.csv", first_class(), "ufo")


def no_outline_beside_two_words():
    no_outline()
    other = re.search("<name>(?!ufo)(.*?)</name>", Path("outlines.xml").read_text())[1]
    Path("outlines.xml").write_text(Path("outlines.xml").read_text().replace(other, "two words"))
    Path("clicks.csv").write_text(Path("clicks.csv").read_text().replace(other, "two words"))


FAULTS = {
    "a class spelled differently": (lambda: edit("clicks.csv", first_class(), first_class().upper()), "unknown class '", "Did you mean '"),
    "a class without an outline": (no_outline, "clicks.csv: class 'ufo' has",
                                   "and no outline in outlines.xml. Outline some of its objects in outlines.xml, rename it, or keep the other classes"),
    "a class without an outline beside one of two words": (no_outline_beside_two_words, "clicks.csv: class 'ufo' has", "--classes 'two words,"),
    "a class that the outlines do not name": (lambda: edit("clicks.csv", first_class(), "ufo"), "clicks.csv: class 'ufo' has",
                                              "or keep the other classes alone with --classes "),
    "a click outside": (lambda: edit("clicks.csv", "000011.png,", "000011.png,9"), "clicks.csv: line 2: the click (9",
                        "is not inside 000011.png (72 x 72). Write x, y in pixels"),
    "an image that is not there": (lambda: Path("photos/000011.png").unlink(), "clicks.csv: line 2: no image '000011.png' in photos.",
                                   "Name files relative to that folder."),
    "all clicked images are outlined": (lambda: edit("clicks.csv", "00001", "00000"),
                                        "clicks.csv: no image is clicked on that is not outlined.", "Give clicks on other images as --points."),
    "outlines and clicks in one image": (outlined_and_clicked, "outlines.xml: 000001.png has", "Outline all, or remove the outlines."),
    "the same file twice": (lambda: shutil.copy("clicks.csv", "outlines.xml"), "outlines.xml: broken XML", "Export it again."),
    "a picture that is none": (lambda: Path("photos/000011.png").write_text("no"), "photos/000011.png cannot be read as an image.", ""),
    "too large to learn": (lambda: None, "unknown size 'huge'.", "Known: small, base, large."),
}


@pytest.mark.parametrize("spoil, words, cure", FAULTS.values(), ids=FAULTS)
def test_wrong_input_is_one_line(here, capsys, spoil, words, cure):
    spoil()
    more = ["--size", "huge"] if "huge" in words else []
    assert train(*more) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1 and words in line and cure in line
    assert not list(Path(".").glob("outputs/runs/*/*/s0"))


def test_masks_win_where_an_image_is_outlined_and_clicked(here):
    edit("clicks.csv", "000011.png", "000001.png")
    own = gather(Path("photos"), Path("outlines.xml"), Path("clicks.csv"))
    assert own.notes[0] == "1 clicked image with outlines too, such as 000001.png: the outlines are used"
    names = [{r["file_name"] for r in data.images.values()} for data in (own.strong, own.weak, own.val)]
    assert "000001.png" in names[0] | names[2] and "000001.png" not in names[1]


def test_ten_thousand_files_of_which_few_are_used(here):
    for n in range(10_000): (here / f"photos/{n}.jpg").touch()   # never opened
    own = gather(Path("photos"), Path("outlines.xml"), Path("clicks.csv"))
    assert "10,001 images of photos in no file: not used" in own.notes


def test_images_to_judge_by(here):
    data = read_annotations("cvat", "outlines.xml", "photos")
    for seed in range(5):
        kept, held = hold_out(data, seed)
        classes = [{a["category_id"] for i in part.ids for a in part.annotations[i]} for part in (kept, held)]
        assert len(held.ids) == 2 and len(kept.ids) == 8 and classes[1] <= classes[0]
    with pytest.raises(DataError, match="3 outlined images cannot be divided. Outline four or more, or give others as --val."):
        hold_out(data.select(data.ids[:3]), 0)
    convert("cvat", "outlines.xml", "val.json", root="photos")
    with pytest.raises(DataError, match="val.json: 000001.png is in the training files too"):
        gather(Path("photos"), Path("outlines.xml"), Path("clicks.csv"), Path("val.json"))
    assert Image.open("photos/000001.png").size == (72, 72)


def test_images_to_judge_by_have_outlines_of_the_trained_classes(here):
    data = read_annotations("cvat", "outlines.xml", "photos")
    write_annotations("cvat", here / "some.xml", data.select(data.ids[:8]))
    write_annotations("cvat", here / "val.xml", data.select(data.ids[8:]))
    files = [Path("photos"), Path("some.xml"), Path("clicks.csv")]
    edit("val.xml", "triangle", "triangel")
    with pytest.raises(DataError, match="val.xml: image 1, shape .: unknown class 'triangel'. Did you mean 'triangle'"):
        gather(*files, Path("val.xml"))
    with pytest.raises(DataError, match="clicks.csv: has no outline. Give a file with outlines."):
        gather(*files, Path("clicks.csv"))


def test_large_images_of_a_set_with_all_masks_are_named_with_the_cure(tmp_path, monkeypatch):
    root = shapes.write(tmp_path / "set", train=8, val=2, size=72)
    params = {"dataset": "custom", "split": "50p", "seed": 0, "data_root": str(root), "overrides": {}}
    monkeypatch.setattr(train_on, "start_weights", lambda size: ("", "none"))
    assert not any("makes copies" in note for note in train_on.settings_of_folder(params)[1])
    monkeypatch.setattr(train_on, "LEAST_COPY", 40)
    monkeypatch.setattr(train_on, "named_size", lambda name: replace(SIZES[name], long_side=16))
    assert any("convert --long-side 40 makes copies" in note for note in train_on.settings_of_folder(params)[1])
