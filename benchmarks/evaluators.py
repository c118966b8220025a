"""Scoring COCO results: this project's evaluators beside faster-coco-eval and pycocotools.

    python benchmarks/evaluators.py --images 100

The same files of made-up masks are scored by COCO's mask AP, boundary AP and LVIS's federated rules (AP*), each
evaluator in a process of its own, files read included. Printed are seconds, peak memory, AP, and the largest difference
of AP, AP50, AP75, APs, APm and APl from the baseline: pycocotools for mask AP, this project for the others, whose LVIS
rules are those of the lvis package. Needs `pip install faster-coco-eval`.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluation import OWN, TRUTH, make_up, write_results
from measure import Measurement, parser, peak_megabytes, positive, report

from pipeline.metrics.boundary_ap import boundary_ap
from pipeline.metrics.coco_ap import coco_ap
from pipeline.metrics.lvis_ap import STATISTICS, ap_star
from pipeline.metrics.lvis_api import MAX_DETECTIONS as LVIS_DETECTIONS

FASTER, PYCOCOTOOLS = "faster-coco-eval", "pycocotools"
RESULTS, FEDERATED = f"{OWN}.json", "federated.json"
RESAMPLES = 1000

Scores = dict[str, float]


def make_federated(folder: Path) -> None:
    """Writes the ground truth in LVIS's format: each image names categories that are absent, or not all annotated."""
    truth = json.loads((folder / TRUTH).read_text())
    draw = random.Random(0)
    present: dict[int, set[int]] = {image["id"]: set() for image in truth["images"]}
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = 0
        present[annotation["image_id"]].add(annotation["category_id"])
    categories = [category["id"] for category in truth["categories"]]
    for image in truth["images"]:
        there = present[image["id"]]
        image["neg_category_ids"] = sorted(draw.sample([each for each in categories if each not in there], 20))
        image["not_exhaustive_category_ids"] = sorted(each for each in there if draw.random() < 0.1)
    for category in truth["categories"]:
        category |= {"synset": f"category.n.{category['id']:02d}", "frequency": "f"}
    truth["synsets"] = [{key: category[key] for key in ("id", "name", "synset")} for category in truth["categories"]]
    (folder / FEDERATED).write_text(json.dumps(truth))


def drop_boxes(folder: Path) -> None:
    """Leaves the masks alone in the results, as Detectron2 does: pycocotools would take the areas of the boxes."""
    results = json.loads((folder / RESULTS).read_text())
    for result in results:
        result.pop("bbox", None)
    (folder / RESULTS).write_text(json.dumps(results))


def faster(folder: Path, kind: str, workers: int) -> Scores:
    from faster_coco_eval import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    federated = kind == "AP*"
    truth = COCO(str(folder / (FEDERATED if federated else TRUTH)))
    evaluation = COCOeval_faster(
        truth,
        truth.loadRes(str(folder / RESULTS)),
        "boundary" if kind == "boundary AP" else "segm",
        lvis_style=federated,
        boundary_cpu_count=workers,
        rle_iou_max_workers=workers,
    )
    if federated:
        evaluation.params.maxDets = [LVIS_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    return averages(evaluation)


def pycocotools(folder: Path, kind: str, workers: int) -> Scores:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO(str(folder / TRUTH))
    evaluation = COCOeval(truth, truth.loadRes(str(folder / RESULTS)), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    return averages(evaluation)


def averages(evaluation: Any) -> Scores:
    """The statistics in percent from the precision (T, R, K, A, M) that both packages keep."""
    precision, thresholds = evaluation.eval["precision"], np.asarray(evaluation.params.iouThrs)
    areas = evaluation.params.areaRngLbl
    scores = {}
    for name, (iou, area) in STATISTICS.items():
        at = slice(None) if iou is None else np.isclose(thresholds, iou)
        chosen = precision[at, :, :, areas.index(area), -1]
        scores[name] = 100 * float(chosen[chosen > -1].mean())
    return scores


def own(folder: Path, kind: str, workers: int, resamples: int = 0) -> Scores:
    score: Callable[..., Scores] = {"AP": coco_ap, "boundary AP": boundary_ap, "AP*": ap_star}[kind]
    found = score(folder / (FEDERATED if kind == "AP*" else TRUTH), folder / RESULTS, resamples=resamples)
    return {name: found[name] for name in STATISTICS}


def with_intervals(folder: Path, kind: str, workers: int) -> Scores:
    return own(folder, kind, workers, RESAMPLES)


INTERVALS = f"{OWN}, {RESAMPLES} resamples"
EVALUATORS: dict[str, Callable[[Path, str, int], Scores]] = {
    PYCOCOTOOLS: pycocotools,
    OWN: own,
    INTERVALS: with_intervals,
    FASTER: faster,
}
#: The evaluators of each metric, the baseline first.
METRICS = {
    "AP": (PYCOCOTOOLS, OWN, INTERVALS, FASTER),
    "boundary AP": (OWN, INTERVALS, FASTER),
    "AP*": (OWN, INTERVALS, FASTER),
}


def run(name: str, kind: str, folder: Path, workers: int) -> None:
    """Prints one evaluator's scores, seconds and peak memory as JSON."""
    scores: Scores = {}

    def score() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            scores.update(EVALUATORS[name](folder, kind, workers))

    start = time.perf_counter()
    peak = peak_megabytes(score, torch.device("cpu"))
    print(json.dumps({"scores": scores, "seconds": time.perf_counter() - start, "peak": peak}))


def in_process(name: str, kind: str, folder: Path, threads: int) -> dict[str, Any]:
    options = ["--evaluator", name, "--metric", kind, "--folder", str(folder), "--threads", str(threads)]
    command = [sys.executable, __file__, *options]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def compare(kind: str, folder: Path, arguments: argparse.Namespace) -> None:
    """Measures the evaluators of one metric in turn and prints their table."""
    baseline, *_ = names = [name for name in METRICS[kind] if name != FASTER or arguments.faster]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(arguments.repeats):
        for name in names:
            runs[name].append(in_process(name, kind, folder, arguments.threads))
    expected = runs[baseline][0]["scores"]
    measurements, figures = [], {}
    for name, found in runs.items():
        seconds, peaks = [one["seconds"] for one in found], [one["peak"] for one in found if one["peak"] is not None]
        measurements.append(Measurement(name, statistics.median(seconds), min(seconds), max(peaks) if peaks else None))
        scores = found[0]["scores"]
        figures[name] = {
            "AP": scores["AP"],
            "largest difference": max(abs(scores[key] - expected[key]) for key in expected),
        }
    title = f"{kind}: {arguments.images} images x {arguments.masks} masks, {arguments.threads} threads"
    report(title, measurements, arguments.json, figures, baseline)


def main() -> None:
    options = parser(__doc__)
    options.set_defaults(repeats=1)
    options.add_argument("--images", type=positive, default=1000)
    options.add_argument("--masks", type=positive, default=100, help="per image")
    options.add_argument("--resolution", type=positive, default=224, help="of the region masks")
    options.add_argument("--metric", choices=METRICS, help="compare this metric alone")
    options.add_argument("--evaluator", choices=EVALUATORS, help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.evaluator:
        run(arguments.evaluator, arguments.metric, arguments.folder, arguments.threads)
        return
    arguments.faster = importlib.util.find_spec("faster_coco_eval") is not None
    if not arguments.faster:
        print(f"without {FASTER}, which is not installed: pip install {FASTER}", file=sys.stderr)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with torch.inference_mode():
            make_up(folder, arguments.images, arguments.masks, arguments.resolution)
            write_results(folder, torch.device("cpu"))
        drop_boxes(folder)
        make_federated(folder)
        for kind in METRICS if arguments.metric is None else (arguments.metric,):
            compare(kind, folder, arguments)


if __name__ == "__main__":
    main()
