"""The command line as a user meets it: bad input is one line on stderr and exit code 2, with nothing half-written."""
import json
import shutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pointwssis.data import shapes
from pointwssis.core import figures_beside
from pointwssis.runs.arguments import setting
from pointwssis.runs.cli import COMMANDS, main, make_parser
from pointwssis.runs.doctor import checks

ROOT = Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fails(capsys, *argv: str) -> str:
    "The one line that a command that must fail says."
    try: code = main(argv)
    except SystemExit as e: code = e.code
    said = capsys.readouterr().err
    assert code == 2 and said.startswith("error: ") and said.count("\n") == 1 and "Traceback" not in said
    return said


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as done: main([command, "--help"])
    assert done.value.code == 0 and f"pointwssis {command}" in capsys.readouterr().out


@pytest.mark.parametrize("argv, says", [
    ((), "COMMAND"),
    (("rnu", "split"), "invalid choice: 'rnu'"),
    (("run",), "STAGE"),
    (("run", "techer"), "unknown stage 'techer'. Did you mean 'teacher'?"),
    (("run", "teacher"), "needs 'split'"),
    (("run", "split", "--seed", "one"), "invalid int value: 'one'"),
    (("run", "split", "--seed", "-1"), "option 'seed' takes int >= 0, got -1 (int)."),
    (("reproduce", "--seeds", "0,-1"), "option 'seed' takes int >= 0, got -1 (int)."),
    (("split", "--seed", "-1"), "option 'seed' takes int >= 0, got -1 (int)."),
    (("reproduce", "--seeds", "0-2"), "Write it like 0,1,2. See"),
    (("run", "split", "--set", "teacher_train.steps"), "is not key=value"),
    (("run", "split", "--set", "teacher_train.step=3"), "Did you mean"),
    (("run", "split", "--set", "teacher_train.steps=many"), "got 'many' (str)"),
    (("run", "split", "--set", "seed=3"), "Pass it as --seed"),
    (("run", "split", "--data", "x"), "unrecognized arguments"),
    (("split", "--split", "0p"), "0p"),
    (("split", "--split", "100%"), "100%"),
    (("split", "--split", "half"), "half"),
    (("reproduce", "--dataset", "shape"), "unknown preset 'shape'. Did you mean 'shapes'?"),
    (("reproduce", "--dataset", "animals7"), "--data-root"),
    (("reproduce", "--name", "../up"), "name '../up' names a folder. Use letters"),
    (("run", "split", "--name", ".."), "name '..' names a folder"),
    (("split", "--name", "a/b"), "name 'a/b' names a folder"),
    (("split", "--name", "coco"), "name 'coco' is that of a preset"),
    (("reproduce", "--data-root", "nowhere"), "nowhere: no such folder"),
    (("report", "--runs", "nowhere"), "nowhere: no such folder"),
    (("predict", "nowhere.jpg", "--weights", "w.safetensors"), "nowhere.jpg: no such image"),
    (("predict", "--weights", "w.safetensors"), "IMAGE"),
])
def test_bad_arguments_are_one_line_and_leave_nothing(here, capsys, argv, says):
    assert says in fails(capsys, *argv)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("argv", [["reproduce"], ["run", "split"], ["split"], ["report"], ["plan", "--hours=1"]])
def test_what_a_user_makes_lies_where_git_does_not_look(argv):
    runs = make_parser().parse_args(argv).runs
    for place in (Path(runs) / "shapes/10p/s0/split/params.json", figures_beside(runs) / "report.html"):
        assert subprocess.run(["git", "check-ignore", "-q", place], cwd=ROOT).returncode == 0, place


@pytest.fixture
def picture(here) -> str:
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save("photo.png")
    return "photo.png"


@pytest.mark.parametrize("name, content", [("missing.safetensors", None),
                                           ("cut.safetensors", b"\x10\0\0\0\0\0\0\0{"), ("text.pth", b"no weights")])
def test_bad_weights(capsys, picture, name, content):
    if content is not None: Path(name).write_bytes(content)
    assert name in fails(capsys, "predict", picture, "--weights", name)
    assert not Path("predictions").exists()


def change(path: Path, edit) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def drop_a_segmentation(content: dict) -> None: del content["annotations"][0]["segmentation"]
def drop_the_images(content: dict) -> None: content.update(images=[], annotations=[])


@pytest.mark.parametrize("edit, says", [(drop_a_segmentation, "data/annotations/instances_train.json: annotation 1 has no segmentation"),
                                        (drop_the_images, "no image to divide into strong and weak")])
def test_bad_annotations_pass_through_the_stage_as_one_line(here, drawn, capsys, edit, says):
    shutil.copytree(drawn, here / "data")
    change(here / "data/annotations/instances_train.json", edit)
    assert says in fails(capsys, "run", "split", "--data-root", "data")
    assert not Path("outputs/runs/data/10p/s0/split").exists()


def test_broken_json_names_the_place(here, drawn, capsys):
    shutil.copytree(drawn, here / "data")
    path = here / "data/annotations/instances_train.json"
    path.write_text(path.read_text()[:100])
    assert "instances_train.json: broken JSON at line 1" in fails(capsys, "run", "split", "--data-root", "data")


def test_split_writes_two_files_and_copies_them(here, drawn, capsys):
    shutil.copytree(drawn, here / "data")
    assert main(["split", "--data-root", "data", "--split", "50p", "--out", "mine"]) == 0
    strong, weak = sorted(Path("mine").iterdir())
    assert capsys.readouterr().out.splitlines()[-2:] == [str(strong), str(weak)]
    assert "segmentation" in strong.read_text() and "segmentation" not in weak.read_text() and "point" in weak.read_text()


@pytest.fixture
def unseen(here) -> str:
    "Two test images of a data set with five classes, and weights for them."
    import torch
    from pointwssis.runs.presets import preset
    from pointwssis.training.trainer import save_weights
    from pointwssis.detector.solov2 import SOLOv2
    shapes.write(here / "data", train=1, val=2)
    change(here / "data/annotations/instances_val.json", lambda content: content.pop("annotations"))
    torch.manual_seed(0)
    save_weights("w.safetensors", SOLOv2(preset("shapes", **{"student.num_classes": 5}).student).state_dict())
    return "data/annotations/instances_val.json"


@pytest.mark.parametrize("form, names", [("coco", ["sent.json", "sent.zip"]), ("bdd100k", ["sent.json"])])
def test_submit_writes_what_a_server_takes(unseen, capsys, form, names):
    assert main(["submit", unseen, "--weights", "w.safetensors", "--format", form, "--out", "sent.json", "--set", "student.score_threshold=0",
                 "--set", "student.update_threshold=0"]) == 0
    assert capsys.readouterr().out.split() == names == sorted(p.name for p in Path().glob("sent*"))
    found = json.loads(Path("sent.json").read_text())
    images = json.loads(Path(unseen).read_text())["images"]
    if form == "bdd100k": assert [f["name"] for f in found] == [r["file_name"] for r in images]
    else: assert found and {r["image_id"] for r in found} <= {r["id"] for r in images}


@pytest.mark.parametrize("argv, says", [
    (("data/annotations/nowhere.json",), "nowhere.json: no such file"), (("data/annotations/instances_val.json", "--format", "cocoa"), "Did you mean 'coco'?"),
    (("data/annotations/instances_val.json", "--image-folder", "elsewhere"), "elsewhere"), (("few.json",), "has 1 classes, w.safetensors has 5"),
])
def test_submit_refuses_in_one_line(unseen, capsys, argv, says):
    few = json.loads(Path(unseen).read_text())
    Path("few.json").write_text(json.dumps({**few, "categories": few["categories"][:1]}))
    assert says in fails(capsys, "submit", *argv, "--weights", "w.safetensors") and not Path("submission.json").exists()


def test_an_error_that_is_not_the_users_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("pointwssis.runs.doctor.checks", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError): main(["doctor"])


def test_doctor_says_what_is_missing(monkeypatch, capsys):
    assert main(["doctor"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(checks()) + 1
    monkeypatch.setattr("pointwssis.runs.doctor.requires", lambda name: ["numpy>=999", "no-such-package", "other; extra == 'dev'"])
    monkeypatch.setattr("pointwssis.runs.doctor.shutil.which", lambda name: None)
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "MISS no-such-package is not installed" in said and "MISS git is not installed" in said
    assert re.search(r"MISS numpy \S+ does not fit: pip install 'numpy>=999'", said) and "other" not in said


def test_the_command_is_installed():
    done = subprocess.run([Path(sys.executable).parent / "pointwssis", "run", "techer"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: unknown stage 'techer'")


@pytest.mark.parametrize("typed, value", [("0.5", .5), (".5", .5), ("5.", 5.), ("True", True), ("true", True), ("None", None), ("null", None),
                                          ("(8, 6)", [8, 6]), ("[8, 6]", [8, 6]), ("deepest", "deepest"), ("'deepest'", "deepest"), ("1/2", "1/2"),
                                          ("b'x'", "b'x'"), ("{1, 2}", "{1, 2}"), ("", ""), ("(" * 9999, "(" * 9999), ("-1e-3", -.001)])
def test_a_value_is_read_as_json_as_python_or_as_text(typed, value):
    "Decimals without a leading zero and Python's names are what people type."
    found = setting(f"a.b={typed}")
    assert found == ("a.b", value) and type(found[1]) is type(value)
