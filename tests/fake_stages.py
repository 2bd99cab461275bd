"Notebooks that stand for the stages and take no time; the fixture `stages` writes them."
import time
from pathlib import Path

import nbformat
import psutil

from pointwssis.runs.runner import run_stage

PARAMETERS = 'dataset = "shapes"\nsplit = "10p"\nseed = 0\ndata_root = ""\noverrides = {}\ninputs = {}\nout = ""'
WRITE = """import json
from pathlib import Path
made = Path(out)
made.joinpath("FILE").write_text(json.dumps([STATE, sorted(inputs)]))
made.parent.joinpath("metrics.json").write_text(json.dumps({"inputs": sorted(inputs)}))
"""
MAKES = {"split": "instances_s.json", "pseudo": "instances_sw.json", "student": "last.safetensors", "teacher": "last.safetensors"}


def notebook(path: Path, *bodies: str, parameters: str = PARAMETERS, tags=("parameters",)) -> Path:
    nb = nbformat.v4.new_notebook()
    nb.cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": list(tags)}), *map(nbformat.v4.new_code_cell, bodies)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)
    return path


def writes(name: str, state: str = "overrides") -> str:
    return WRITE.replace("FILE", MAKES.get(name, f"{name}.safetensors")).replace("STATE", state)


def run(stages: Path, name: str, params: dict | None = None, **options):
    return run_stage(name, params or {}, notebooks=stages, **options)


def gone(process: psutil.Process) -> bool:
    for _ in range(100):
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE: return True
        time.sleep(0.1)
    return False
