"""Data of COCO's size and kind, made in seconds: annotations, pictures, predictions. And what is done with them, as functions that another
process can be told to call (without torch, whose memory is not the question here)."""
from __future__ import annotations
import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from faster_coco_eval import mask as rle_api

from pointwssis.data import coco, store
from pointwssis.data.evaluation import SLICES, coco_ap

HEIGHT, WIDTH = 480, 640
CLASSES = coco.CategoryTable(tuple(range(1, 81)), tuple(f"class {i}" for i in range(1, 81)))
IMAGE = ('{"license": 3, "file_name": "%012d.jpg", "coco_url": "http://images.example.org/train2017/%012d.jpg", "height": %d, "width": %d, '
         '"date_captured": "2013-11-14 11:18:45", "flickr_url": "http://farm9.example.org/8186/8119368305_4e622c8349_z.jpg", "id": %d}')


def outline(r: np.random.Generator, corners: int, scale: float = 1.) -> np.ndarray:   # (corners, 2) x, y
    "A wavy ellipse, of any of COCO's sizes, somewhere in an image of 640 x 480 times `scale`."
    turn, size = np.linspace(0, 2 * np.pi, corners, endpoint=False), np.exp(r.uniform(np.log(6), np.log(150)))
    centre, axes = r.uniform(0, 1, 2) * (WIDTH, HEIGHT), size * np.exp(r.uniform(-.4, .4, 2))
    ring = np.stack([np.cos(turn), np.sin(turn)], 1) * (1 + .2 * np.sin(5 * turn))[:, None]
    return scale * (centre + axes * ring).clip(0, (WIDTH - 1, HEIGHT - 1))


def _annotation(r: np.random.Generator, crowd: bool, scale: float = 1.) -> str:
    "An annotation's text, with %d for image, class and id; as in COCO, a crowd is plain run lengths."
    xy = outline(r, int(np.clip(r.gamma(2, 10.5), 4, 200)), scale).round(2)
    height, width = (round(side * scale) for side in (HEIGHT, WIDTH))
    (x, y), (w, h), runs = xy.min(0), np.ptp(xy, axis=0), r.integers(1, max(2, int(400 * scale ** 2)), 600)
    shape = {"counts": [*runs[:-1].tolist(), int(height * width - runs[:-1].sum())], "size": [height, width]} if crowd else [xy.ravel().tolist()]
    return (f'{{"segmentation": {json.dumps(shape)}, "area": {w * h * .785:.4f}, "iscrowd": {int(crowd)}, "image_id": %d, '
            f'"bbox": [{x:.2f}, {y:.2f}, {w:.2f}, {h:.2f}], "category_id": %d, "id": %d}}')


def write_annotations(path: Path, images: int, annotations: int, seed: int = 0, scale: float = 1.) -> None:
    "A file like instances_train2017.json: objects in no order of their images, about 520 bytes each. `scale` is that of COCO's usual 640 x 480."
    r, (height, width) = np.random.default_rng(seed), (round(side * scale) for side in (HEIGHT, WIDTH))
    patterns = [_annotation(r, n % 100 == 0, scale) for n in range(4096)]
    ids = (r.permutation(5 * images)[:images] + 1).tolist()
    table = [{"supercategory": "thing", "id": i, "name": name} for i, name in zip(CLASSES.ids, CLASSES.names)]
    with open(path, "w") as f:
        f.write('{"info": {"description": "made up"}, "licenses": [], "images": [' + ", ".join(IMAGE % (i, i, height, width, i) for i in ids) + '], "annotations": [')
        for start in range(0, annotations, 20_000):
            count = min(20_000, annotations - start)
            drawn = zip(r.integers(4096, size=count).tolist(), r.integers(images, size=count).tolist(), r.integers(1, 81, size=count).tolist())
            f.write(", " * (start > 0) + ", ".join(patterns[p] % (ids[i], c, n) for n, (p, i, c) in enumerate(drawn, start + 1)))
        f.write(f'], "categories": {json.dumps(table)}}}')


def write_pictures(root: Path, images: int, objects: int = 7, seed: int = 0) -> coco.CocoData:
    "A small data set of JPEG pictures, 640 x 480, with coarse and fine structure, so that they weigh about as much as COCO's."
    r, records, annotations = np.random.default_rng(seed), [], []
    (root / "train").mkdir(parents=True)
    def noise(scale: int, strength: float) -> np.ndarray:
        return cv2.resize(r.normal(0, strength, (HEIGHT // scale, WIDTH // scale, 3)).astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    for i in range(1, images + 1):
        pixels = 128 + noise(40, 50) + noise(4, 25) + noise(1, 6)
        cv2.imwrite(str(root / f"train/{i}.jpg"), pixels.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
        records.append({"id": i, "file_name": f"{i}.jpg", "width": WIDTH, "height": HEIGHT})
        shapes = [[outline(r, 30).round(2).ravel().tolist()] for _ in range(objects)]
        annotations += [{"id": len(annotations) + k, "image_id": i, "category_id": k, "segmentation": s, "iscrowd": 0} for k, s in enumerate(shapes, 1)]
    coco.save(root / "annotations/instances_train.json", records, annotations, CLASSES)
    return coco.load(root / "annotations/instances_train.json", need="masks")


def _shapes(r: np.random.Generator, families: int, variants: int) -> list[list[dict]]:
    "Run lengths of shapes in families: the first of each, and others that agree with it less and less."
    def rle(xy: np.ndarray) -> dict:
        packed = rle_api.frPyObjects([xy.clip(0, (WIDTH, HEIGHT)).ravel().tolist()], HEIGHT, WIDTH)[0]
        return {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()}
    def family(xy: np.ndarray) -> list[dict]:
        return [rle(xy + .04 * v * np.ptp(xy, axis=0) * r.normal(0, 1, 2)) for v in range(variants)]
    return [family(outline(r, 24)) for _ in range(families)]


def predictions(images: int, objects: int, each: int, seed: int = 0) -> tuple[coco.CocoData, list[dict]]:
    "A truth, one object in a hundred a crowd, and `each` results an image: two for every object, some of them good, then others that score less."
    r, families, variants = np.random.default_rng(seed), 400, 8
    shapes = _shapes(r, families, variants)
    truth: dict[int, list[dict]] = {i: [] for i in range(1, images + 1)}
    drawn = zip(r.integers(1, images + 1, objects).tolist(), r.integers(families, size=objects).tolist(), (r.random(objects) < .01).tolist())
    for n, (i, k, crowd) in enumerate(drawn, start=1):
        fields = coco.mask_fields(shapes[k][0])
        truth[i].append({"id": n, "image_id": i, "category_id": k % 80 + 1, "iscrowd": int(crowd), **fields, "family": k})
    results = []
    for i, found in truth.items():
        kinds = ([a["family"] for a in found for _ in range(2)] + r.integers(families, size=each).tolist())[:each]
        scores = r.random(each) * np.where(np.arange(each) < 2 * len(found), 1, .4)
        of = zip(kinds, r.integers(variants, size=each).tolist(), scores.round(4).tolist())
        results += [{"image_id": i, "category_id": k % 80 + 1, "segmentation": shapes[k][v], "score": score} for k, v, score in of]
    records = {i: {"id": i, "file_name": f"{i}.jpg", "width": WIDTH, "height": HEIGHT} for i in truth}
    return coco.CocoData(Path("made_up.json"), Path(), records, truth, CLASSES, {}), results


def judged(truth: coco.CocoData, results: list[dict]) -> list[float]:
    "AP, AP50, AP75, APS, APM, APL by this suite."
    table = coco_ap(truth, results)
    return [table[name] for name in SLICES]


def judged_by_reference(truth: coco.CocoData, results: list[dict]) -> list[float]:
    "The same by pycocotools, as its own demo does it. It writes into what it is given, so it is given copies."
    from pycocotools.coco import COCO            # the other side, which the rest does without
    from pycocotools.cocoeval import COCOeval
    table = [{"id": i, "name": name} for i, name in zip(CLASSES.ids, CLASSES.names)]
    index = COCO()
    index.dataset = {"images": list(truth.images.values()), "annotations": [dict(a) for of in truth.annotations.values() for a in of], "categories": table}
    with redirect_stdout(io.StringIO()):
        index.createIndex()
        judge = COCOeval(index, index.loadRes([dict(r) for r in results]), "segm")
        judge.evaluate(), judge.accumulate(), judge.summarize()
    return (judge.stats[:6] * 100).tolist()


def prepare_judge(name: str, images: int, objects: int, each: int) -> Callable[[], Any]:
    "One evaluation, by `judged` or `judged_by_reference`, its input made."
    made = predictions(images, objects, each)
    return lambda: globals()[name](*made)


def prepare_opening(path: str, cache_from: int) -> Callable[[], Any]:
    "This suite's way to open a file: how many images and annotations there are, and the annotations of the last image."
    store.CACHE_FROM = cache_from
    def work() -> list:
        data = coco.load(path)
        return [len(data.ids), data.num_annotations, data.annotations[data.ids[-1]]]
    return work


def prepare_plain_opening(path: str) -> Callable[[], Any]:
    "The same by Python's parser and pycocotools' index."
    from pycocotools.coco import COCO
    def work() -> list:
        with redirect_stdout(io.StringIO()): index = COCO(path)
        last = index.dataset["images"][-1]["id"]
        return [len(index.imgs), len(index.anns), index.imgToAnns[last]]
    return work
