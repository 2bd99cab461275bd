"The stages as plain calls, with networks and schedules as small as they can be."
from pathlib import Path

from pointwssis.core import file_hash
from pointwssis.data import coco
from pointwssis.method import stages
from pointwssis.method.artifacts import open_artifact
from pointwssis.runs.stage_graph import STAGES, config_of

TINY = {"teacher_train.steps": 6, "teacher_train.checkpoint_steps": (2, 4), "student_train.steps": 4, "refiner_train.steps": 3,
        "teacher_train.batch_size": 4, "student_train.batch_size": 4, "refiner_train.batch_size": 4}
BLIND = ("teacher", "refiner", "pseudo", "student", "student_refined")     # stages that must not know the truth
CONTROLS = ("teacher_long", "pseudo_without_points", "student_without_points")     # they must not either


class Chain:
    "Stages run one after the other, each into a folder of its own."
    def __init__(self, folder: Path, dataset: str, split: str, root: Path, **changes):
        self.folder, self.cfg = folder, config_of(dataset, split, 0, str(root), {**TINY, **changes})
        self.inputs: dict[str, Path] = {}
        self.metrics: dict[str, dict] = {}

    def run(self, *names: str):
        for name in names:
            out = self.folder / name
            out.mkdir(parents=True)
            self.metrics[name] = getattr(stages, STAGES[name].notebook or name)(self.cfg, self.inputs, out, **STAGES[name].fixed)
            self.inputs[name] = out
        return self

    def files(self, name: str) -> set[str]: return {path.name for path in self.inputs[name].iterdir() if path.is_file()}
    def labels(self, name: str) -> coco.CocoData: return open_artifact(self.cfg, self.inputs["split"], self.inputs["pseudo"], f"_{name}.json")

    def half(self, letter: str) -> coco.CocoData:
        "The strong (s) or weak (w) images."
        return open_artifact(self.cfg, self.inputs["split"], self.inputs["split"], f"_{letter}.json")

    def hashes(self) -> dict[str, str]:
        "Files that the blind stages have made: weights and annotations."
        paths = [path for name in (*BLIND, *CONTROLS) for pattern in ("*.safetensors", "*.json") for path in self.inputs[name].glob(pattern)]
        return {str(path.relative_to(self.folder)): file_hash(path) for path in paths if path.name != "history.json"}


def linked(data: coco.CocoData) -> dict[int, dict]:
    "Pseudo masks by the id of their point."
    return {a["point_id"]: a for i in data.ids for a in data.annotations[i] if "point_id" in a}
