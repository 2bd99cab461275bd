"The scaling study: exponents are those of the law that was put in, every part gives rows, and its four files say the same. No time is judged here."
import json
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import scaling                                                                           # noqa: E402
from benchmarks.fresh import Cost                                                                        # noqa: E402
from benchmarks.scaling import Growth, exponent, growth, series, write                                   # noqa: E402
from pointwssis.data import store                                                                             # noqa: E402

CPU = torch.device("cpu")


@pytest.mark.parametrize("power", [0, .5, 1, 2])
def test_the_exponent_is_that_of_large_sizes(power):
    sizes = (1, 3, 10, 30, 100, 300)
    assert exponent(sizes, [n ** power for n in sizes]) == pytest.approx(power)
    assert exponent(sizes, [5 + n for n in sizes]) > .8                # what every call costs is not what grows


def test_linear_growth_passes_and_quadratic_does_not():
    sizes = (10, 100, 1000)
    assert growth("a", "time", "points", sizes, [n * .001 for n in sizes], 5).met
    assert not growth("a", "time", "points", sizes, [n * n * 1e-6 for n in sizes], 5).met
    assert not growth("a", "time", "classes", sizes, [n ** .3 for n in sizes], 5, scaling.FLAT).met


def test_memory_is_that_of_tensors_alive_together():
    time, memory = series("a sum", "objects", (2**6, 2**8, 2**10), lambda n: lambda: torch.ones(n, 2**8).add(1).sum(), CPU, 1)
    assert memory.values == pytest.approx((.125, .5, 2), abs=.01) and memory.ours == pytest.approx(1, abs=.01) and min(time.values) > 0


def in_this_process(place: str, *arguments) -> Cost:
    "A fresh process takes seconds to start, and what it measures is tested elsewhere."
    module, _, function = place.removeprefix("benchmarks.").partition(":")
    return Cost(.1, 1., 2., getattr(import_module(f"benchmarks.{module}"), function)(*arguments)())


@pytest.mark.parametrize("part, names", [("points", {"masks", "refinement"}), ("objects", {"targets", "losses"}),
                                         ("classes", {"the class head", "the rest of a step"}),
                                         ("pixels", {"a step"}), ("images", {"opening a data set", "a split"})])
def test_parts(part, names, monkeypatch):
    monkeypatch.setattr(scaling, "fresh", in_this_process)
    monkeypatch.setattr(store, "CACHE_FROM", store.CACHE_FROM)      # a part sets it; it is set back
    found = getattr(scaling, f"by_{part}")(CPU, 1, True)
    assert {(r.of, r.cost) for r in found} == {(name, cost) for name in names for cost in ("time", "memory")}
    assert all(r.by == part and len(r.values) == len(r.sizes) == 3 and r.name for r in found)


def test_files(tmp_path):
    rows = [growth("masks", cost, "points", (1, 10, 100), (.01, .02, .2), 5) for cost in ("time", "memory")]
    write(tmp_path, rows, CPU)
    kept, text = json.loads((tmp_path / "scaling.json").read_text()), (tmp_path / "scaling.md").read_text()
    assert {p.name for p in tmp_path.iterdir()} == {f"scaling.{kind}" for kind in ("md", "json", "png", "pdf")}
    assert [(r["cost"], r["values"]) for r in kept["rows"]] == [("time", [.01, .02, .2]), ("memory", [.01, .02, .2])]
    assert "| masks | points | 1 to 100 | time | 10 ms | 0.2 s | 1.00 | 1.1 | yes | 5 |" in text and isinstance(rows[0], Growth)
