"""Segments image files and writes what was found: the work of ``pointrend predict``.

Shape letters: N images, R regions, M the side of a region mask, H W rows and columns.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pointrend.image_files import read_image, write_image
from pointrend.inputs import Input
from pointrend.instance import MaskRCNN
from pointrend.instance_inference import Detections
from pointrend.metadata import ClassInfo
from pointrend.overlays import draw_overlay
from pointrend.pixels import ImageFile
from pointrend.points import Size
from pointrend.regions import Instances, Segments, regions, to_tensor
from pointrend.results import CutOuts, LabelImage, coco_result, label_image, write_json
from pointrend.semantic import SemanticSegmenter
from pointrend.specs import Rendering
from pointrend.steps import draw_steps
from pointrend.tiles import label_images
from pointrend.transform import resize_image, resized_size

#: What can be written.
KINDS = ("overlays", "json", "labels", "cutouts")
#: The folders that are written below ``--out``.
FOLDERS = ("overlays", "labels", "cutouts", "points")
#: The largest images. Pixels, labels and pictures of a whole image are in memory; Pillow opens none above 179 million.
MAX_PIXELS = {"instance": 100_000_000, "semantic": 178_000_000}
#: Semantic models predict every pixel. Of larger images they do so tile by tile, in tiles with this many pixels a side.
MAX_PIXELS_AT_ONCE = 16_000_000
TILE = 2048


@dataclass(frozen=True)
class Settings:
    """How to predict, and what to show.

    Args:
        score: the lowest score of an object.
        shown: the classes to show, from 0.
        rendering: of instance models; None for the model's own.
        points_per_step: of semantic models; None for the model's own.
        batch: the most images in a batch. Only images of one size, in a row, share a batch, so that none depends on
            its neighbours.
        half: compute in half precision: float16 on GPUs, bfloat16 on CPUs.
        bits: see :func:`pointrend.image_files.read_image`.
        pixel_range: the same.
        show_points: draw the subdivision, step by step.
        tile: the side of semantic models' tiles in pixels; None for tiles of 2048 in images of more than 16 million
            pixels, and no tiles in others.
    """

    score: float
    shown: tuple[int, ...]
    rendering: Rendering | None = None
    points_per_step: int | None = None
    batch: int = 1
    half: bool = False
    bits: int | None = None
    show_points: bool = False
    tile: int | None = None
    pixel_range: tuple[float, float] | None = None

    def tile_side(self, size: Size) -> int | None:
        """The side of the tiles of an image of size (H, W) for a semantic model; None to predict it at once."""
        if self.tile is None:
            return TILE if size[0] * size[1] > MAX_PIXELS_AT_ONCE else None
        return self.tile if max(size) > self.tile else None


@dataclass
class Outcome:
    """What came of the images: how many were done, and in tiles, what was found, and the message of each failure."""

    done: int = 0
    tiled: int = 0
    regions: int = 0
    best_of_empty: list[float] = field(default_factory=list)  # for each image without an object to show
    failed: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def class_infos(model: MaskRCNN | SemanticSegmenter) -> tuple[ClassInfo, ...]:
    """The model's classes; where the weights do not name them, "class 1", "class 2", ... with ids from 1."""
    assert model.metadata is not None
    known = model.metadata.classes
    return known or tuple(ClassInfo(n, f"class {n}") for n in range(1, model.metadata.spec.num_classes + 1))


def choose_classes(classes: Sequence[ClassInfo], names: Sequence[str] | None) -> tuple[int, ...]:
    """The indices of the classes of some names; of all for None.

    Raises:
        ValueError: for a name that no class has.
    """
    if names is None:
        return tuple(range(len(classes)))
    known_names = [known.name for known in classes]
    if not any(names):
        raise ValueError(f"no class is named at all; the model's classes are {', '.join(known_names)}")
    if unknown := [name for name in names if name not in known_names]:
        raise ValueError(f"no class is named {', '.join(unknown)}; the model's classes are {', '.join(known_names)}")
    return tuple(index for index, name in enumerate(known_names) if name in names)


def autocast(device: torch.device, half: bool) -> AbstractContextManager[Any]:
    """Half precision for a block: float16 on GPUs, bfloat16 on CPUs; nothing if it is off."""
    if not half:
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.float16 if device.type == "cuda" else torch.bfloat16)


def network_input(model: MaskRCNN, pixels: np.ndarray) -> Tensor:
    """An image uint8 (H, W, 3) on the model's device, at the size that the network computes at.

    The model would resize it just so itself; here the large one is not kept while the network runs.
    """
    image = to_tensor(pixels).to(next(model.parameters()).device)
    shorter, longest = model.transform.min_size, model.transform.max_size
    assert shorter is not None
    assert longest is not None
    return resize_image(image, resized_size((image.shape[-2], image.shape[-1]), shorter, longest))


@torch.inference_mode()
def find(
    model: MaskRCNN | SemanticSegmenter, batch: Sequence[np.ndarray], settings: Settings
) -> list[Instances | Segments]:
    """What a model finds in images uint8 (H, W, 3) of one size; masks only of what is shown."""
    sizes = [(pixels.shape[0], pixels.shape[1]) for pixels in batch]
    with autocast(next(model.parameters()).device, settings.half):
        if isinstance(model, SemanticSegmenter):
            labels = label_images(model, batch, settings.tile_side(sizes[0]), settings.points_per_step)
            return [Segments(sizes[0], image, settings.shown) for image in labels]
        detections = model.detect([network_input(model, pixels) for pixels in batch])
        detections.original_sizes = sizes
        best = [_best_score(*found, settings) for found in zip(detections.labels, detections.scores, strict=True)]
        keep_shown(detections, settings)
        masks = model.region_masks(detections, settings.rendering)
    found = zip(
        detections.original_sizes,
        detections.original_boxes(),
        detections.labels,
        detections.scores,
        masks,
        best,
        strict=True,
    )
    return [Instances(s, b.cpu(), k.cpu() - 1, p.float().cpu(), m[:, 0].cpu(), best) for s, b, k, p, m, best in found]


def _best_score(labels: Tensor, scores: Tensor, settings: Settings) -> float:
    """The best score (R,) of the shown classes, whatever the lowest one to show; 0 if there is none."""
    of_shown = scores[torch.isin(labels, torch.tensor(settings.shown, device=labels.device) + 1)]
    return float(of_shown.max()) if len(of_shown) else 0.0


def keep_shown(detections: Detections, settings: Settings) -> None:
    """Leaves out detections of other classes or lower scores than are shown, in place."""
    for index, (labels, scores) in enumerate(zip(detections.labels, detections.scores, strict=True)):
        shown = torch.tensor(settings.shown, device=labels.device) + 1
        kept = (scores >= settings.score) & torch.isin(labels, shown)
        detections.boxes[index] = detections.boxes[index][kept]
        detections.labels[index], detections.scores[index] = labels[kept], scores[kept]


class Writer:
    """Writes the chosen kinds of files for each image, and at the end the JSON of all of them."""

    def __init__(self, folder: Path, kinds: Sequence[str], classes: Sequence[ClassInfo]) -> None:
        self.folder, self.kinds, self.classes = folder, kinds, classes
        self.results: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []

    def write(self, source: Input, pixels: Any, found: Instances | Segments) -> int:
        """Writes what was found in one image, and returns the number of regions."""
        image_id = len(self.images) + 1
        semantic = isinstance(found, Segments)
        results, count = [], 0
        cutouts = CutOuts(pixels, self.folder / "cutouts" / source.name) if "cutouts" in self.kinds else None
        labels = self._label_image(found) if "labels" in self.kinds else None
        try:
            for region in regions(found):
                count += 1
                if "json" in self.kinds:
                    results.append(coco_result(image_id, region, self.classes, found.size))
                if labels is not None:
                    labels.add(region, self.classes[region.class_index].id if semantic else region.index + 1)
                if cutouts is not None:
                    cutouts.add(region, self.classes)
            if labels is not None:
                write_image(labels.pixels, self.folder / "labels" / f"{source.name}.png")
            if "overlays" in self.kinds:
                write_image(draw_overlay(pixels, found, self.classes), self.folder / "overlays" / f"{source.name}.jpg")
        except BaseException:
            if cutouts is not None:
                cutouts.close(keep=False)
            raise
        if cutouts is not None:
            cutouts.close(keep=True)
        height, width = found.size
        self.images.append({"id": image_id, "file_name": str(source.path), "height": height, "width": width})
        self.results += results if semantic else reversed(results)  # objects best first
        return count

    def _label_image(self, found: Instances | Segments) -> LabelImage:
        if isinstance(found, Instances):
            return LabelImage(found.size, len(found.boxes))
        return label_image(found, self.classes)

    def close(self) -> None:
        """Writes ``predictions.json``, COCO's results, and ``images.json``, whose ids they use; unless all failed."""
        if "json" in self.kinds and self.images:
            categories = [{"id": known.id, "name": known.name} for known in self.classes]
            described = {"images": self.images, "annotations": [], "categories": categories}
            write_json(described, self.folder / "images.json")
            write_json(self.results, self.folder / "predictions.json")


def _read_ahead(sources: Sequence[Input], settings: Settings, max_pixels: int) -> Iterator[tuple[Input, Any]]:
    """Inputs with their images, or the error; the next one is read while one is in use."""

    def read(source: Input) -> ImageFile | Exception:
        try:
            limits = settings.pixel_range
            return read_image(source.path, bits=settings.bits, pixel_range=limits, max_pixels=max_pixels)
        except (OSError, ValueError, MemoryError) as error:
            return error

    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(read, sources[0])
        for source, following in zip(sources, [*sources[1:], None], strict=True):
            image = pending.result()
            if following is not None:
                pending = pool.submit(read, following)
            yield source, image


def _write_steps(
    model: MaskRCNN | SemanticSegmenter, source: Input, image: ImageFile, settings: Settings, folder: Path
) -> None:
    on_device = to_tensor(image.pixels).to(next(model.parameters()).device)
    rendering, points = settings.rendering, settings.points_per_step
    drawn = draw_steps(model, on_device, image.pixels, lambda found: keep_shown(found, settings), rendering, points)
    if drawn is not None:
        write_image(drawn, folder / "points" / f"{source.name}.png")


def predict_files(
    model: MaskRCNN | SemanticSegmenter,
    sources: Sequence[Input],
    settings: Settings,
    writer: Writer,
    on_image: Callable[[], None] = lambda: None,
) -> Outcome:
    """Segments image files and writes what was found. An image that fails does not stop the others.

    Args:
        model: in evaluation mode.
        sources: the images, at least one.
        settings: how to predict.
        writer: what to write, and where.
        on_image: called after each image.
    """
    outcome = Outcome()
    waiting: list[tuple[Input, ImageFile]] = []
    semantic = isinstance(model, SemanticSegmenter)
    limit = MAX_PIXELS["semantic" if semantic else "instance"]

    def segment(batch: Sequence[tuple[Input, ImageFile]]) -> None:
        try:
            found = find(model, [image.pixels for _, image in batch], settings)
        except (ValueError, RuntimeError, MemoryError) as error:
            if len(batch) > 1:  # so that one image, or too little memory for all, does not fail the others
                for one in batch:
                    segment([one])
                return
            reason = (str(error) or type(error).__name__).splitlines()[0]
            outcome.failed.append(f"{batch[0][0].path}: could not be segmented ({reason})")
            on_image()
            return
        for (source, image), found_here in zip(batch, found, strict=True):
            try:
                if settings.show_points:
                    _write_steps(model, source, image, settings, writer.folder)
                outcome.regions += writer.write(source, image.pixels, found_here)
                if isinstance(found_here, Instances) and not len(found_here.scores):
                    outcome.best_of_empty.append(found_here.best_score)
                outcome.done += 1
                outcome.tiled += semantic and settings.tile_side(found_here.size) is not None
            except (OSError, ValueError, MemoryError) as error:
                outcome.failed.append(f"{source.path}: could not be written ({error})")
            on_image()

    def flush() -> None:
        if waiting:
            batch, waiting[:] = list(waiting), []
            segment(batch)

    for source, image in _read_ahead(sources, settings, limit):
        if isinstance(image, Exception):
            outcome.failed.append(str(image) or f"{source.path}: {type(image).__name__}")
            on_image()
            continue
        outcome.remarks += [f"{source.path}: read {remark}" for remark in image.remarks]
        if semantic and settings.show_points and settings.tile_side(image.pixels.shape[:2]):
            outcome.failed.append(
                f"{source.path}: is predicted in tiles, so its subdivision cannot be drawn; leave out --show-points"
            )
            on_image()
            continue
        if waiting and waiting[0][1].pixels.shape != image.pixels.shape:
            flush()
        waiting.append((source, image))
        if len(waiting) == settings.batch:
            flush()
    flush()
    writer.close()
    return outcome
