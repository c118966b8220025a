"""Predictions of instance models: one detector pass per image, every setting of the run rendered from it.

Shape letters: R regions, M the side of a region mask, H W rows and columns of an image.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from pipeline.config.evaluations import EvaluationConfig, RenderingConfig
from pipeline.data.coco import Category
from pipeline.data.dataset import EvaluationImages
from pipeline.errors import UserError
from pipeline.evaluation.chunks import prefetched
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


@torch.inference_mode()
def predict_image(
    model: MaskRCNN, image_id: int, image: Tensor, settings: Mapping[str, RenderingConfig], categories: list[Category]
) -> dict[str, list[dict[str, Any]]]:
    """COCO results of one image (3, H, W) under each setting, from one detector pass."""
    found = model.detect([image])
    boxes, size = found.original_boxes()[0], found.original_sizes[0]
    category_ids = [categories[label - 1].id for label in found.labels[0].tolist()]
    return {
        name: coco_results(
            image_id,
            model.region_masks(found, setting.build())[0][:, 0],
            boxes,
            found.scores[0],
            category_ids,
            size,
        )
        for name, setting in settings.items()
    }


class IncompletePredictionsError(UserError):
    """Predictions that lack an image, or have one twice."""


class ResultsWriter:
    """A COCO results file, written as the results come: memory does not grow with the number of images."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self._first = stream, True
        stream.write("[")

    def add(self, results: Iterable[str]) -> None:
        """Writes results, each encoded as JSON."""
        for result in results:
            self._stream.write(("\n" if self._first else ",\n") + result)
            self._first = False

    def close(self) -> None:
        self._stream.write("\n]\n")


def _part_file(folder: Path, setting: str) -> Path:
    return folder / f"{setting}.jsonl"


class InstancePredictor:
    """A run's predictions, a chunk of images at a time, for :func:`pipeline.cluster.prediction.predict_in_chunks`.

    Args:
        run: the run.
        settings: its evaluations.
        device: where to predict.
    """

    def __init__(self, run: TrainedRun, settings: EvaluationConfig, device: torch.device) -> None:
        model = run.model(device)
        assert isinstance(model, MaskRCNN)  # the configuration allows no other for these settings
        dataset = run.dataset()
        self._model, self._settings, self._device = model, settings.all_of(RenderingConfig), device
        self._images, self._categories = EvaluationImages(dataset, run.images), dataset.categories

    def __call__(self, chunk: range, folder: Path) -> None:
        """Writes one file for each setting, with a line for each image: its id, then its results, a tab before each."""
        with ExitStack() as stack:
            files = {
                name: stack.enter_context(_part_file(folder, name).open("w", encoding="utf-8"))
                for name in self._settings
            }
            for image_id, image in prefetched(self._images, chunk):
                found = predict_image(self._model, image_id, image.to(self._device), self._settings, self._categories)
                for name, results in found.items():
                    # JSON has no tabs of its own.
                    files[name].write("\t".join([str(image_id), *map(json.dumps, results)]) + "\n")


def merge_predictions(parts: Iterable[Path], setting: str, image_ids: Iterable[int], path: Path) -> None:
    """Writes the COCO results file of a setting; memory does not grow with the number of images.

    Args:
        parts: the folders that :class:`InstancePredictor` has filled, in the order of the images.
        setting: the evaluation.
        image_ids: the images that must be there, in order.
        path: the file.

    Raises:
        IncompletePredictionsError: unless every image is there exactly once.
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
