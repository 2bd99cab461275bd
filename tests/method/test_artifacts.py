"Results of earlier stages are found, or missed in one line that says what to run."
import json
import re
from pathlib import Path

import pytest

from pointwssis.core import StageError
from pointwssis.method.artifacts import earlier_stages, open_artifact
from pointwssis.runs.presets import preset

NOTEBOOKS = sorted(path for path in (Path(__file__).parents[2] / "nbs/stages").glob("*.ipynb") if path.stem != "split")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_opened_by_hand_says_which_stages_come_first(path, tmp_path, monkeypatch):
    "As in JupyterLab, where nothing was run yet."
    (tmp_path / "nbs/stages").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "nbs/stages")
    code = ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    names = {}
    exec(code[0], names)
    with pytest.raises(StageError, match=r"10p/s0/split/artifacts: no such folder, but 'split' .* Run the earlier stages first \(`pointwssis reproduce`"):
        exec(code[1], names)
    for place in names["inputs"].values(): Path(place).mkdir(parents=True)
    assert earlier_stages(names["inputs"]) == {stage: Path(place) for stage, place in names["inputs"].items()}


def test_a_stage_without_annotations_is_named(tmp_path):
    with pytest.raises(StageError, match=re.escape(f"{tmp_path}: no annotations (*_s.json) lie here. Run the earlier stages first")):
        open_artifact(preset("shapes"), tmp_path, tmp_path, "_s.json")
