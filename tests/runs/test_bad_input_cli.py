"Bad input, from the command line to the last stage: exit code 2, one line with file, record and cure, nothing half-written."
import errno
import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
from PIL import Image
from papermill.exceptions import PapermillExecutionError

from pointwssis.data import coco
from pointwssis.runs import execution, runner
from pointwssis.runs.cli import main
from chain import TINY, Chain

TRAIN = "data/annotations/instances_train.json"


def in_this_process(source: str, output: Path, params: dict, **options) -> None:
    "Run a stage notebook as papermill does, without the seconds that a kernel takes to start."
    nb, scope = nbformat.read(source, 4), {}
    for number, cell in enumerate(c for c in nb.cells if c.cell_type == "code"):
        code = "\n".join(line for line in cell.source.split("\n") if not line.startswith("%"))
        try: exec(code, scope)
        except Exception as e:
            nbformat.write(nb, output)
            raise PapermillExecutionError(number, number, cell.source, type(e).__name__, str(e), []) from None
        if "parameters" in cell.metadata.get("tags", []): scope.update(params)
    nbformat.write(nb, output)


@pytest.fixture
def here(tmp_path, monkeypatch, drawn) -> Path:
    "A working directory with a small data set; stages run in this process and start no kernel."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(papermill, "execute_notebook", in_this_process)
    monkeypatch.setattr(execution, "fresh", nullcontext)
    monkeypatch.setattr(runner, "_machine", lambda name, params, *_: execution.machine_of(name, runner.of_run(params)))
    shutil.copytree(drawn, "data")
    return tmp_path


def options(**changes) -> list[str]:
    settings = {**TINY, **{key.replace("__", "."): value for key, value in changes.items()}}
    chosen = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    return ["--dataset", "shapes", "--data-root", "data", "--split", "50p", *chosen]


def runs(stage: str, **changes) -> None: assert main(["run", stage, *options(**changes)]) == 0


def fails(capsys, *argv: str) -> str:
    "The one line that a command leaves on stderr, beside progress bars, when it fails as it should."
    capsys.readouterr()
    finished = {path.parent for path in Path("outputs/runs").rglob("params.json") if "failed" not in path.parts}
    try: code = main(argv)
    except SystemExit as e: code = e.code
    said = [line for line in capsys.readouterr().err.replace("\r", "\n").split("\n") if line and " steps [" not in line]
    assert code == 2 and len(said) == 1 and said[0].startswith("error: ")
    left = [path for path in Path("outputs/runs").rglob("*") if "failed" not in path.parts]
    made = {path.parent for path in left if path.name in ("params.json", "metrics.json", "artifacts")}
    assert made == finished and not [path for path in left if path.name.startswith(".")]
    return said[0]


def change(path: str, edit) -> None:
    content = json.loads(Path(path).read_text())
    edit(content)
    Path(path).write_text(json.dumps(content))


def first(content: dict, kind: str, **values) -> None: content[kind][0].update(values)


ANNOTATIONS = {
    "duplicate image id": (lambda c: c["images"].append(c["images"][0]), "image id 1 occurs twice. Renumber"),
    "duplicate annotation id": (lambda c: c["annotations"].append(c["annotations"][0]), "annotation id 1 occurs twice. Renumber"),
    "unknown category": (lambda c: first(c, "annotations", category_id=77), "annotation 1: unknown category_id 77. Add the missing record"),
    "unknown image": (lambda c: first(c, "annotations", image_id=77), "annotation 1: unknown image_id 77. Add the missing record"),
    "no segmentation": (lambda c: c["annotations"][0].pop("segmentation"), "annotation 1 has no segmentation. Strong files need masks"),
    "mask of another size": (lambda c: [a["segmentation"].update(size=[9, 9]) for a in c["annotations"]],
                             "the mask is made for size [9, 9], the image has [128, 128]. Mend or remove"),
    "a polygon of text": (lambda c: [a.update(segmentation=[["a"] * 6]) for a in c["annotations"]],
                          "not a list of polygons [x, y, x, y, ...]. Mend"),
    "no images": (lambda c: c.update(images=[], annotations=[]), "has no image to divide into strong and weak. Check"),
    "strong images without objects": (lambda c: c.update(annotations=[]),
                                      "the 6 strong images of split 50p show no object. Choose a larger split"),
    "not COCO": (lambda c: c.pop("annotations"), "'annotations' is not a list of records. Is this a COCO-format file?"),
}


@pytest.mark.parametrize("edit, says", ANNOTATIONS.values(), ids=ANNOTATIONS)
def test_broken_annotations_stop_the_split(here, capsys, edit, says):
    change(TRAIN, edit)
    line = fails(capsys, "run", "split", *options())
    assert says in line and TRAIN in line


def test_broken_and_missing_json(here, capsys):
    text = Path(TRAIN).read_text()
    Path(TRAIN).write_text(text[:200])
    assert f"{TRAIN}: broken JSON at line 1, column" in fails(capsys, "reproduce", *options())
    Path(TRAIN).unlink()
    assert f"{TRAIN}: no such file. Check the path and the data root." in fails(capsys, "split", *options(), "--out", "mine")
    assert not Path("mine").exists()


def test_a_point_outside_of_its_image(here, capsys):
    truth = coco.load(TRAIN)
    click = {"id": 5, "image_id": 1, "category_id": 1, "point": [128.0, 3.0], "iscrowd": 0}
    coco.save("data/annotations/clicks.json", list(truth.images.values()), [click], truth.categories)
    line = fails(capsys, "run", "split", *options(data__weak_json="annotations/clicks.json"))
    assert "data/annotations/clicks.json: annotation 5: point [128.0, 3.0] is not inside image 1 (128 x 128). Points are" in line


SAYS = {"missing": "is missing. Check the data root", "cut": "cannot be read", "size": "is 60 x 64 pixels, the JSON says 128 x 128. Mend"}


def spoil(folder: str, how: str) -> str:
    "Damage every picture of a folder; what the error shall say."
    for path in Path(folder).iterdir():
        if how == "missing": path.unlink()
        elif how == "cut": path.write_bytes(path.read_bytes()[:3000])
        else: Image.fromarray(np.zeros((64, 60, 3), np.uint8)).save(path)
    return SAYS[how]


@pytest.mark.parametrize("how", SAYS)
def test_broken_pictures_stop_the_split(here, capsys, how):
    says = spoil("data/train", how)
    line = fails(capsys, "run", "split", *options())
    assert says in line and "data/train/0000" in line and ": image " in line


@pytest.mark.parametrize("how", SAYS)
@pytest.mark.parametrize("workers", [0, 1])
def test_broken_pictures_stop_a_training(here, capsys, how, workers):
    "Also where a worker process meets them, whose traceback is no use to the owner of the picture."
    few = {"teacher_train__workers": workers}
    runs("split", **few)
    says = spoil("data/train", how)
    line = fails(capsys, "run", "teacher", *options(**few))
    assert says in line and "data/train/0000" in line and ": image " in line and "worker" not in line


@pytest.fixture(scope="module")
def trained(tmp_path_factory, drawn) -> Path:
    "Weights of a teacher, a refiner and a student."
    place = tmp_path_factory.mktemp("trained")
    return Chain(place, "shapes", "50p", drawn, **{"student.mask_channels": 16}).run("split", "teacher", "refiner", "supervised").folder


@pytest.mark.parametrize("how", SAYS)
def test_broken_weak_pictures_stop_the_pseudo_labels(here, capsys, trained, how, monkeypatch):
    runs("split")
    strong = {image["file_name"] for image in json.loads(next(Path("outputs/runs").rglob("*_s.json")).read_text())["images"]}
    for name in strong: shutil.copy(Path("data/train") / name, Path("data") / name)
    says = spoil("data/train", how)
    for name in strong: shutil.move(Path("data") / name, Path("data/train") / name)
    for stage in ("teacher", "refiner"):
        monkeypatch.setattr(f"pointwssis.method.stages.{stage}", lambda cfg, inputs, out: finished(trained / stage, out))
        runs(stage)
    line = fails(capsys, "run", "pseudo", *options())
    assert says in line and "data/train/0000" in line and "_w.json" in line


def finished(source: Path, out: Path) -> dict:
    shutil.copytree(source, out, dirs_exist_ok=True)
    return {"images": 1, "steps": 1, "final_loss": 1.0, "images_per_s": 1.0}


RUN = {
    "unknown stage": (["run", "studnet"], "unknown stage 'studnet'. Did you mean 'student'?"),
    "unknown preset": (["reproduce", "--dataset", "animal7"], "unknown preset 'animal7'. Did you mean 'animals7'?"),
    "unknown command": (["reproduse"], "invalid choice: 'reproduse'"),
    "unknown option": (["reproduce", "--sede", "1"], "unrecognized arguments: --sede 1"),
    "split of nothing": (["split", "--split", "0p"], "split '0p' is not between 0 and 100 percent. Write it like 10p"),
    "split of everything": (["split", "--split", "100"], "split '100' is not between 0 and 100 percent. Write it like 10p"),
    "negative split": (["split", "--split=-5p"], "split '-5p' is not between 0 and 100 percent"),
    "split that is no number": (["split", "--split", "nanp"], "is not between 0 and 100 percent"),
    "split in words": (["split", "--split", "ten"], "split 'ten' is not a percentage. Write it like 10p or 12.5p."),
    "no data root": (["reproduce", "--dataset", "coco"], "data set 'coco' needs the folder that it lies in. Pass --data-root DIR."),
    "wrong data root": (["reproduce", "--data-root", "dat"], "dat: no such folder. Pass the data set's folder as --data-root DIR."),
}
SET = {
    "teacher_train.step=1": "unknown option 'teacher_train.step'. Did you mean",
    "teacher_train=1": "option 'teacher_train' is a group. Set one of its parts",
    "level": "'level' is not key=value",
    "student_train.lr=fast": "takes float, got 'fast' (str)",
    "split=5p": "Pass it as --split",
    "behaviour=publishd": "unknown behaviour 'publishd'. Did you mean 'published'?",
    "prompt=pint": "unknown prompt 'pint'. Did you mean 'point'?",
    "point_strategy=centre": "unknown point_strategy 'centre'. Did you mean 'centroid'? Known: centroid, deepest",
    "student_train.optimizer=adam": "unknown student_train.optimizer 'adam'. Did you mean 'adamw'?",
    "student_train.schedule=cos": "unknown student_train.schedule 'cos'. Did you mean 'cosine'?",
    "teacher.channel_order=brg": "unknown teacher.channel_order 'brg'. Did you mean 'rgb'?",
    "device=gpu": "unknown device 'gpu'. Use auto, cpu, cuda",
    "level=5": "unknown level '5'. Known: -1, 0",
    "student_train.steps=0": "option 'student_train.steps' takes int >= 1, got 0 (int).",
    "student_train.batch_size=0": "option 'student_train.batch_size' takes int >= 1, got 0 (int).",
    "teacher_train.checkpoint_steps=[200, 500]":
        "teacher_train.checkpoint_steps [200, 500]: the refiner needs one or more of the teacher's steps 1 to 400. Set it.",
    "teacher_train.checkpoint_steps=[]": "teacher_train.checkpoint_steps []: the refiner needs",
    "teacher.weights=nowhere.pth": "nowhere.pth: no such weights file. Set teacher.weights to a file that exists",
}


@pytest.mark.parametrize("argv, says", [*RUN.values(), *((["run", "split", "--set", k], says) for k, says in SET.items())], ids=[*RUN, *SET])
def test_bad_options_stop_before_anything_is_made(here, capsys, argv, says):
    assert says in fails(capsys, *argv)
    assert sorted(path.name for path in here.iterdir()) == ["data"]


@pytest.mark.parametrize("runs_folder", ["data/train/000001.png", TRAIN])
def test_results_cannot_go_into_a_file(here, capsys, runs_folder):
    assert runs_folder in fails(capsys, "run", "split", *options(), "--runs", runs_folder)


def test_a_stage_before_its_inputs(here, capsys):
    says = "stage 'refiner' needs 'split', which has not finished in outputs/runs/shapes/50p/s0. Run `pointwssis run split`"
    assert says in fails(capsys, "run", "refiner", *options())


CORRUPT = {"cut.safetensors": b"\x10\0\0\0\0\0\0\0{", "text.pth": b"no weights", "empty.safetensors": b""}


@pytest.mark.parametrize("name", CORRUPT)
def test_corrupt_weights(here, capsys, name):
    Path(name).write_bytes(CORRUPT[name])
    line = fails(capsys, "predict", "data/val/100001.png", "--weights", name, *options())
    assert f"{name}: refused: it is corrupt or no checkpoint" in line
    runs("split", teacher__weights=name)
    assert name in fails(capsys, "run", "teacher", *options(teacher__weights=name))
    assert not Path("predictions").exists()


def test_weights_of_another_architecture(here, capsys, trained):
    for stage, says in (("refiner", "refiner.safetensors: neither SOLOv2 nor"), ("supervised", "the heads have other widths")):
        weights = shutil.copy(trained / stage / "last.safetensors", f"{stage}.safetensors")
        assert says in fails(capsys, "predict", "data/val/100001.png", "--weights", weights, *options())
        runs("split", teacher__weights=weights)
        line = fails(capsys, "run", "teacher", *options(teacher__weights=weights))
        assert f"{weights}: " in line and "The file belongs to another architecture: set 'backbone' to match." in line
    assert not Path("predictions").exists()


def test_a_picture_that_is_none(here, capsys, trained):
    weights, broken = str(trained / "teacher/last.safetensors"), Path("note.jpg")
    broken.write_bytes(b"no picture")
    ask = [*options(), "--set", "student.num_grids=[16, 16, 12, 8, 6]"]
    assert "note.jpg cannot be read as an image. Is it complete" in fails(capsys, "predict", "note.jpg", "--weights", weights, *ask)
    assert "data/annotations: no image in this folder" in fails(capsys, "predict", "data/annotations", "--weights", weights, *ask)
    assert not Path("predictions").exists()


@pytest.mark.parametrize("folder", [".", "..", "deep/..", "../beside"])
def test_results_can_go_anywhere(here, monkeypatch, folder):
    (here / "work/deep").mkdir(parents=True)
    monkeypatch.chdir(here / "work")
    chosen = [part.replace("data", "../data") if part == "data" else part for part in options()]
    assert main(["run", "split", *chosen, "--runs", folder]) == 0
    assert (Path(folder) / "shapes/50p/s0/split/params.json").is_file()


def test_a_disk_that_is_full_is_one_line(here, capsys, monkeypatch):
    def full(*_, **__): raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(papermill, "execute_notebook", full)
    assert main(["run", "split", *options()]) == 2
    assert capsys.readouterr().err == "error: outputs/runs/shapes/50p/s0/split: cannot be written: No space left on device. " \
                                      "Free space there, or choose another folder.\n"


def test_ctrl_c_is_one_line(here, capsys, monkeypatch):
    def stop(*_, **__): raise KeyboardInterrupt
    monkeypatch.setattr(papermill, "execute_notebook", stop)
    assert main(["run", "split", *options()]) == 130
    assert capsys.readouterr().err == "stopped. The same command goes on from here.\n"
