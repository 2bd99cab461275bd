"An executed notebook is small, says how to get what was left out, and is covered by its manifest."
import base64
import io
import json
import shlex

import nbformat
import numpy as np
import pytest
from PIL import Image

from pointwssis.core import file_hash, read_json, write_json
from pointwssis.report.provenance import LEFT_OUT, command_of, drop_pictures, hashes_of, slim, smallest, tidy
from pointwssis.runs.cli import main, make_parser
from pointwssis.runs.commands import run_params

MANIFEST = {"stage": "pseudo", "parameters": {"dataset": "shapes", "split": "12.5p", "seed": 3, "data_root": "",
                                              "overrides": {"variant": "b", "level": 0, "teacher.anchors": [1, 2], "prompt": "a b"}}}


def png(pixels):
    Image.fromarray(pixels).save(packed := io.BytesIO(), "PNG")
    return packed.getvalue()


def scene():
    "Textured ground, and a mask with a bright outline of one pixel."
    y, x = np.mgrid[:160, :160]
    noise = np.random.default_rng(0).integers(0, 40, (160, 160, 3))
    image = np.stack([90 + x // 4, 70 + y // 4, 60 + (x + y) // 8], -1) + noise
    away = np.hypot(y - 80, x - 80)
    image[away < 50] = image[away < 50] // 2 + np.array([0, 100, 60])
    image[abs(away - 50) < 1] = 213, 94, 0
    return image.clip(0, 255).astype(np.uint8), abs(away - 50) < .5


def notebook(picture):
    data = {"image/png": base64.b64encode(picture).decode(), "text/plain": "<Figure>"}
    cell = nbformat.v4.new_code_cell("show()", outputs=[nbformat.v4.new_output("display_data", data)])
    cell.metadata["execution"] = {"iopub.status.busy": "2026-01-01T00:00:00Z"}
    return nbformat.v4.new_notebook(cells=[cell])


def test_a_photograph_becomes_a_jpeg_in_which_outlines_stay_clear():
    pixels, outline = scene()
    kind, picture = smallest(png(pixels))
    assert kind == "image/jpeg" and len(picture) < len(png(pixels)) / 3
    seen = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
    ring, around = seen[outline], seen[~outline]
    assert seen.shape == pixels.shape and (ring[:, 0] - ring[:, 2]).mean() > 100 > (around[:, 0] - around[:, 2]).mean() + 50


def test_a_chart_stays_a_png_with_every_colour():
    pixels = np.full((120, 160, 3), 255, np.uint8)
    pixels[40:42] = pixels[:, 50] = 0, 114, 178
    kind, picture = smallest(png(pixels))
    assert kind == "image/png" and (np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")) == pixels).all()


def test_tidying_twice_is_tidying_once():
    tidy(nb := notebook(png(scene()[0])))
    once = nbformat.writes(nb)
    tidy(nb)
    assert nbformat.writes(nb) == once and "execution" not in nb.cells[0].metadata
    assert set(nb.cells[0].outputs[0].data) == {"image/jpeg", "text/plain"}


@pytest.mark.parametrize("shrunk", [False, True])
def test_a_variant_keeps_no_picture_but_the_command_that_draws_it(shrunk):
    nb = notebook(png(scene()[0]))
    if shrunk: tidy(nb)
    tidy(nb, command_of(MANIFEST))
    data = nb.cells[0].outputs[0].data
    assert list(data) == ["text/plain"] and data["text/plain"].startswith(LEFT_OUT + "pointwssis run pseudo ")


def test_the_command_is_understood_and_asks_for_the_same_without_the_variant():
    args = make_parser().parse_args(shlex.split(command_of(MANIFEST))[1:])
    wanted = MANIFEST["parameters"]
    told = run_params(args)
    assert args.stage == "pseudo" and {key: told[key] for key in ("dataset", "split", "seed", "data_root")} == {
        key: wanted[key] for key in ("dataset", "split", "seed", "data_root")}
    assert told["overrides"] == {key: value for key, value in wanted["overrides"].items() if key != "variant"}


def test_a_stage_that_was_taken_over_loses_its_pictures_alone(tmp_path):
    twin, own = tmp_path / "twin", tmp_path / "own"
    for folder in (twin, own): folder.mkdir()
    nbformat.write(notebook(png(scene()[0])), twin / "notebook.ipynb")
    write_json(twin / "metrics.json", {"points": 3})
    write_json(twin / "params.json", MANIFEST | {"files": hashes_of(twin)})
    before = {path: path.read_bytes() for path in twin.iterdir()}
    for path in twin.iterdir(): (own / path.name).hardlink_to(path)
    drop_pictures(own)
    assert {path: path.read_bytes() for path in twin.iterdir()} == before
    assert "image/" not in json.dumps(nbformat.read(own / "notebook.ipynb", 4))
    files = read_json(own / "params.json")["files"]
    assert files == {name: file_hash(own / name) for name in ("notebook.ipynb", "metrics.json")}


def test_pictures_of_other_runs_than_seed_0_at_10_percent_are_left_out_on_demand(tmp_path, monkeypatch, capsys):
    "Their manifests hold the new hash, and a second time nothing changes."
    def put(run: str):
        (folder := tmp_path / run).mkdir(parents=True)
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("display_data", {"image/png": "aGk="})])]), folder / "notebook.ipynb")
        write_json(folder / "params.json", MANIFEST | {"files": hashes_of(folder)})
        return folder
    first, second, tenth = (put(f"shapes/10p/s{seed}/pseudo") for seed in (0, 1, 10))
    other, only, smoke = put("shapes/5p/s0/pseudo"), put("union/20p/s0/pseudo"), put("coco_union/20p/s0/pseudo")
    before = nbformat.read(first / "notebook.ipynb", 4)
    monkeypatch.setattr("pointwssis.report.report.write_report", lambda *places: None)
    assert main(["report", "--slim", "--runs", str(tmp_path)]) == 0 and "4 notebooks without pictures now" in capsys.readouterr().out
    assert slim(tmp_path) == 0
    assert nbformat.read(first / "notebook.ipynb", 4) == before and (first / "notebook.ipynb").read_text().count("\n") == 1     # packed
    assert "image/" in (only / "notebook.ipynb").read_text()      # nearest of its data set
    for folder in (second, tenth, other, smoke):
        assert "image/" not in (folder / "notebook.ipynb").read_text() and LEFT_OUT in (folder / "notebook.ipynb").read_text()
    for folder in (first, second, tenth, other, only, smoke): assert read_json(folder / "params.json")["files"] == hashes_of(folder)
