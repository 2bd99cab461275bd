"""`python -m benchmarks.scale_table [RESULTS] [--price P]`: the work of COCO's splits, and its time
and cost on several GPUs at the rates that `benchmarks.gpu` has measured."""
from __future__ import annotations
import argparse
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


def gpu_hours(split: str, rates: dict[str, float]) -> float | None:
    "Hours of a split's run on one GPU; None where a rate has not been measured."
    work = work_of(split)
    if set(work) - set(rates): return None
    return sum(count / rates[kind] for kind, count in work.items()) / 3600


def times(split: str, rates: dict[str, float], price: float | None) -> list[str]:
    "Hours on so many GPUs, were each as quick as one alone, and the cost at a price of an hour of one."
    whole = gpu_hours(split, rates)
    if whole is None: return [UNKNOWN] * (len(GPUS) + 1)
    cost = f"{whole:,.0f} x price" if price is None else f"{whole * price:,.0f}"
    return [*(f"{whole / n:,.1f}" for n in GPUS), cost]


def table(rates: dict[str, float], price: float | None = None) -> str:
    "The table of docs/scale.md."
    text = ["| split | teacher, images | refiner, crops | labels, images | two students, images | "
            + " | ".join(f"hours, {n} GPU{'s' * (n > 1)}" for n in GPUS) + " | cost |",
            f"|---|{'---:|' * (5 + len(GPUS))}"]
    for split in COCO_SCHEDULES:
        cells = [f"{count:,}" for count in work_of(split).values()] + times(split, rates, price)
        text.append(f"| {split} | {' | '.join(cells)} |")
    return "\n".join(text)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale_table", description=__doc__)
    parser.add_argument("results", nargs="?", type=Path, help="results.json of benchmarks.gpu")
    parser.add_argument("--price", type=float, help="of an hour of one GPU, in any currency")
    args = parser.parse_args(argv)
    print(table(rates_of(read_json(args.results) if args.results else {}), args.price))


if __name__ == "__main__": main()
