"""`python -m benchmarks.scale_table [RESULTS]`: the work of COCO's splits, and its time on several
GPUs at the rates that `benchmarks.gpu` has measured."""
from __future__ import annotations
import sys
from pathlib import Path
from typing import Any

from pointwssis.core import read_json
from pointwssis.method.splits import percentage
from pointwssis.runs.presets import COCO_SCHEDULES, preset

IMAGES = 118_287
GPUS = (1, 8, 64)
# the row of a part of results.json that gives the rate of a kind of work
RATES = {"teacher": ("network", "R-101, batch 16"), "student": ("network", "R-101, batch 16"),
         "refiner": ("crops", "trained, batch 16, bf16"), "labels": ("labels", "teacher, from files")}
UNKNOWN = "not measured"


def work_of(split: str) -> dict[str, int]:
    "Images or crops that a split's run takes; the supervised network is shared by all splits."
    cfg = preset("coco", split)
    teacher, student, refiner = (t.steps * t.batch_size for t in (
        cfg.teacher_train, cfg.student_train, cfg.refiner_train))
    weak = round(IMAGES * (1 - percentage(split) / 100))
    return {"teacher": teacher, "refiner": refiner, "labels": weak, "student": 2 * student}


def rates_of(results: dict[str, Any]) -> dict[str, float]:
    "Measured images or crops a second, by kind of work."
    rows = {(part, row["what"]): row["value"] for part, record in results.get("parts", {}).items()
            for row in record.get("rows", [])}
    return {kind: rows[place] for kind, place in RATES.items() if place in rows}


def hours(split: str, gpus: int, rates: dict[str, float]) -> str:
    "Hours of a split's run on so many GPUs, were each as quick as one alone."
    work = work_of(split)
    if set(work) - set(rates): return UNKNOWN
    return f"{sum(count / rates[kind] for kind, count in work.items()) / gpus / 3600:,.1f}"


def table(rates: dict[str, float]) -> str:
    "The table of docs/scale.md."
    text = ["| split | teacher, images | refiner, crops | labels, images | two students, images | "
            + " | ".join(f"hours, {n} GPU{'s' * (n > 1)}" for n in GPUS) + " |",
            f"|---|{'---:|' * (4 + len(GPUS))}"]
    for split in COCO_SCHEDULES:
        cells = [f"{count:,}" for count in work_of(split).values()]
        text.append(f"| {split} | {' | '.join([*cells, *(hours(split, n, rates) for n in GPUS)])} |")
    return "\n".join(text)


def main() -> None:
    found = read_json(Path(sys.argv[1])) if len(sys.argv) > 1 else {}
    print(table(rates_of(found)))


if __name__ == "__main__": main()
