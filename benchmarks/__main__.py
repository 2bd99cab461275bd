"""`python -m benchmarks [SUITE ...] [--device auto] [--quick] [--out FOLDER]`: run suites, all by default, and write results.{json,md}."""
from __future__ import annotations
import argparse
import importlib
from pathlib import Path

import torch

from pointwssis.core import nearest, pick_device

from .harness import record

SUITES = ("targets", "nms", "points", "refiner", "crowd", "evaluation", "data", "loader", "training", "around", "scaling")
LONG = ("coco_stages",)    # only where named: it takes long
# modules here, each with rows(device, quick) -> list[Row]; what has more to show brings its own write(folder, rows, device)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=", ".join((*SUITES, *LONG)))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=2, help="on the CPU")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where results.json and results.md go")
    args = parser.parse_args(argv)
    for name in args.suites:
        if name not in (*SUITES, *LONG): parser.error(f"unknown suite '{name}'.{nearest(name, SUITES)}")
    torch.set_num_threads(args.threads)
    device = pick_device(args.device)
    for suite in args.suites or SUITES:
        module = importlib.import_module(f"benchmarks.{suite}")
        found = module.rows(device, args.quick)
        record(args.out, suite, found, device, args.quick)
        if hasattr(module, "write"): module.write(args.out, found, device)
        for row in found: print(f"{suite}: {row.name}: ratio {row.ratio:.3g}, met: {row.met}", flush=True)


if __name__ == "__main__": main()
