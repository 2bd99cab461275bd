"""Broken input for everything that reads a user's files: each input works or gives one clear error.

    python tests/fuzz.py --inputs 100000           by hand; the tests run a few hundred of each kind
    python tests/fuzz_guided.py exports 10000      of one kind, led by the code that they reach (pip install atheris)
"""
from __future__ import annotations
import argparse
import io
import json
import math
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from pointwssis.config import override
from pointwssis.core import PointWSSISError
from pointwssis.data import coco, store
from pointwssis.data.convert import read_annotations
from pointwssis.data.masks import decode, encode
from pointwssis.data.points import points_of
from pointwssis.data.record_checks import NEEDS
from pointwssis.data.survey import survey, survey_lines
from pointwssis.method.splits import percentage
from pointwssis.runs.arguments import setting
from pointwssis.runs.presets import preset

HUGE = st.sampled_from([10**9, 2**31, 2**32, 2**63, 10**18, -10**18, -1, 0, 1e308, -1e308, 1e-308,
                        float("nan"), float("inf"), 10**400])
NUMBERS = st.one_of(st.integers(-5, 40), st.integers(), st.floats(), HUGE)
ANYTHING = st.recursive(st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8)),
                        lambda inner: st.one_of(st.lists(inner, max_size=4),
                                                st.dictionaries(st.text(max_size=4), inner, max_size=3)), max_leaves=8)
PACKED = "".join(map(chr, range(48, 112)))

MASK = np.zeros((20, 30), bool)
MASK[5:10, 5:12] = True
GOOD = encode(MASK)["counts"]


@st.composite
def near(draw, text: str, alphabet: str) -> str:
    "A good string, cut and overwritten in places."
    letters = list(text)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(letters)))
        letters[at:at + draw(st.integers(0, 3))] = draw(st.text(alphabet=alphabet, max_size=3))
    return "".join(letters)


SIZES = st.one_of(st.just([20, 30]), st.lists(st.one_of(st.integers(0, 40), HUGE), max_size=3), ANYTHING)
WHOLE = st.lists(st.integers(0, 600), max_size=6).map(sorted).map(
    lambda ends: [b - a for a, b in zip([0, *ends], [*ends, 600])])    # runs that add up
COUNTS = st.one_of(st.just(GOOD), WHOLE, near(GOOD, PACKED + "~ \u00e9"), st.text(alphabet=PACKED, max_size=40),
                   st.lists(NUMBERS, max_size=8), st.lists(st.integers(0, 600), max_size=6), ANYTHING)
EDGES = st.lists(st.tuples(st.integers(-20, 60), st.floats(-30, 50)), max_size=6).map(
    lambda corners: [v for corner in corners for v in corner])
CORNERS = st.lists(st.one_of(st.integers(-10, 90), st.floats(-100, 100), NUMBERS), max_size=12)
POLYGONS = st.lists(st.one_of(CORNERS, CORNERS, ANYTHING), max_size=3)
SEGMENTATIONS = st.one_of(st.lists(EDGES, max_size=3), POLYGONS, st.fixed_dictionaries({"size": SIZES, "counts": COUNTS}),
                          st.fixed_dictionaries({"size": st.just([20, 30]), "counts": COUNTS}), ANYTHING)


def record(good: dict[str, Any], **odd: st.SearchStrategy) -> st.SearchStrategy:
    "A record with some of its fields exchanged, some left out and one that nobody knows."
    fields = {k: st.one_of(st.just(v), st.just(v), odd.get(k, ANYTHING), ANYTHING) for k, v in good.items()}
    few = st.fixed_dictionaries({}, optional=fields | {"other": ANYTHING})
    return st.one_of(st.fixed_dictionaries(fields), st.tuples(st.just(good), few).map(lambda two: two[0] | two[1]), few)


IMAGE = {"id": 1, "file_name": "1.png", "width": 30, "height": 20}
ANNOTATION = {"id": 51, "image_id": 1, "category_id": 4, "iscrowd": 0, "segmentation": {"size": [20, 30], "counts": GOOD}}
WEAK = {"id": 52, "image_id": 1, "category_id": 4, "point": [3.5, 4], "bbox": [1, 2, 3, 4]}
CATEGORY = {"id": 4, "name": "cat"}
POINTS = st.one_of(st.lists(NUMBERS, max_size=3), ANYTHING)


def several(of: st.SearchStrategy, good: dict) -> st.SearchStrategy:
    return st.one_of(st.just([good]), st.lists(of, max_size=3), st.tuples(st.just(good), of).map(list), ANYTHING)


NAMES = near("a/1.png", "./\\~:\0\ud800 c")
FILES = st.fixed_dictionaries({}, optional={
    "images": several(record(IMAGE, file_name=NAMES, width=NUMBERS, height=NUMBERS), IMAGE),
    "annotations": several(st.one_of(record(ANNOTATION, segmentation=SEGMENTATIONS),
                                     record(WEAK, point=POINTS, bbox=POINTS)), ANNOTATION),
    "categories": several(record(CATEGORY), CATEGORY), "info": ANYTHING})
JSON = st.one_of(FILES.map(lambda content: json.dumps(content)), ANYTHING.map(lambda content: json.dumps(content)),
                 near(json.dumps({"images": [IMAGE], "annotations": [ANNOTATION], "categories": [CATEGORY]}), '{}[]",:\\0e-'),
                 st.integers(1, 10**5).map(lambda n: "[" * n), st.integers(4000, 9000).map(lambda n: '{"images": ' + "9" * n + "}"))


def read_rle(segmentation: Any) -> None:
    mask = decode(segmentation, 20, 30)
    assert mask.shape == (20, 30) and mask.dtype == bool


def read_sizes(height: Any, width: Any, counts: Any) -> None:
    mask = decode({"size": [height, width], "counts": counts}, height, width)
    assert mask.shape == (height, width)


def read_file(text: str, need: str, cached: bool) -> None:
    "Open a file in one of two ways and use all that it holds."
    with tempfile.TemporaryDirectory() as folder:
        path, was = Path(folder) / "f.json", store.CACHE_FROM
        path.write_text(text, encoding="utf-8")
        store.CACHE_FROM = 0 if cached else was
        try: data = coco.load(path, folder, need)
        finally: store.CACHE_FROM = was
        if need == "masks": coco.check_masks(data)
        for i in data.ids:
            if need == "points":
                for p in points_of(data, i):
                    assert 0 <= p.x < data.images[i]["width"] and 0 <= p.y < data.images[i]["height"]
            for a in data.annotations[i]:
                if need == "masks" and data.images[i]["width"] * data.images[i]["height"] < 10**6: data.mask(a)


def read_survey(text: str, need: str) -> None:
    "A survey never fails: each fault is a line of it."
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.json"
        path.write_text(text, encoding="utf-8")
        found = survey(path, Path(folder), need, quick=True)
        assert survey_lines(found) and all("\n" not in text for faults in found.stops.values() for text in faults)


def read_point(point: Any, box: Any) -> None:
    weak = {k: v for k, v in (WEAK | {"point": point, "bbox": box}).items() if v is not ...}
    read_file(json.dumps({"images": [IMAGE], "annotations": [weak], "categories": [CATEGORY]}), "points", False)


OPTIONS = ["seed", "prompt", "level", "pseudo_score", "data.short_side", "teacher.num_grids", "teacher.scale_ranges",
           "student_train.lr", "student_train.steps", "student_train.flip", "refiner.use_image", "variant", "teacher", "data", ""]


def read_override(key: str, value: str) -> None:
    from argparse import ArgumentTypeError
    try: name, parsed = setting(f"{key}={value}")
    except ArgumentTypeError: return
    cfg = override(preset("shapes"), name, parsed)
    numbers = [v for v in vars(cfg).values() if isinstance(v, float)]
    assert all(map(math.isfinite, numbers))


SAMPLES = Path(__file__).parent / "recorded/formats"
TOOLS = {"coco": "coco.json", "cvat": "cvat.xml", "label_studio": "label_studio.json", "labelme": "labelme/cat.json", "csv": "clicks.csv"}
GOOD_FILES = {tool: (SAMPLES / name).read_text(encoding="utf-8") for tool, name in TOOLS.items()}


_held = io.BytesIO()
Image.new("RGB", (40, 30), "white").save(_held, "png")
PICTURE = _held.getvalue()


@st.composite
def exports(draw) -> tuple[str, str]:
    "A tool and a file as it exports it, with letters or whole values exchanged."
    tool = draw(st.sampled_from(sorted(TOOLS)))
    text = draw(near(GOOD_FILES[tool], '{}[]",:\\0e-<>/&;= '))
    values = sorted(set(re.findall(r'"[^"\n]*"|[\d.]+', text)))
    for _ in range(draw(st.integers(0, 2))):
        if not values: break
        odd = draw(st.one_of(NUMBERS.map(str), ANYTHING.map(json.dumps), st.sampled_from(['"../x.png"', '"nan"', '""', "9" * 400])))
        text = text.replace(draw(st.sampled_from(values)), odd, 1)
    return tool, text


def read_export(export: tuple[str, str]) -> None:
    "Read a tool's file, folders of files included, beside the two images that it names."
    tool, text = export
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "export" / Path(TOOLS[tool]).name
        path.parent.mkdir()
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        (Path(folder) / "photos/in").mkdir(parents=True)
        for name in ("cat.png", "in/two.png"): (Path(folder) / "photos" / name).write_bytes(PICTURE)
        data = read_annotations(tool, path.parent if tool == "labelme" else path, Path(folder) / "photos")
        for i in data.ids:
            for a in data.annotations[i]:
                if "segmentation" in a: assert data.mask(a).shape == (30, 40)


KINDS: dict[str, tuple[Callable, tuple[st.SearchStrategy, ...]]] = {
    "masks": (read_rle, (SEGMENTATIONS,)),
    "sizes": (read_sizes, (st.one_of(st.just(20), st.integers(-2, 50), HUGE), st.one_of(st.just(30), st.integers(-2, 50), HUGE), COUNTS)),
    "files": (read_file, (JSON, st.sampled_from(sorted(NEEDS)), st.booleans())),
    "surveys": (read_survey, (JSON, st.sampled_from(["masks", "points"]))),
    "points": (read_point, (st.one_of(POINTS, st.just(...)), st.one_of(POINTS, st.just(...)))),
    "overrides": (read_override, (st.one_of(st.sampled_from(OPTIONS), near("student_train.lr", "abc._=\0")),
                                  st.one_of(ANYTHING.map(lambda v: json.dumps(v)), st.text(max_size=12), near("[[1, 72], [72, 144]]", "[],0e-N"),
                                            st.integers(1, 10**5).map(lambda n: "[" * n), st.just("9" * 5000)))),
    "exports": (read_export, (exports(),)),
    "splits": (percentage, (st.one_of(st.text(max_size=8), st.floats().map(lambda v: f"{v}p"), st.integers()),)),
}


def test_of(kind: str, inputs: int, seen: Counter, seconds: float = 5) -> Callable[[], None]:
    "A test of that many inputs of a kind, which counts those that worked and were refused; `seconds` are of the CPU."
    function, strategies = KINDS[kind]

    @settings(max_examples=inputs, deadline=None, database=None, derandomize=inputs < 1000, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))
    @given(st.tuples(*strategies))
    def one(args: tuple) -> None:
        start, what = time.process_time(), "worked"
        try: function(*args)
        except PointWSSISError as e:
            assert str(e) and "\n" not in str(e), repr(e)
            what = "refused"
        assert time.process_time() - start < seconds, args
        seen[what] += 1
    return one


def fuzz(kind: str, inputs: int, seconds: float = 5) -> Counter:
    "Try that many inputs of a kind; counts of those that worked and were refused."
    test_of(kind, inputs, seen := Counter(), seconds)()
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="over all these kinds (default 100000)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="default: all")
    args = parser.parse_args()
    total: Counter = Counter()
    for kind in args.kinds:
        seen = fuzz(kind, -(-args.inputs // len(args.kinds)))
        print(f"{kind}: {seen['worked']:,} worked, {seen['refused']:,} refused", flush=True)
        total += seen
    print(f"{total.total():,} inputs, {total['refused']:,} refused, none crashed or hung")


if __name__ == "__main__": main()
