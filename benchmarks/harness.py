"""Two ways of doing one thing, checked to agree and timed in turns; their medians as a row; the rows as two files."""
from __future__ import annotations
import gc
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

from pointwssis.core import atomic_path, device_name, read_json, versions, write_json

from .fresh import _mib

RUNS = 5
Work = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    "One comparison of two costs (less is better). The ratio is the other over ours; of a `share`, ours over the other."
    name: str                            # what is compared, with its size
    ours: float                          # median
    other: float                         # median
    against: str = "plain loop"          # what the other side is
    target: float | None = None          # the ratio wanted: at least this, a share at most this; None: only told
    share: bool = False
    unit: str = "s"
    runs: int = RUNS                     # that each median is of; 1 for what does not vary
    peak_mib: float | None = None        # memory at its highest while ours runs
    peak_limit_mib: float | None = None
    note: str = ""
    opponent: bool = True                # False: the other side is a limit, linear growth, or another part of the suite

    @property
    def ratio(self) -> float: return self.ours / self.other if self.share else self.other / self.ours

    @property
    def met(self) -> bool | None:
        "True if every target of the row is met; None without a target."
        parts = [] if self.target is None else [self.ratio <= self.target if self.share else self.ratio >= self.target]
        if self.peak_limit_mib is not None: parts.append(self.peak_mib <= self.peak_limit_mib)
        return all(parts) if parts else None


@contextmanager
def processor_time(device: torch.device) -> Iterator[None]:
    "On a CPU, clocks count what this process works, whatever else the machine has to do."
    with patch.object(time, "perf_counter", time.process_time) if device.type == "cpu" else nullcontext(): yield


def now(device: torch.device) -> float:
    "Seconds on the clock once the device has done all that it was told."
    if device.type == "cuda": torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(work: Work, device: torch.device) -> tuple[float, Any]:
    "Seconds until the work is done, on the device too, and what it gave."
    start = now(device)
    result = work()
    return now(device) - start, result


def alternate(ours: Work, other: Work, device: torch.device, runs: int = RUNS) -> tuple[float, float]:
    "Median seconds of each side; the sides take turns, so that a slow minute of the machine hits both."
    seconds = [(timed(ours, device)[0], timed(other, device)[0]) for _ in range(runs)]
    return median(a for a, _ in seconds), median(b for _, b in seconds)


def compare(name: str, ours: Work, other: Work, agree: Callable[[Any, Any], bool], device: torch.device, **row: Any) -> Row:
    "A row of two sides, once they are seen to give the same; `agree` gets both results. This first pass also warms up."
    if not agree(ours(), other()): raise AssertionError(f"{name}: the two sides give different results")
    a, b = alternate(ours, other, device)
    return Row(name, a, b, **row)


def peak_mib(work: Work, device: torch.device) -> float:
    "The most memory in use while the work runs, MiB: what the GPU holds, or all of this process (needs Linux, which keeps the peak)."
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) / 2**20
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")            # forget the peak so far
    work()
    return _mib("VmHWM")


def machine(device: torch.device) -> dict[str, Any]:
    "Machine and versions that the figures come from."
    processor = next((line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor())
    return {"device": device_name(device), "processor": processor, "versions": versions()}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def record(folder: Path, suite: str, rows: list[Row], device: torch.device, quick: bool = False) -> None:
    "Put a suite's rows into results.json, in place of its old ones for this kind of device, and write results.md anew."
    path = folder / "results.json"
    results = read_json(path) if path.exists() else {}
    told = [asdict(row) | {"ratio": row.ratio, "met": row.met} for row in rows]
    results[f"{suite}, {device.type}"] = {**machine(device), "quick": quick, "rows": told}
    results = dict(sorted(results.items()))
    write_json(path, results, indent=1)
    with atomic_path(folder / "results.md") as temporary: temporary.write_text(markdown(results), encoding="utf-8")


def _number(value: float, unit: str) -> str:
    if unit == "s" and value < .1: return f"{value * 1000:.3g} ms"
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"


def _line(row: dict[str, Any]) -> str:
    ratio = f"{row['ratio']:.1%}" if row["share"] else f"{row['ratio']:.3g} x"
    wanted = [] if row["target"] is None else [f"at most {row['target']:.0%}" if row["share"] else f"at least {row['target']:g} x"]
    memory = "" if row["peak_mib"] is None else f"{row['peak_mib']:.0f} MiB"
    if row["peak_limit_mib"] is not None: wanted.append(f"{row['peak_limit_mib']:.0f} MiB")
    met = {True: "yes", False: "no", None: ""}[row["met"]]
    against = row["against"] + ", no opponent" * (not row["opponent"])
    cells = [row["name"], _number(row["ours"], row["unit"]), f"{_number(row['other'], row['unit'])} ({against})",
             ratio, memory, ", ".join(wanted), met, str(row["runs"]), row["note"]]
    return f"| {' | '.join(cells)} |"


def markdown(results: dict[str, Any]) -> str:
    "results.json as tables for people."
    told = ("Both sides of a row ran in one process, in turns, after they gave the same result; the figures are medians. A row marked \"no opponent\" "
            "compares with a limit, with linear growth, or with another part of the suite, which says nothing about other code.")
    text = ["# Benchmarks", "", f"{told} Peak memory is that of the GPU or of the whole process, unless the note says otherwise.", ""]
    for suite, found in results.items():
        libraries = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
        text += [f"## {suite}", "", f"{found['device']} · {found['processor']} · {libraries}", ""]
        if found["quick"]: text += ["Tiny sizes, to try the benchmarks out: these figures mean nothing.", ""]
        text += ["| what | ours | other | ratio | peak memory | target | met | runs | note |", "|---|---|---|---|---|---|---|---|---|"]
        text += [_line(row) for row in found["rows"]] + [""]
    return "\n".join(text)
