"""A seeded synthetic dataset in place of COCO and LVIS: textured, crisp-edged, overlapping shapes with instance masks.

Objects are easy to recognise and hard to outline. Each category has a hue and a texture of its own, so that the little
training that a demo can afford is not spent on telling categories apart. Outlines carry detail that a 28x28 grid over
their box cannot hold (tips, teeth, thin rings, stems) and that a network can see in the image.

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

CATEGORIES: tuple[str, ...] = ("star", "gear", "ring", "splash", "leaf")


@dataclass(frozen=True)
class Look:
    """How a category is painted."""

    colour: tuple[float, float, float]
    """RGB in [0, 255]."""
    pattern: str
    contrast: float
    """Of the pattern, in grey levels."""


LOOKS = {
    "star": Look((232, 160, 40), "gradient", 26),
    "gear": Look((62, 108, 176), "checks", 20),
    "ring": Look((200, 62, 66), "stripes", 26),
    "splash": Look((138, 72, 170), "noise", 30),
    "leaf": Look((70, 148, 70), "stripes", 16),
}
#: Radii of the circle around an object, as shares of the image's shorter side, and how often each range is drawn.
SIZES = ((0.11, 0.16), (0.17, 0.3), (0.32, 0.46))
SIZE_SHARES = (0.15, 0.4, 0.45)

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
    radius[1::2] = rng.uniform(0.22, 0.4)
    jitter = rng.uniform(-0.12, 0.12, 2 * spikes) * np.pi / spikes
    return [polar(radius, turn(2 * spikes) + jitter)]


def _gear(rng: np.random.Generator) -> list[np.ndarray]:
    teeth, depth = rng.integers(9, 18), rng.uniform(0.18, 0.3)
    angle = turn(720)
    wave = np.abs((angle * teeth / np.pi) % 2 - 1)  # 0 to 1 and back once a tooth
    profile = np.clip(0.5 + rng.uniform(3, 6) * (wave - rng.uniform(0.42, 0.58)), 0, 1)
    return [polar(1 - depth + depth * profile, angle), polar(rng.uniform(0.2, 0.45), turn(48))]


def _ring(rng: np.random.Generator) -> list[np.ndarray]:
    hole = rng.uniform(0.55, 0.78)
    offset = polar(rng.uniform(0, 0.5) * (1 - hole), rng.uniform(0, 2 * np.pi, 1))
    return [polar(1.0, turn(96)), offset + polar(hole, turn(72))]


def _splash(rng: np.random.Generator) -> list[np.ndarray]:
    """A drop that has burst: a round core with thin fingers of different lengths."""
    fingers = int(rng.integers(7, 12))
    at = turn(fingers) + rng.uniform(-0.3, 0.3, fingers) * np.pi / fingers
    length, width = rng.uniform(0.25, 0.6, fingers), rng.uniform(0.1, 0.17, fingers)
    angle = turn(360)
    away = np.abs((angle[:, None] - at + np.pi) % (2 * np.pi) - np.pi) / width
    radius = 0.4 + (length * np.exp(-(away**2))).max(axis=1)
    return [polar(radius / radius.max(), angle)]


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


_OUTLINES = dict(zip(CATEGORIES, (_star, _gear, _ring, _splash, _leaf), strict=True))


def _draw_shape(rng: np.random.Generator, category: str, height: int, width: int) -> list[np.ndarray]:
    """A random outline of the category, stretched, rotated and put into an image of height x width pixels."""
    side = min(height, width)
    smallest, largest = SIZES[int(rng.choice(len(SIZES), p=SIZE_SHARES))]
    radius = side * rng.uniform(smallest, largest)
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


def _pattern(rng: np.random.Generator, kind: str, height: int, width: int) -> np.ndarray:
    """A pattern (H, W) in [-1, 1]: stripes, checks, cloudy noise or a gradient."""
    angle, period = rng.uniform(0, np.pi), min(height, width) * rng.uniform(0.03, 0.08)
    y, x = np.mgrid[:height, :width]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    if kind == "stripes":
        return np.tanh(3 * np.sin(2 * np.pi * along / period))
    if kind == "checks":
        return np.tanh(6 * np.sin(np.pi * along / period) * np.sin(np.pi * across / period))
    if kind == "noise":
        return smooth_noise(rng, height, width, period)
    return np.interp(along, (along.min(), along.max()), (-1, 1))


def _paint(rng: np.random.Generator, alphas: np.ndarray, labels: list[int]) -> np.ndarray:
    """The image (H, W, 3) uint8 of a grey background and the objects with alphas (R, H, W), back to front.

    Categories have a hue and a pattern of their own. Neighbours differ in brightness, or two of a kind that overlap
    could not be told apart.
    """
    height, width = alphas.shape[1:]
    grey = rng.uniform(110, 225)
    ground = (
        grey
        + rng.uniform(-9, 9, (3, 1, 1))
        + rng.uniform(6, 16) * _pattern(rng, str(rng.choice(["noise", "gradient", "stripes"])), height, width)
    )
    image = np.broadcast_to(ground, (3, height, width)).astype(np.float32)
    lights = rng.permutation(np.linspace(-28, 28, max(len(labels), 2)))
    for alpha, label, light in zip(alphas, labels, lights, strict=False):
        look = LOOKS[CATEGORIES[label - 1]]
        colour = np.array(look.colour) + light + rng.uniform(-14, 14, 3)
        contrast = look.contrast * rng.uniform(0.6, 1.2)
        layer = colour[:, None, None] + contrast * _pattern(rng, look.pattern, height, width)
        image += alpha * (layer.astype(np.float32) - image)
    image += 2.5 * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8).transpose(1, 2, 0)


def render_scene(spec: ShapesSpec, split: str, index: int) -> Scene:
    """Image `index` of a split; depends on the spec's sizes, its seed, the split and the index only."""
    rng = np.random.default_rng([spec.seed, split_number(split), index])
    shape = [spec.image_size, round(spec.image_size * rng.uniform(0.8, 1.0))]
    height, width = rng.permutation(shape).tolist()
    count = int(rng.integers(1, spec.max_objects + 1))
    placed = _place_objects(rng, count, height, width)
    return Scene(_paint(rng, placed.alphas, placed.labels), placed.masks, placed.labels, placed.areas, placed.holes)


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
