"""Preparing a dataset of COCO's size: seconds, and the peak memory of the process.

    python benchmarks/prepare.py --share 0.1

The annotation file is made up: as many images and annotations as train2017, polygons of as many points, a hundredth
crowds as RLE. Images are hard links to a few small pictures that `prepare` knows by their content, so that what is
measured is the annotations and one read of each file. `--odd` puts every fiftieth box beside its mask.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import checkout  # noqa: F401 - measures the checkout that it is in
import numpy as np
from PIL import Image

from pipeline.config.datasets import CocoDataset, CocoSplit
from pipeline.data.manifest import read_prepared
from pipeline.data.prepare import prepare
from pipeline.progress import progress

IMAGES, ANNOTATIONS, VAL_IMAGES, VAL_ANNOTATIONS = 118_287, 860_001, 5_000, 36_781  # of COCO 2017
CATEGORIES, CROWDS, SECOND_PART = 80, 0.01, 0.1
POINTS = 24  # of a polygon, the mean
SIZES = [(480, 640), (640, 480), (427, 640), (375, 500), (640, 640), (426, 640)]  # H, W


def polygon(rng: np.random.Generator, height: int, width: int) -> list[float]:
    """An outline with corners at random radii, to two digits as in COCO."""
    points = max(4, int(rng.gamma(3, POINTS / 3)))
    angles = np.sort(rng.random(points)) * 2 * np.pi
    radius = min(height, width) * 10 ** rng.uniform(-2, -0.5)
    radii = radius * rng.uniform(0.7, 1, points)
    x = np.clip(rng.uniform(0, width) + radii * np.cos(angles), 0, width)
    y = np.clip(rng.uniform(0, height) + radii * np.sin(angles), 0, height)
    return np.stack([x, y], axis=1).ravel().round(2).tolist()


def annotation(rng: np.random.Generator, id_: int, image: dict[str, Any], odd: bool) -> dict[str, Any]:
    height, width = image["height"], image["width"]
    parts = [polygon(rng, height, width) for _ in range(1 + (rng.random() < SECOND_PART))]
    x, y = (np.concatenate([part[i::2] for part in parts]) for i in (0, 1))
    box = [x.min(), y.min(), max(np.ptp(x), 0.01), max(np.ptp(y), 0.01)]
    crowd = bool(rng.random() < CROWDS)
    if crowd:
        runs = rng.integers(1, 400, 200)
        segmentation: Any = {"size": [height, width], "counts": [*runs.tolist(), int(height * width - runs.sum())]}
    else:
        segmentation = parts
    return {
        "segmentation": segmentation,
        "area": round(float(box[2] * box[3]) * 0.7, 4),
        "iscrowd": int(crowd),
        "image_id": image["id"],
        "bbox": [round(float(v), 2) for v in (box if not odd else [box[2], box[3], box[0] + 9, box[1] + 9])],
        "category_id": 1 + int(rng.integers(CATEGORIES)),
        "id": id_,
    }


def write_split(root: Path, split: str, images: int, annotations: int, odd: bool) -> None:
    rng = np.random.default_rng(images)
    folder = root / split
    folder.mkdir(parents=True)
    entries = []
    for number in range(images):
        kind = number % len(SIZES)
        height, width = SIZES[kind]
        os.link(root / f"{kind}.png", folder / f"{number:012}.png")
        entries.append({"id": number + 1, "file_name": f"{number:012}.png", "height": height, "width": width})
    of_image = rng.integers(images, size=annotations).tolist()
    content = {
        "images": entries,
        "annotations": [
            annotation(rng, number + 1, entries[index], odd and number % 50 == 0)
            for number, index in enumerate(of_image)
        ],
        "categories": [{"id": number + 1, "name": f"class {number + 1}"} for number in range(CATEGORIES)],
    }
    (root / f"{split}.json").write_text(json.dumps(content))


def write(root: Path, share: float, odd: bool) -> None:
    """Writes a share of the made-up dataset."""
    for kind, (height, width) in enumerate(SIZES):
        Image.new("RGB", (width, height)).save(root / f"{kind}.png")
    write_split(root, "train", round(share * IMAGES), round(share * ANNOTATIONS), odd)
    write_split(root, "val", round(share * VAL_IMAGES), round(share * VAL_ANNOTATIONS), odd)


def measure(root: Path) -> dict[str, Any]:
    """Prepares the dataset in this process."""
    dataset = CocoDataset(
        source="coco",
        root=".",
        train=CocoSplit(annotations="train.json", images="train"),
        val=CocoSplit(annotations="val.json", images="val"),
        invalid_annotations="drop",
    )
    start = time.perf_counter()
    prepare(dataset, str(root), root / "prepared", root / "known.parquet", progress("check", None))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    prepared = read_prepared(root / "prepared")
    kept = [sum(map(len, prepared.manifest(split)["annotations"].to_pylist())) for split in ("train", "val")]
    return {"seconds": round(seconds, 1), "peak MB": round(peak), "annotations": kept}


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--share", type=float, default=0.1, help="of COCO's images and annotations")
    arguments.add_argument("--odd", action="store_true", help="put every fiftieth box beside its mask")
    arguments.add_argument("--folder", type=Path, help="where the dataset is, or is to be written; kept")
    arguments.add_argument("--json", action="store_true", help="print one JSON object instead of a line")
    arguments.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.measure:
        print(json.dumps(measure(given.folder)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder: Path = given.folder or Path(scratch)
        if not (folder / "train.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            write(folder, given.share, given.odd)
        # In a process of its own, whose peak is not that of making the file up.
        command = [sys.executable, __file__, "--measure", "--folder", str(folder)]
        found = json.loads(
            subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
        )
    if given.json:
        print(json.dumps(found))
    else:
        print(", ".join(f"{name}: {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
