"""A seeded synthetic dataset in place of COCO and LVIS: textured, crisp-edged, overlapping shapes with instance masks.

Outlines carry detail that a 28x28 grid over their box cannot hold (spikes, teeth, stems) and that a network can see in
the image. The category is in the shape alone: colours and textures are drawn independently of it.

The paper measures AP* beside AP because COCO's polygons are coarse and LVIS's masks are precise (Section 4.1). The same
images therefore have both kinds of annotations here.

Shape letters: H W rows and columns of an image, R regions (objects) in it, P points of an outline, with points and
rings as in :mod:`pipeline.synthetic.drawing`.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

from pipeline.files import atomic_folder
from pipeline.synthetic.drawing import coverage, polar, signed_area, smooth_noise, turn
from pipeline.synthetic.federated import annotate_federatedly, lvis_categories
from pipeline.synthetic.outlines import mask_polygons
from pipeline.synthetic.splits import MAX_IMAGES, SPLITS, check_ranges, draw_images, split_number

CATEGORIES: tuple[str, ...] = ("star", "gear", "ring", "blob", "leaf")

MIN_VISIBLE = 0.4  # of an object's whole area, hidden and out-of-image parts included
MIN_AREA = 60  # visible pixels of an object
PLACEMENT_ATTEMPTS = 12  # tries to place an object before it is left out of a crowded image
MAX_OBJECTS = 99


@dataclass(frozen=True)
class ShapesSpec:
    """The parameters of the dataset; raises ValueError naming the field that is out of range."""

    train_images: int
    val_images: int
    image_size: int = 192
    """The longer side in pixels; the shorter one is 0.8 to 1 times that."""
    max_objects: int = 4
    polygon_tolerance: float = 1.0
    """How far, in pixels, an annotated polygon may stray from the outline of the exact mask."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(
            self,
            {
                "train_images": (1, MAX_IMAGES),
                "val_images": (1, MAX_IMAGES),
                "image_size": (64, 4096),
                "max_objects": (1, MAX_OBJECTS),
                "polygon_tolerance": (0, self.image_size / 20),
                "seed": (0, math.inf),
            },
        )


@dataclass(frozen=True)
class Scene:
    """One image and its objects, back to front."""

    image: np.ndarray
    """(H, W, 3) uint8, RGB."""
    masks: np.ndarray
    """(R, H, W) bool, the visible part of each object; no two overlap."""
    labels: list[int]
    """(R,) category ids: index into CATEGORIES plus 1."""
    areas: list[float]
    """(R,) area in pixels of each whole object, hidden and out-of-image parts included."""
    holes: np.ndarray
    """(Q, H, W) bool, the visible part of each hole through an object, whatever is seen in it."""


# Outlines: rings within the unit circle


def _star(rng: np.random.Generator) -> list[np.ndarray]:
    spikes = int(rng.integers(5, 10))
    radius = np.empty(2 * spikes)
    radius[0::2] = rng.uniform(0.75, 1.0, spikes)
    radius[1::2] = rng.uniform(0.25, 0.42)
    jitter = rng.uniform(-0.12, 0.12, 2 * spikes) * np.pi / spikes
    return [polar(radius, turn(2 * spikes) + jitter)]


def _gear(rng: np.random.Generator) -> list[np.ndarray]:
    teeth, depth = rng.integers(8, 16), rng.uniform(0.16, 0.28)
    angle = turn(480)
    wave = np.abs((angle * teeth / np.pi) % 2 - 1)  # 0 to 1 and back once a tooth
    profile = np.clip(0.5 + rng.uniform(3, 6) * (wave - rng.uniform(0.42, 0.58)), 0, 1)
    gear = [polar(1 - depth + depth * profile, angle)]
    if rng.random() < 0.6:
        gear.append(polar(rng.uniform(0.2, 0.45), turn(48)))
    return gear


def _ring(rng: np.random.Generator) -> list[np.ndarray]:
    hole = rng.uniform(0.5, 0.75)
    offset = polar(rng.uniform(0, 0.5) * (1 - hole), rng.uniform(0, 2 * np.pi, 1))
    return [polar(1.0, turn(96)), offset + polar(hole, turn(72))]


def _blob(rng: np.random.Generator) -> list[np.ndarray]:
    angle, frequency = turn(160)[:, None], np.arange(2, 6)
    amplitude = rng.uniform(0, 0.5, 4) / frequency
    radius = 1 + (amplitude * np.cos(frequency * angle + rng.uniform(0, 2 * np.pi, 4))).sum(axis=1)
    return [polar(radius / radius.max(), angle[:, 0])]


def _leaf(rng: np.random.Generator) -> list[np.ndarray]:
    """A blade with a serrated, lobed or notched margin on a thin curved stem, mirrored about its midrib."""
    stem = rng.uniform(0.25, 0.5)  # of the blade's length
    along = np.linspace(-stem, 1, 240)  # from the stem's foot to the tip
    blade = np.clip(along, 0, 1)
    width = rng.uniform(0.28, 0.45) * np.sin(np.pi * blade ** rng.uniform(0.6, 1.0)) ** rng.uniform(0.7, 1.1)
    margin = rng.choice(["serrated", "lobed", "notched"])
    phase = blade * rng.integers(3, 7)
    if margin == "serrated":
        width = width * (1 - 0.35 * (2 * phase % 1))
    elif margin == "lobed":
        width = width * (0.6 + 0.4 * np.abs(np.sin(np.pi * phase)))
    else:
        width = width * np.where(np.abs(phase % 1 - 0.5) < 0.11, 0.2, 1)
    width = np.maximum(width, rng.uniform(0.02, 0.035) * (along < 0.9))
    # Margins lean towards the tip, as side veins do, and the midrib bends.
    midrib = rng.uniform(-0.25, 0.25) * (along - 0.3) ** 2
    right = np.stack([midrib + width, along + 0.35 * width], axis=1)
    left = np.stack([midrib - width, along + 0.35 * width], axis=1)
    leaf = np.concatenate([right, left[::-1]])
    leaf -= (leaf.min(axis=0) + leaf.max(axis=0)) / 2
    return [leaf / np.linalg.norm(leaf, axis=1).max()]


_OUTLINES = dict(zip(CATEGORIES, (_star, _gear, _ring, _blob, _leaf), strict=True))


def _draw_shape(rng: np.random.Generator, category: str, height: int, width: int) -> list[np.ndarray]:
    """A random outline of the category, stretched, rotated and put into an image of height x width pixels."""
    side = min(height, width)
    small = rng.random() < 0.15
    radius = side * (rng.uniform(0.11, 0.15) if small else rng.uniform(0.16, 0.33))
    stretch = np.array([1.0, rng.uniform(0.7, 1.0)])
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = rng.uniform(0.7 * radius, np.array([width, height]) - 0.7 * radius)
    return [centre + radius * (ring * stretch) @ rotation for ring in _OUTLINES[category](rng)]


# Scenes


@dataclass
class _Placement:
    """Objects placed so far; masks, labels, areas and holes as in `Scene`."""

    alphas: np.ndarray
    """(R, H, W) float32 in [0, 1]."""
    masks: np.ndarray
    holes: np.ndarray
    labels: list[int] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)


def _place_objects(rng: np.random.Generator, count: int, height: int, width: int) -> _Placement:
    """Up to `count` objects, each in front of those before it and leaving enough of them visible."""
    none = np.zeros((0, height, width), dtype=bool)
    placed = _Placement(none.astype(np.float32), none, none)
    for _ in range(count):
        label = int(rng.integers(len(CATEGORIES)))
        for _ in range(PLACEMENT_ATTEMPTS):
            outline, *holes = _draw_shape(rng, CATEGORIES[label], height, width)
            alpha = coverage([outline, *holes], height, width)
            area = abs(signed_area(outline)) - sum(abs(signed_area(hole)) for hole in holes)
            masks_with_it = np.concatenate([placed.masks & (alpha < 0.5), alpha[None] >= 0.5])
            needed = np.maximum(MIN_AREA, MIN_VISIBLE * np.array([*placed.areas, area]))
            if (masks_with_it.sum(axis=(1, 2)) >= needed).all():
                placed.alphas, placed.masks = np.concatenate([placed.alphas, alpha[None]]), masks_with_it
                through = [coverage([hole], height, width)[None] > 0.5 for hole in holes]
                placed.holes = np.concatenate([placed.holes & (alpha < 0.5), *through])
                placed.labels.append(label + 1)
                placed.areas.append(area)
                break
    return placed


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A pattern (H, W) in [-1, 1]: stripes, checks, cloudy noise or a gradient."""
    angle, period = rng.uniform(0, np.pi), min(height, width) * rng.uniform(0.03, 0.1)
    y, x = np.mgrid[:height, :width]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kind = rng.choice(["stripes", "checks", "noise", "gradient"])
    if kind == "stripes":
        return np.tanh(3 * np.sin(2 * np.pi * along / period))
    if kind == "checks":
        return np.tanh(6 * np.sin(np.pi * along / period) * np.sin(np.pi * across / period))
    if kind == "noise":
        return smooth_noise(rng, height, width, period)
    return np.interp(along, (along.min(), along.max()), (-1, 1))


def _distinct_colour(rng: np.random.Generator, others: list[np.ndarray]) -> np.ndarray:
    """The one of a few random colours (3,) in [0, 255] that is farthest from all the others."""
    candidates = rng.uniform(35, 220, (6, 3)).astype(np.float32)
    gaps = [np.linalg.norm(candidates - other, axis=1) for other in others]
    return candidates[np.argmax(np.min(gaps, axis=0))] if gaps else candidates[0]


def _paint(rng: np.random.Generator, alphas: np.ndarray) -> np.ndarray:
    """The image (H, W, 3) uint8 of a background and the objects with alphas (R, H, W), back to front."""
    height, width = alphas.shape[1:]
    colours: list[np.ndarray] = []
    image = np.zeros((3, height, width), dtype=np.float32)
    for alpha in [np.ones((height, width), dtype=np.float32), *alphas]:
        colours.append(_distinct_colour(rng, colours))
        contrast = rng.uniform(10, 26) + rng.uniform(-8, 8, (3, 1, 1)).astype(np.float32)
        layer = colours[-1][:, None, None] + contrast * _texture(rng, height, width)
        image += alpha * (layer - image)
    image += 2.5 * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8).transpose(1, 2, 0)


def render_scene(spec: ShapesSpec, split: str, index: int) -> Scene:
    """Image `index` of a split; depends on the spec's sizes, its seed, the split and the index only."""
    rng = np.random.default_rng([spec.seed, split_number(split), index])
    shape = [spec.image_size, round(spec.image_size * rng.uniform(0.8, 1.0))]
    height, width = rng.permutation(shape).tolist()
    count = int(rng.integers(1, spec.max_objects + 1))
    placed = _place_objects(rng, count, height, width)
    return Scene(_paint(rng, placed.alphas), placed.masks, placed.labels, placed.areas, placed.holes)


# The dataset on disk


def _coco_annotations(scene: Scene, image_id: int, tolerance: float) -> list[dict[str, Any]]:
    """The scene's objects as coarse polygons."""
    height, width = scene.image.shape[:2]
    found = []
    for number, (mask, label) in enumerate(zip(scene.masks, scene.labels, strict=True), start=1):
        polygons = [[round(float(v), 2) for v in ring.ravel()] for ring in mask_polygons(mask, tolerance)]
        rle = mask_api.merge(mask_api.frPyObjects(polygons, height, width))
        found.append(
            {
                "id": image_id * (MAX_OBJECTS + 1) + number,
                "image_id": image_id,
                "category_id": label,
                "segmentation": polygons,
                "area": float(mask_api.area(rle)),
                "bbox": mask_api.toBbox(rle).tolist(),
                "iscrowd": 0,
            }
        )
    return found


@dataclass(frozen=True)
class _Records:
    """The records of one image in the annotation files."""

    image: dict[str, Any]
    annotations: list[dict[str, Any]]
    lvis_image: dict[str, Any]
    lvis_annotations: list[dict[str, Any]]


def _draw_image(spec: ShapesSpec, folder: Path, split: str, index: int) -> _Records:
    """Writes one image."""
    scene = render_scene(spec, split, index)
    height, width = scene.image.shape[:2]
    image_id = split_number(split) * MAX_IMAGES + index + 1
    image = {"id": image_id, "file_name": f"{image_id:012d}.png", "width": width, "height": height}
    Image.fromarray(scene.image).save(folder / split / image["file_name"], compress_level=1)
    lvis_image, lvis_annotations = annotate_federatedly(
        np.random.default_rng([spec.seed, split_number(split), index, 1]),
        {**image, "file_name": f"{split}/{image['file_name']}"},
        [*zip((CATEGORIES[label - 1] for label in scene.labels), scene.masks, strict=True)]
        + [("hole", hole) for hole in scene.holes if np.count_nonzero(hole) >= MIN_AREA],
    )
    return _Records(image, _coco_annotations(scene, image_id, spec.polygon_tolerance), lvis_image, lvis_annotations)


def generate_shapes(
    spec: ShapesSpec,
    root: Path,
    *,
    processes: int | None = None,
    on_image: Callable[[], None] | None = None,
) -> None:
    """Writes the dataset that `spec` describes to the folder `root`, which must be new or empty.

    Layout: ``{train,val}/<12-digit id>.png``; ``annotations/instances_{train,val}.json``, COCO instances with polygons
    as coarse as COCO's; ``annotations/lvis_{train,val}.json``, LVIS v1 annotations of the same images with exact masks,
    in categories with other ids and federated as in LVIS; the two files share synsets (``star.shape.01`` and so on).
    The bytes depend on `spec` alone, and image i of a split and its annotations do not depend on the number of images.

    Args:
        spec: what to draw.
        root: the dataset's folder.
        processes: number of worker processes, by default one per usable CPU; see
            :func:`pipeline.synthetic.splits.draw_images`.
        on_image: called in this process after each image, as for a progress bar.

    Raises:
        FolderExistsError: if `root` holds files.
        NotADirectoryError: if `root` is a file. Whatever is raised, `root` stays as it was.
    """
    with atomic_folder(Path(root)) as folder:
        for name in (*SPLITS, "annotations"):
            (folder / name).mkdir()
        counts = {"train": spec.train_images, "val": spec.val_images}
        drawn = draw_images(partial(_draw_image, spec, folder), counts, processes, on_image)
        categories = [{"id": n, "name": name, "supercategory": "shape"} for n, name in enumerate(CATEGORIES, 1)]
        lvis = lvis_categories([raw for records in drawn["train"] for raw in records.lvis_annotations])
        for split, found in drawn.items():
            for kind, images, annotations, known in (
                ("instances", [r.image for r in found], [r.annotations for r in found], categories),
                ("lvis", [r.lvis_image for r in found], [r.lvis_annotations for r in found], lvis),
            ):
                content = {
                    "info": {"description": "Synthetic shapes, a stand-in for COCO and LVIS", "seed": spec.seed},
                    "licenses": [],
                    "images": images,
                    "annotations": [raw for of_image in annotations for raw in of_image],
                    "categories": known,
                }
                path = folder / "annotations" / f"{kind}_{split}.json"
                path.write_text(json.dumps(content, separators=(",", ":")))
