"""Predictions of instance models: one detector pass per image, from which every evaluation setting is rendered.

Shape letters: R regions, M the side of a region mask, H W rows and columns of an image.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from pipeline.config.evaluations import EvaluationConfig, RenderingConfig
from pipeline.data.coco import Category
from pipeline.data.dataset import EvaluationImages
from pipeline.evaluation.chunks import Predict, predict_images
from pipeline.evaluation.outputs import IncompletePredictionsError
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.files import atomic_file
from pointrend.instance import MaskRCNN
from pointrend.paste import mask_runs
from pointrend.points import Size


def encode_regions(region_masks: Tensor, boxes: Tensor, size: Size) -> list[dict[str, Any]]:
    """Region masks (R, M, M) in boxes (R, 4) as the RLEs of binary masks on the image's pixels (H, W)."""
    runs = [{"size": list(size), "counts": runs.numpy()} for runs in mask_runs(region_masks, boxes, size)]
    return [{"size": list(size), "counts": coco_mask.frPyObjects(rle, *size)["counts"].decode("ascii")} for rle in runs]


def coco_results(
    image_id: int, region_masks: Tensor, boxes: Tensor, scores: Tensor, category_ids: Sequence[int], size: Size
) -> list[dict[str, Any]]:
    """COCO results of one image (H, W) from region masks (R, M, M), boxes (R, 4) xyxy and scores (R,)."""
    return [
        {
            "image_id": image_id,
            "category_id": category_id,
            "bbox": [round(v, 3) for v in (x0, y0, x1 - x0, y1 - y0)],
            "score": score,
            "segmentation": rle,
        }
        for (x0, y0, x1, y1), score, category_id, rle in zip(
            boxes.tolist(), scores.tolist(), category_ids, encode_regions(region_masks, boxes, size), strict=True
        )
    ]


class Regions(NamedTuple):
    """A model's detections in one image of size (H, W), on the CPU."""

    boxes: Tensor  # (R, 4) xyxy in pixels of the image
    scores: Tensor  # (R,)
    labels: Tensor  # (R,) from 1
    size: Size
    masks: dict[str, Tensor]  # (R, M, M) probabilities by setting


@torch.inference_mode()
def predict_regions(model: MaskRCNN, image: Tensor, settings: Mapping[str, RenderingConfig]) -> Regions:
    """The detections in an image (3, H, W), with masks rendered under each setting from one detector pass."""
    found = model.detect([image])
    masks = {name: model.region_masks(found, setting.build())[0][:, 0].cpu() for name, setting in settings.items()}
    boxes, scores, labels = found.original_boxes()[0], found.scores[0], found.labels[0]
    return Regions(boxes.cpu(), scores.cpu(), labels.cpu(), found.original_sizes[0], masks)


@torch.inference_mode()
def encode_results(image_id: int, found: Regions, categories: list[Category]) -> dict[str, list[dict[str, Any]]]:
    """The COCO results of one image under each setting."""
    category_ids = [categories[label - 1].id for label in found.labels.tolist()]
    return {
        name: coco_results(image_id, masks, found.boxes, found.scores, category_ids, found.size)
        for name, masks in found.masks.items()
    }


class ResultsWriter:
    """Writes a COCO results file result by result: memory does not grow with the number of images."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self._first = stream, True
        stream.write("[")

    def add(self, results: Iterable[str]) -> None:
        """Writes results, each of them a JSON object as text."""
        for result in results:
            self._stream.write(("\n" if self._first else ",\n") + result)
            self._first = False

    def close(self) -> None:
        self._stream.write("\n]\n")


def _part_file(folder: Path, setting: str) -> Path:
    return folder / f"{setting}.jsonl"


def instance_predictor(run: TrainedRun, settings: EvaluationConfig, device: torch.device) -> Predict:
    """Loads an instance model, and returns the function that predicts a chunk of images.

    The function writes one file per setting with one line per image: its id and its results as JSON, separated by tabs.
    """
    model, dataset, renderings = run.model(device), run.dataset(), settings.all_of(RenderingConfig)
    assert isinstance(model, MaskRCNN)  # the configuration allows no other for these settings
    images, precision = EvaluationImages(dataset, run.images), run.config.schedule.precision

    def predict_chunk(chunk: range, folder: Path) -> None:
        with ExitStack() as stack:
            files = {
                name: stack.enter_context(_part_file(folder, name).open("w", encoding="utf-8")) for name in renderings
            }

            def write(image_id: int, found: Regions) -> None:
                for name, results in encode_results(image_id, found, dataset.categories).items():
                    # Tabs can separate the results, because `json.dumps` writes none.
                    files[name].write("\t".join([str(image_id), *map(json.dumps, results)]) + "\n")

            predict_images(
                images, chunk, device, precision, lambda image: predict_regions(model, image, renderings), write
            )

    return predict_chunk


def merge_predictions(parts: Iterable[Path], setting: str, image_ids: Iterable[int], path: Path) -> None:
    """Writes the COCO results file of a setting; memory does not grow with the number of images.

    Args:
        parts: the folders that an :func:`instance_predictor` has written, in the order of the images.
        setting: the evaluation setting.
        image_ids: the ids of all images, in order.
        path: the file to write.

    Raises:
        IncompletePredictionsError: if an image is missing, there twice or out of order.
    """
    expected = iter(image_ids)
    with atomic_file(path) as stream:
        writer = ResultsWriter(stream)
        for part in parts:
            with _part_file(part, setting).open(encoding="utf-8") as lines:
                for line in lines:
                    image_id, *results = line.rstrip("\n").split("\t")
                    if image_id != str(awaited := next(expected, None)):
                        raise IncompletePredictionsError(f"{part}, {setting}: image {image_id}, expected {awaited}")
                    writer.add(results)
        if (awaited := next(expected, None)) is not None:
            raise IncompletePredictionsError(f"{path.name}: no predictions for image {awaited} and those after it")
        writer.close()
