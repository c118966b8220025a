"""Evaluation of a dataset: pasting and encoding region masks, writing COCO results, computing AP.

    python benchmarks/evaluation.py --images 100

The region masks are synthetic: ragged blobs in boxes that match an object more or less well, or no object. Each library
runs in its own process: this one as in the `evaluate` stage, Detectron2 with its COCOEvaluator and pycocotools. This
library then also scores the results that Detectron2 wrote, and its AP must be the same. Needs pycocotools.
"""

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mask_head import random_boxes
from measure import DETECTRON2, Measurement, has_detectron2, parser, peak_megabytes, positive, report
from pycocotools import mask as coco_mask
from torch import Tensor

from pipeline.evaluation.instances import ResultsWriter, coco_results, encode_regions
from pipeline.metrics.coco_ap import coco_ap

OWN = "pointrend"
SIZE = (480, 640)
CATEGORIES = 80
OBJECTS = 7.3  # per image, as in COCO
SHAPES = 64
TRUTH, REGIONS = "truth.json", "regions.pt"


@dataclass
class Outcome:
    """Seconds from region masks to results, and from results to AP; scores in percent; memory in megabytes."""

    encoding: float
    scoring: float
    scores: dict[str, float]
    peak_megabytes: float | None = None

    @property
    def seconds(self) -> float:
        return self.encoding + self.scoring


def ragged_blobs(shapes: int, side: int) -> Tensor:
    """Probabilities (shapes, M, M) of regions whose radius varies with the angle."""
    cells = torch.linspace(-1, 1, side)
    angle = torch.atan2(cells[:, None].expand(side, side), cells.expand(side, side))
    edge = torch.full((shapes, side, side), 0.8)
    for frequency in range(2, 30):
        amplitude, phase = torch.rand(2, shapes, 1, 1)
        edge += 0.25 / frequency * amplitude * torch.sin(frequency * angle + 2 * torch.pi * phase)
    return ((edge - (cells.square() + cells.square()[:, None]).sqrt()) * side / 4).sigmoid()


def predicted(exact: Tensor, side: int) -> Tensor:
    """Shapes (shapes, M, M) as a mask head might predict them, with errors: (shapes, side, side)."""
    blunders = F.interpolate(torch.randn(len(exact), 1, 14, 14), size=exact.shape[-2:], mode="bilinear")
    logits = torch.logit(exact, eps=1e-4)[:, None] + 2 * blunders
    return F.interpolate(logits.sigmoid(), size=(side, side), mode="area")[:, 0]


def make_up(folder: Path, images: int, masks: int, side: int) -> None:
    """Writes ground truth and the regions of all images, each with its shape's number, box, label and score."""
    torch.manual_seed(0)
    frequency = 1 / torch.arange(1, CATEGORIES + 1)  # few categories are frequent
    exact = ragged_blobs(SHAPES, 224)
    annotations: list[dict[str, Any]] = []
    found: dict[str, list[Tensor]] = {"shapes": [], "boxes": [], "labels": [], "scores": []}
    limits = torch.tensor([SIZE[1], SIZE[0]]).repeat(2)
    for image_id in range(1, images + 1):
        objects = 1 + int(torch.poisson(torch.tensor(OBJECTS - 1)))
        boxes, shapes = random_boxes(objects, SIZE), torch.randint(SHAPES, (objects,))
        labels = torch.multinomial(frequency, objects, replacement=True)
        for rle, label in zip(encode_regions(exact[shapes], boxes, SIZE), labels, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(label) + 1,
                    "segmentation": rle,
                    "area": int(coco_mask.area(rle)),
                    "bbox": coco_mask.toBbox(rle).tolist(),
                    "iscrowd": int(torch.rand(()) < 0.01),
                }
            )
        # Two thirds of the regions match an object, most of them with another label, as a detector has several guesses.
        source = torch.randint(objects, (masks,))
        astray = torch.rand(masks) < 1 / 3
        named = (torch.rand(masks) < 1 / 3) & ~astray
        sides = (boxes[:, 2:] - boxes[:, :2])[source].repeat(1, 2)
        moved = boxes[source] + 0.1 * torch.rand(masks, 1) * torch.randn(masks, 4) * sides
        moved = torch.where(astray[:, None], random_boxes(masks, SIZE), moved).clamp(torch.zeros(4), limits - 1)
        moved[:, 2:] = torch.maximum(moved[:, 2:], moved[:, :2] + 1)
        guesses = torch.multinomial(frequency, masks, replacement=True)
        found["shapes"].append(torch.where(astray, torch.randint(SHAPES, (masks,)), shapes[source]))
        found["boxes"].append(moved)
        found["labels"].append(torch.where(named, labels[source], guesses))
        found["scores"].append((torch.rand(masks) + named) / 2)
    content = {
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"category {i}"} for i in range(1, CATEGORIES + 1)],
    }
    (folder / TRUTH).write_text(json.dumps(content))
    regions = {key: torch.stack(values) for key, values in found.items()}
    torch.save({**regions, "region_masks": predicted(exact, side)}, folder / REGIONS)


def each_image(folder: Path, device: torch.device) -> Iterator[tuple[int, Tensor, Tensor, Tensor, Tensor]]:
    """Image ids with their region masks (R, M, M), boxes (R, 4), labels from 0 (R,) and scores (R,)."""
    regions = {key: value.to(device) for key, value in torch.load(folder / REGIONS, weights_only=True).items()}
    columns = (regions[key] for key in ("shapes", "boxes", "labels", "scores"))
    for image_id, (shapes, boxes, labels, scores) in enumerate(zip(*columns, strict=True), 1):
        yield image_id, regions["region_masks"][shapes], boxes, labels, scores


def write_results(folder: Path, device: torch.device) -> float:
    """Pastes and encodes the regions, writes them as COCO results, and returns the seconds of all but reading them."""
    encoding = 0.0
    with (folder / f"{OWN}.json").open("w") as stream:
        writer = ResultsWriter(stream)
        for image_id, masks, boxes, labels, scores in each_image(folder, device):
            start = time.perf_counter()
            results = coco_results(image_id, masks, boxes, scores, (labels + 1).tolist(), SIZE)
            writer.add(map(json.dumps, results))
            encoding += time.perf_counter() - start
        writer.close()
    return encoding


def own(folder: Path, device: torch.device) -> Outcome:
    encoding = write_results(folder, device)
    start = time.perf_counter()
    found = coco_ap(folder / TRUTH, folder / f"{OWN}.json")
    return Outcome(encoding, time.perf_counter() - start, found)


def detectron2(folder: Path, device: torch.device) -> Outcome:
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import COCOEvaluator
    from detectron2.layers.mask_ops import paste_masks_in_image
    from detectron2.structures import Boxes, Instances

    MetadataCatalog.get("made up").set(
        json_file=str(folder / TRUTH), thing_dataset_id_to_contiguous_id={i + 1: i for i in range(CATEGORIES)}
    )
    start = time.perf_counter()
    # COCOEvaluator reads the ground truth when it is built, so that counts as scoring.
    evaluator = COCOEvaluator(
        "made up", tasks=("segm",), distributed=False, output_dir=str(folder), use_fast_impl=False
    )
    evaluator.reset()
    scoring = time.perf_counter() - start
    encoding = 0.0
    for image_id, masks, boxes, labels, scores in each_image(folder, device):
        start = time.perf_counter()
        instances = Instances(
            SIZE,
            pred_boxes=Boxes(boxes),
            scores=scores,
            pred_classes=labels,
            pred_masks=paste_masks_in_image(masks, boxes, SIZE),
        )
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
        encoding += time.perf_counter() - start
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        found = evaluator.evaluate()["segm"]
    return Outcome(encoding, scoring + time.perf_counter() - start, dict(found))


SIDES: dict[str, Callable[[Path, torch.device], Outcome]] = {DETECTRON2: detectron2, OWN: own}


def run_side(name: str, folder: Path, device: torch.device) -> None:
    """Prints one side's outcome as JSON."""
    outcomes: list[Outcome] = []
    with torch.inference_mode():
        peak = peak_megabytes(lambda: outcomes.append(SIDES[name](folder, device)), device)
    print(json.dumps({**vars(outcomes[0]), "peak_megabytes": peak}))


def in_process(name: str, folder: Path, arguments: argparse.Namespace) -> Outcome:
    """One side's outcome in a process of its own."""
    options = ["--side", name, "--folder", str(folder), "--device", arguments.device]
    done = subprocess.run(
        [sys.executable, __file__, *options, "--threads", str(arguments.threads)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    options = parser(__doc__)
    options.set_defaults(repeats=1)
    options.add_argument("--images", type=positive, default=1000)
    options.add_argument("--masks", type=positive, default=100, help="per image")
    options.add_argument("--resolution", type=positive, default=224, help="of the region masks")
    options.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.side:
        run_side(arguments.side, arguments.folder, torch.device(arguments.device))
        return
    names = [name for name in SIDES if name == OWN or has_detectron2()]
    outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_up(folder, arguments.images, arguments.masks, arguments.resolution)
        for _ in range(arguments.repeats):
            for name in names:
                outcomes[name].append(in_process(name, folder, arguments))
        measurements = []
        for name, runs in outcomes.items():
            peaks = [run.peak_megabytes for run in runs if run.peak_megabytes is not None]
            seconds = [run.seconds for run in runs]
            measurements.append(
                Measurement(name, statistics.median(seconds), min(seconds), max(peaks) if peaks else None)
            )
            figures[name] = {
                "paste, encode s": statistics.median(run.encoding for run in runs),
                "score s": statistics.median(run.scoring for run in runs),
                "AP": runs[0].scores["AP"],
            }
        if DETECTRON2 in names:
            expected = outcomes[DETECTRON2][0].scores
            scores = coco_ap(folder / TRUTH, folder / "coco_instances_results.json")
            figures[OWN]["AP of detectron2's"] = scores["AP"]
            figures[OWN]["largest difference"] = float(np.nanmax([abs(scores[n] - expected[n]) for n in scores]))
    report(
        f"evaluation: {arguments.images} images x {arguments.masks} masks of "
        f"{arguments.resolution}x{arguments.resolution} on {SIZE[0]}x{SIZE[1]}, {arguments.device}, "
        f"{arguments.threads} threads",
        measurements,
        arguments.json,
        figures,
    )


if __name__ == "__main__":
    main()
