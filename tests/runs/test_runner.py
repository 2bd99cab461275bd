"""The runner, on stages that take a second: order, validity, refusals, failures, and that no process is left behind."""
import base64
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import psutil
import pytest
from PIL import Image

from pointwssis.config import to_dict
from pointwssis.core import ConfigError, DataError, StageError, file_hash, write_json
from pointwssis.runs import execution, fingerprints, runner
from pointwssis.runs.commands import tell
from pointwssis.runs.places import differences
from pointwssis.runs.runner import reproduce
from pointwssis.runs.stage_graph import STAGES, config_of
from pointwssis.runs.fingerprints import fingerprint, is_done
from pointwssis.training import device
from fake_stages import MAKES, gone, notebook, run, writes

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("warm")     # that a new kernel gives the same: test_jobs


def manifest(folder: Path) -> dict:
    return json.loads((folder / "params.json").read_text())


def test_the_graph_is_in_an_order_that_can_run():
    seen: set[str] = set()
    for stage in STAGES.values():
        assert set(stage.needs) <= seen
        seen.add(stage.name)
    known = set(to_dict(config_of(), whole=True))
    assert all(set(stage.ignores) <= known for stage in STAGES.values())


def test_every_stage_has_a_real_notebook_with_its_parameters():
    for stage in STAGES.values():
        path = runner.NOTEBOOKS / f"{stage.notebook or stage.name}.ipynb"
        assert {*runner.RUN, "inputs", "out", *stage.fixed} <= set(execution.declared_parameters(path))
        cells = nbformat.read(path, 4).cells
        code = [line for cell in cells if cell.cell_type == "code" for line in cell.source.split("\n")]
        assert len(cells) <= 12 and not any(line.startswith(("def ", "class ")) for line in code)


def test_reproduce_runs_all_in_order_and_then_nothing(stages):
    told = []
    outcomes = reproduce({}, notebooks=stages, tell=lambda name, outcome: told.append((name, outcome and outcome.how)))
    assert [outcome.stage for outcome in outcomes] == list(STAGES) and {outcome.how for outcome in outcomes} == {"ran"}
    assert told[:2] == [("split", None), ("split", "ran")]
    folder = Path("outputs/runs/shapes/10p/s0")
    assert sorted(path.name for path in folder.iterdir()) == sorted(STAGES)
    assert sorted(path.name for path in (folder / "pseudo").iterdir()) == ["artifacts", "metrics.json", "notebook.ipynb", "params.json"]
    again = {outcome.stage: outcome.how for outcome in reproduce({}, notebooks=stages)}
    assert again.pop("report") == "ran" and set(again.values()) == {"kept"}


def test_the_manifest_says_what_was_run(stages):
    outcome = run(stages, "split", {"seed": 3, "overrides": {"student_train.steps": 5}})
    assert outcome.folder == Path("outputs/runs/shapes/10p/s3/split") and outcome.metrics == {"inputs": []}
    found = manifest(outcome.folder)
    assert {"stage", "parameters", "config", "fingerprint", "inputs", "outputs", "version", "source", "git_commit", "device", "precision",
            "wall_s", "status"} <= set(found)
    assert found["parameters"] == {"seed": 3, "overrides": {"student_train.steps": 5}} and found["status"] == "done" and found["wall_s"] > 0
    assert found["config"]["student_train"]["steps"] == 5 and found["config"]["teacher_train"]["workers"] == 0     # all of it
    assert found["outputs"] == {"instances_s.json": file_hash(outcome.folder / "artifacts/instances_s.json")}
    text = (outcome.folder / "notebook.ipynb").read_text()
    assert "partial" not in text and "outputs/runs/shapes/10p/s3/split/artifacts" in text


def test_the_title_of_an_executed_notebook_names_the_run(stages):
    nb = nbformat.read(stages / "split.ipynb", 4)
    nb.cells.insert(0, nbformat.v4.new_markdown_cell("# Split\n> Of the images."))
    nbformat.write(nb, stages / "split.ipynb")
    for overrides, title in (({}, "# Split: shapes, split 5p, seed 2"), ({"variant": "a", "point_strategy": "random"}, "# Split: shapes, split 5p, a, seed 2")):
        outcome = run(stages, "split", {"split": "5p", "seed": 2, "overrides": overrides})
        assert nbformat.read(outcome.folder / "notebook.ipynb", 4).cells[0].source == f"{title}\n> Of the images."


def test_a_split_has_one_folder_however_it_is_written(stages):
    assert [run(stages, "split", {"split": text}).how for text in ("10p", "10%", "10")] == ["ran", "kept", "kept"]


@pytest.mark.parametrize("params, message", [
    ({"sede": 1}, "no parameter 'sede'. Did you mean 'seed'?"),
    ({"seed": "1"}, "takes int, got '1' (str)"),
    ({"seed": True}, "takes int, got True (bool)"),
    ({"overrides": [1]}, "takes dict"),
    ({"overrides": {"student_train.step": 1}}, "Did you mean 'steps'?"),
    ({"overrides": {"student_train.steps": "many"}}, "got 'many' (str)"),
    ({"overrides": {"seed": 1}}, "Pass it as --seed"),
    ({"dataset": "shape"}, "Did you mean 'shapes'?"),
    ({"split": "100p"}, "100"),
    ({"dataset": "coco"}, "--data-root"),
    ({"data_root": "nowhere"}, "nowhere: no such folder"),
])
def test_bad_parameters_are_refused_before_anything_is_made(stages, params, message):
    with pytest.raises((StageError, ConfigError, DataError)) as caught: run(stages, "split", params)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("outputs").exists()


def test_an_unknown_stage_is_refused(stages):
    with pytest.raises(StageError, match="Did you mean 'teacher'"): run(stages, "teachers")


def test_a_notebook_without_the_tag_is_refused(stages):
    notebook(stages / "split.ipynb", writes("split"), tags=())
    with pytest.raises(StageError, match="0 cells are tagged 'parameters'"): run(stages, "split")


def test_a_missing_input_is_named_with_its_cure(stages):
    with pytest.raises(StageError, match="needs 'split', which has not finished.*pointwssis run split"): run(stages, "teacher")


def test_an_input_made_with_other_settings_is_refused(stages):
    run(stages, "split")
    run(stages, "teacher")
    other = {"overrides": {"teacher_train.steps": 9}}
    with pytest.raises(StageError, match=r"teacher was made with other settings or data: teacher_train.steps 400 -> 9, .* `pointwssis run teacher --force`"):
        run(stages, "refiner", other)
    assert run(stages, "teacher", other, force=True).how == "ran" and run(stages, "refiner", other).how == "ran"


def test_changed_content_of_an_input_runs_the_stage_again(stages):
    run(stages, "split")
    assert [run(stages, "teacher").how for _ in range(2)] == ["ran", "kept"]
    notebook(stages / "split.ipynb", writes("split", '"other content"'))
    run(stages, "split", force=True)
    assert run(stages, "teacher").how == "ran"


def own_data(pictures: str = "white") -> dict:
    "A data set in the folder `data` with one picture in each half, and the parameters of its run."
    Path("data/annotations").mkdir(parents=True, exist_ok=True)
    for half in ("train", "val"):
        write_json(f"data/annotations/instances_{half}.json", {"images": [{"id": 1, "file_name": "a.png"}]})
        Path("data", half).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), pictures).save(f"data/{half}/a.png")
    return {"dataset": "custom", "data_root": "data"}


def test_changed_annotations_are_another_data_set(stages):
    params = own_data()
    assert [run(stages, "split", params).how for _ in range(2)] == ["ran", "kept"]
    write_json("data/annotations/instances_train.json", {"images": []})
    with pytest.raises(StageError, match=r"data/10p/s0/split holds a finished result .* annotations/instances_train.json \(other content\)"):
        run(stages, "split", params)
    assert run(stages, "split", params, force=True).how == "ran"
    assert run(stages, "split", {**params, "data_root": str(Path("data").resolve())}).how == "kept"
    assert str(Path.cwd()) not in Path("outputs/runs/data/10p/s0/split/notebook.ipynb").read_text()


def test_black_pictures_are_another_data_set(stages):
    "The same names, the same annotations; validation pictures matter to the evaluation alone."
    params = own_data()
    reproduce(params, notebooks=stages, stages=["split", "teacher", "refiner", "pseudo", "evaluate"])
    Image.new("RGB", (8, 8), "black").save("data/val/a.png")
    assert run(stages, "teacher", params).how == "kept"
    with pytest.raises(StageError, match=r"images of annotations/instances_val.json \(other content\)"): run(stages, "evaluate", params)
    own_data("black")
    with pytest.raises(StageError, match=r"teacher holds .* images of annotations/instances_train.json \(other content\). Pass --name OTHER"):
        reproduce(params, notebooks=stages)
    own_data()
    assert run(stages, "evaluate", params).how == "kept"


def test_drawn_pictures_are_inputs_of_every_later_stage(stages):
    draws = "from PIL import Image\nfrom pointwssis.core import write_json\nroot = Path(out) / 'data'\n(root / 'train').mkdir(parents=True)\n"
    draws += "Image.new('RGB', (8, 8), COLOUR).save(root / 'train/a.png')\n"
    draws += "write_json(root / 'annotations/instances_train.json', {'images': [{'file_name': 'a.png'}]})"
    notebook(stages / "split.ipynb", writes("split"), draws.replace("COLOUR", "'white'"))
    run(stages, "split")
    assert [run(stages, "teacher").how for _ in range(2)] == ["ran", "kept"]
    notebook(stages / "split.ipynb", writes("split"), draws.replace("COLOUR", "'black'"))
    run(stages, "split", force=True)
    again = run(stages, "teacher")
    assert (again.how, again.before) == ("ran", Path("outputs/runs/shapes/10p/s0/replaced/teacher-1")) and is_done(again.before)


def test_a_finished_result_is_not_replaced_by_one_of_other_settings(stages):
    first, other = reproduce({}, notebooks=stages), {"overrides": {"student_train.steps": 5, "student_train.lr": .1}}
    before = {o.stage: manifest(o.folder) for o in first}
    says = r"s0/student holds .* student_train.steps 800 -> 5, student_train.lr 0.003 -> 0.1. Pass --name OTHER to keep both, or --force"
    for stop in (lambda: reproduce(other, notebooks=stages), lambda: run(stages, "student", other)):
        with pytest.raises(StageError, match=says): stop()
    assert {o.stage: manifest(o.folder) for o in first} == before
    beside = {o.stage: o.how for o in reproduce({"overrides": {**other["overrides"], "name": "short"}}, notebooks=stages)}
    assert {name for name, how in beside.items() if how == "shared"} == {"split", "teacher", "refiner", "pseudo", "pseudo_without_points"}
    assert manifest(Path("outputs/runs/short/10p/s0/student"))["config"]["student_train"]["steps"] == 5
    forced = run(stages, "student", other, force=True)
    assert forced.before == Path("outputs/runs/shapes/10p/s0/replaced/student-1") and manifest(forced.before) == before["student"]
    assert run(stages, "student", other, force=True).before.name == "student-2"


def test_many_differences_are_counted(stages):
    run(stages, "split")
    names = ("short_side", "long_side")
    other = {"overrides": {**{f"data.{name}": 64 for name in names}, "point_strategy": "random", "data.val_json": "v.json", "data.train_images": "t"}}
    with pytest.raises(StageError, match="data.train_images .* and 2 more. Pass"): run(stages, "split", other)


def test_another_refusal_comes_before_any_work(stages):
    "A student of other settings is found before the teacher is trained."
    run(stages, "split"), run(stages, "supervised")
    with pytest.raises(StageError, match="supervised holds"): reproduce({"overrides": {"student_train.steps": 5}}, notebooks=stages)
    assert not Path("outputs/runs/shapes/10p/s0/teacher").exists()


def test_a_result_of_an_older_manifest_is_compared_by_its_parameters(stages):
    folder = run(stages, "split").folder
    old = {key: value for key, value in manifest(folder).items() if key not in ("config", "source", "outputs")}
    write_json(folder / "params.json", {**old, "fingerprint": "of an older formula", "parameters": {"overrides": {"point_strategy": "random"}}})
    with pytest.raises(StageError, match='point_strategy "random" -> "centroid"'): run(stages, "split")
    write_json(folder / "params.json", {**old, "fingerprint": "of an older formula"})
    again = run(stages, "split")
    assert again.how == "ran" and manifest(again.before)["fingerprint"] == "of an older formula"
    write_json(folder / "params.json", {**manifest(folder), "source": "older"} | {"fingerprint": manifest(folder)["fingerprint"]})
    assert run(stages, "split").other_code == "older"


def test_a_result_of_other_code_is_kept_and_named(stages, capsys):
    reproduce({}, notebooks=stages)
    notebook(stages / "teacher.ipynb", writes("teacher"), "print('another line')")
    kept = run(stages, "teacher")
    assert kept.how == "kept" and kept.other_code == manifest(kept.folder)["source"] != ""
    tell("teacher", kept)
    assert f"made by other code ({kept.other_code[:12]}): --same-code makes it again" in capsys.readouterr().out
    again = run(stages, "teacher", same_code=True)
    assert (again.how, again.other_code, again.before.name) == ("ran", "", "teacher-1")
    assert run(stages, "teacher", same_code=True).how == "kept" and run(stages, "split", same_code=True).how == "kept"


@pytest.mark.parametrize("key, value", [("teacher_train.workers", 1), ("teacher_train.save_every", 3), ("data.cache_images", False)])
def test_options_without_a_say_leave_a_result_valid(stages, key, value):
    run(stages, "split"), run(stages, "teacher")
    assert run(stages, "teacher", {"overrides": {key: value}}).how == "kept"


def test_evidence_without_artifacts_is_no_input(stages):
    folder = run(stages, "split").folder
    (folder / "artifacts" / MAKES["split"]).unlink()
    assert not is_done(folder) and run(stages, "split").how == "ran"


def test_a_finished_notebook_without_a_manifest_is_no_proof(stages):
    folder = run(stages, "split").folder
    (folder / "params.json").unlink()
    assert run(stages, "split").how == "ran"


def test_supervised_is_shared_between_splits_and_students_between_refiners(stages):
    for split in ("10p", "20p"): run(stages, "split", {"split": split})
    assert run(stages, "supervised", {"split": "10p"}).how == "ran"
    shared = run(stages, "supervised", {"split": "20p"})
    assert shared.how == "shared" and is_done(Path("outputs/runs/shapes/20p/s0/supervised"))
    assert run(stages, "supervised", {"split": "20p"}).how == "kept"
    a, b = config_of(), config_of(overrides={"refiner_train.steps": 1})
    assert fingerprint(STAGES["student"], a, {}) == fingerprint(STAGES["student"], b, {})
    assert fingerprint(STAGES["refiner"], a, {}) != fingerprint(STAGES["refiner"], b, {})


@pytest.mark.parametrize("body, message", [
    ("raise ValueError('what\\na mess')", "stage stopped with ValueError: what The traceback is in outputs/runs/shapes/10p/s0/failed/split"),
    ("from pointwssis.core import DataError\nraise DataError('x.json: image 3: no such file. Add it.')", "x.json: image 3: no such file."),
    ("1 + 1", "metrics.json: no such file"),
    ("import os\nos._exit(1)", "process died: it ended with exit code 1"),
    ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "process died: killed by SIGSEGV"),
])
def test_a_failure_is_one_line_and_is_kept_aside(stages, body, message):
    good = run(stages, "split").folder
    notebook(stages / "split.ipynb", body)
    with pytest.raises(StageError) as caught: run(stages, "split", force=True)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert is_done(good)
    failed = Path("outputs/runs/shapes/10p/s0/failed/split")
    assert manifest(failed)["status"] == "failed" and message.split(" The traceback")[0] in manifest(failed)["error"]
    assert message.split(" The traceback")[0] in nbformat.read(failed / "notebook.ipynb", 4).cells[0].source
    assert sorted(path.name for path in good.parent.iterdir()) == ["failed", "split"]


def is_state(folder: Path) -> bool: return (folder / "artifacts/state.pt").is_file() and "fingerprint" in manifest(folder)


def test_no_start_deletes_a_training_state(stages):
    "Broken off without a chance to fail, then asked for with other settings, then forced."
    partial, replaced = Path("outputs/runs/shapes/10p/s0/.teacher.partial"), Path("outputs/runs/shapes/10p/s0/replaced")
    run(stages, "split")
    for n, options in enumerate(({"params": {"overrides": {"teacher_train.lr": .5}}}, {"force": True}), start=1):
        wanted = fingerprints.expected(STAGES["teacher"], config_of(), partial.parent)[0]
        (partial / "artifacts").mkdir(parents=True)
        (partial / "artifacts/state.pt").touch()
        write_json(partial / "params.json", {"fingerprint": wanted, "status": "running"})
        run(stages, "teacher", **options)
        assert is_state(replaced / f"teacher-{n}")
        shutil.rmtree(partial.parent / "teacher")


def test_a_state_goes_on_with_other_workers_and_says_which_code_made_it(stages):
    run(stages, "split")
    notebook(stages / "teacher.ipynb", "from pathlib import Path\n(Path(out) / 'state.pt').touch()\nraise ValueError")
    with pytest.raises(StageError): run(stages, "teacher")
    made_by = manifest(Path("outputs/runs/shapes/10p/s0/failed/teacher"))["source"]
    notebook(stages / "teacher.ipynb", "from pathlib import Path\nassert (Path(out) / 'state.pt').exists()", writes("teacher"))
    done = run(stages, "teacher", {"overrides": {"teacher_train.workers": 3, "teacher_train.save_every": 2}})
    assert manifest(done.folder)["resumed_from"] == made_by


def test_a_training_that_failed_goes_on_and_others_start_afresh(stages):
    run(stages, "split")
    broken = "from pathlib import Path\nstate = Path(out) / 'state.pt'\nprint(state.exists())\nstate.touch()\nraise ValueError"
    goes_on = "from pathlib import Path\nassert (Path(out) / 'state.pt').exists()\n"
    notebook(stages / "teacher.ipynb", broken)
    with pytest.raises(StageError): run(stages, "teacher")
    notebook(stages / "teacher.ipynb", goes_on, writes("teacher"))
    with pytest.raises(StageError, match="AssertionError"): run(stages, "teacher", {"overrides": {"teacher_train.steps": 8}})
    assert is_state(Path("outputs/runs/shapes/10p/s0/replaced/teacher-1"))
    notebook(stages / "teacher.ipynb", broken)
    with pytest.raises(StageError): run(stages, "teacher")
    notebook(stages / "teacher.ipynb", goes_on, writes("teacher"))
    assert run(stages, "teacher").how == "ran"


def start(stages: Path, body: str) -> tuple[subprocess.Popen, psutil.Process]:
    "A runner in a process of its own whose stage has started a child in a further session; both are waited for."
    child = "import subprocess\nfrom pathlib import Path\nchild = subprocess.Popen(['sleep', '300'], start_new_session=True)\n"
    notebook(stages / "split.ipynb", child + "Path('child').write_text(str(child.pid))\n" + body)
    listen = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"      # a shell's background job starts deaf to it
    code = f"{listen}from pathlib import Path\nfrom pointwssis.runs.runner import run_stage\nrun_stage('split', {{}}, notebooks=Path({str(stages)!r}))"
    runner = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
    for _ in range(600):
        if Path("child").is_file() and Path("child").read_text(): return runner, psutil.Process(int(Path("child").read_text()))
        time.sleep(0.1)
    raise AssertionError("the stage did not start")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_runner_leaves_no_process_and_no_result(stages, how):
    runner, child = start(stages, "import time\ntime.sleep(300)")
    kernels = psutil.Process(runner.pid).children(recursive=True)
    runner.send_signal(how)
    assert runner.wait(timeout=90) != 0
    assert gone(child) and all(map(gone, kernels))
    assert not Path("outputs/runs/shapes/10p/s0/split").exists()


def test_a_killed_runner_is_cleaned_up_after_by_the_next(stages):
    runner, child = start(stages, "import time\ntime.sleep(300)")
    with pytest.raises(StageError, match="in use by another process"): run(stages, "split")
    runner.kill()
    runner.wait()
    notebook(stages / "split.ipynb", writes("split"))
    assert run(stages, "split").how == "ran" and gone(child)


def test_a_result_that_is_there_after_all_is_taken(stages, monkeypatch):
    "Another process finished while this one waited for the lock; or one was killed between its last word and the rename."
    folder, claim = run(stages, "split").folder, runner.claim
    aside = folder.with_name("aside")
    folder.rename(aside)
    @contextmanager
    def late(target):
        aside.rename(folder)
        with claim(target) as partial: yield partial
    with monkeypatch.context() as other:
        other.setattr(runner, "claim", late)
        assert run(stages, "split").how == "kept"
    folder.rename(folder.with_name(".split.partial"))
    folder.with_name(".split.lock").touch()
    assert run(stages, "split").how == "kept" and is_done(folder)
    folder.with_name(".split.lock").touch()
    assert run(stages, "split").how == "kept" and [path.name for path in folder.parent.iterdir()] == ["split"]


def test_times_of_finished_stages(stages):
    run(stages, "split")
    run(stages, "teacher")
    times = runner.stage_times({"split": "outputs/runs/shapes/10p/s0/split/artifacts"})
    assert sorted(times) == ["split", "teacher"] and sorted(times["teacher"]) == ["device", "wall_s"]


def test_an_executed_notebook_keeps_the_last_state_of_a_bar_and_small_pictures(stages):
    notebook(stages / "split.ipynb", "import sys, time\nfrom tqdm import tqdm\nfor _ in tqdm(range(4), mininterval=0): time.sleep(.01)\nprint('done')",
             "import matplotlib.pyplot as plt, numpy as np\nplt.imshow(np.random.default_rng(0).random((40, 40, 3)));", writes("split"))
    nb = nbformat.read(run(stages, "split").folder / "notebook.ipynb", 4)
    outputs = [o for cell in nb.cells for o in cell.get("outputs", [])]
    bar = [o.text for o in outputs if o.get("name") == "stderr"]
    assert len(bar) == 1 and "100%" in bar[0] and "4/4" in bar[0] and "\r" not in bar[0] and bar[0].count("%") == 1
    assert [o.text for o in outputs if o.get("name") == "stdout"] == ["done\n"]
    picture, = (o.data["image/png"] for o in outputs if "data" in o and "image/png" in o.data)
    assert Image.open(io.BytesIO(base64.b64decode(picture))).mode == "P"


def test_a_manifest_names_the_hashes_of_what_lies_beside_it(stages):
    folder = run(stages, "split").folder
    assert manifest(folder)["files"] == {name: file_hash(folder / name) for name in ("notebook.ipynb", "metrics.json")}


def test_a_variant_keeps_no_pictures_made_or_taken_over(stages):
    notebook(stages / "split.ipynb", "import matplotlib.pyplot as plt\nplt.plot([1, 2]);", writes("split"))
    drawn = run(stages, "split").folder
    for how, more in (("shared", {}), ("ran", {"split": "20p"})):
        found = run(stages, "split", more | {"overrides": {"variant": "level_0"}})
        told = (found.folder / "notebook.ipynb").read_text()
        assert found.how == how and "pointwssis run split" in told
        assert "image/png" not in told
        assert manifest(found.folder)["files"]["notebook.ipynb"] == file_hash(found.folder / "notebook.ipynb")
    assert "image/png" in (drawn / "notebook.ipynb").read_text()


def test_a_later_option_at_its_default_leaves_every_fingerprint_as_it_was(monkeypatch):
    before = {name: fingerprint(stage, config_of(), {}) for name, stage in STAGES.items()}
    careful = config_of(overrides={"teacher_train.backbone_lr_factor": .1})
    assert fingerprint(STAGES["teacher"], careful, {}) != before["teacher"]
    assert fingerprint(STAGES["student"], careful, {}) == before["student"]
    complete = fingerprints.to_dict
    def without(cfg):
        found = complete(cfg)
        for part in ("teacher_train", "student_train", "refiner_train"): found[part].pop("backbone_lr_factor", None)
        return found
    monkeypatch.setattr(fingerprints, "to_dict", without)
    assert {name: fingerprint(stage, config_of(), {}) for name, stage in STAGES.items()} == before


def test_the_manifest_names_the_precision(monkeypatch):
    own = {"overrides": {"teacher_train.precision": "fp32", "device": "cpu"}}
    for native in (True, False):
        monkeypatch.setattr(device, "computes_in_bf16", lambda _, native=native: native)
        found = {name: execution.machine_of(name, own)["precision"] for name in STAGES}
        in_bf16 = {"refiner", "student", "student_refined", "supervised", "teacher_long", "student_without_points"} if native else set()
        assert {name for name, how in found.items() if how == "bf16"} == in_bf16
        assert {name for name, how in found.items() if not how} == {"split", "report"}


def test_a_committed_run_is_no_obstacle_where_nothing_differs(monkeypatch):
    "Manifests of earlier versions have neither the configuration nor the images; what they say is still compared."
    for path in sorted((ROOT / "runs/shapes").glob("10p*/s0/*/params.json")):
        old = manifest(path.parent)
        asked = {key: value for key, value in old["parameters"].items() if key in runner.RUN}
        if old["stage"] in STAGES: assert differences(STAGES[old["stage"]], config_of(**asked), old) == [], path
