"""A seeded stand-in for COCO: textured, crisp-edged, partly occluding shapes with instance masks.

Outlines carry detail that a 28x28 grid over their box cannot hold (spikes, teeth, stems) and that a network
can see in the image. The category is in the shape alone: colours and textures are drawn independently of it.

Shape letters: H W rows and columns of an image, R regions (objects) in it, P points of a polygon. Points are
(x, y) in pixels; the pixel of row i and column j covers [j, j + 1] x [i, i + 1], so its centre is
(j + 0.5, i + 0.5). A *ring* below is a closed polygon (P, 2) without its first point repeated; a shape is a
list of rings under the even-odd rule.
"""

import json
import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

from pipeline.files import atomic_folder

CATEGORIES: tuple[str, ...] = ("star", "gear", "ring", "blob", "leaf")
SPLITS: tuple[str, ...] = ("train", "val")

MIN_VISIBLE = 0.4  # of an object's whole area, hidden and out-of-image parts included
MIN_AREA = 60  # visible pixels of an object
MIN_FRAGMENT = 10  # pixels; smaller parts and smaller holes are not annotated
PLACEMENT_ATTEMPTS = 12  # before an object is left out of a crowded image
SAMPLES = 4  # per pixel side, when coverage is measured
# Ids are a function of the split and the index, so a larger dataset keeps the ids of a smaller one.
MAX_IMAGES = 1_000_000
MAX_OBJECTS = 99


@dataclass(frozen=True)
class SyntheticSpec:
    """What to generate; raises ValueError naming the field that is out of range."""

    train_images: int
    val_images: int
    image_size: int = 192
    """The longer side in pixels; the shorter one is 0.8 to 1 times that."""
    max_objects: int = 4
    polygon_tolerance: float = 1.0
    """How far, in pixels, an annotated polygon may stray from the outline of the exact mask."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("train_images", 1, MAX_IMAGES),
            ("val_images", 1, MAX_IMAGES),
            ("image_size", 64, 4096),
            ("max_objects", 1, MAX_OBJECTS),
            ("polygon_tolerance", 0, self.image_size / 20),
            ("seed", 0, math.inf),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}; expected a value from {low} to {high}")


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


# Outlines: rings within the unit circle


def _polar(radius: np.ndarray | float, angle: np.ndarray) -> np.ndarray:
    """The ring (P, 2) with the given radius (P,) at each angle (P,) in radians."""
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _turn(points: int) -> np.ndarray:
    """`points` evenly spaced angles (P,) of one full turn."""
    return np.linspace(0, 2 * np.pi, points, endpoint=False)


def _star(rng: np.random.Generator) -> list[np.ndarray]:
    spikes = int(rng.integers(5, 10))
    radius = np.empty(2 * spikes)
    radius[0::2] = rng.uniform(0.75, 1.0, spikes)
    radius[1::2] = rng.uniform(0.25, 0.42)
    jitter = rng.uniform(-0.12, 0.12, 2 * spikes) * np.pi / spikes
    return [_polar(radius, _turn(2 * spikes) + jitter)]


def _gear(rng: np.random.Generator) -> list[np.ndarray]:
    teeth, depth = rng.integers(8, 16), rng.uniform(0.16, 0.28)
    angle = _turn(480)
    wave = np.abs((angle * teeth / np.pi) % 2 - 1)  # 0 to 1 and back once a tooth
    profile = np.clip(0.5 + rng.uniform(3, 6) * (wave - rng.uniform(0.42, 0.58)), 0, 1)
    gear = [_polar(1 - depth + depth * profile, angle)]
    if rng.random() < 0.6:
        gear.append(_polar(rng.uniform(0.2, 0.45), _turn(48)))
    return gear


def _ring(rng: np.random.Generator) -> list[np.ndarray]:
    hole = rng.uniform(0.5, 0.75)
    offset = _polar(rng.uniform(0, 0.5) * (1 - hole), rng.uniform(0, 2 * np.pi, 1))
    return [_polar(1.0, _turn(96)), offset + _polar(hole, _turn(72))]


def _blob(rng: np.random.Generator) -> list[np.ndarray]:
    angle, frequency = _turn(160)[:, None], np.arange(2, 6)
    amplitude = rng.uniform(0, 0.5, 4) / frequency
    radius = 1 + (amplitude * np.cos(frequency * angle + rng.uniform(0, 2 * np.pi, 4))).sum(axis=1)
    return [_polar(radius / radius.max(), angle[:, 0])]


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


def signed_area(ring: np.ndarray) -> float:
    """The area enclosed by a ring (P, 2): positive where it runs clockwise as seen in the image (y down)."""
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def coverage(rings: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """The share (H, W) of each pixel, in [0, 1], inside the rings under the even-odd rule.

    Exact at SAMPLES x SAMPLES points a pixel: in each row of samples that an edge crosses, it toggles all the
    samples to its right.
    """
    start = np.concatenate(rings)
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    left, top = np.clip(np.floor(start.min(axis=0)), 0, (width, height)).astype(int)
    right, bottom = np.clip(np.ceil(start.max(axis=0)), 0, (width, height)).astype(int)

    rows = top + (np.arange((bottom - top) * SAMPLES) + 0.5) / SAMPLES
    edge, row = np.nonzero((start[:, 1:] <= rows) != (end[:, 1:] <= rows))
    slope = (end[edge, 0] - start[edge, 0]) / (end[edge, 1] - start[edge, 1])
    x = start[edge, 0] + slope * (rows[row] - start[edge, 1])
    column = np.clip(np.ceil((x - left) * SAMPLES - 0.5), 0, (right - left) * SAMPLES).astype(int)
    toggles = np.zeros((len(rows), (right - left) * SAMPLES + 1), dtype=np.uint8)
    np.bitwise_xor.at(toggles, (row, column), 1)
    inside = np.bitwise_xor.accumulate(toggles, axis=1)[:, :-1]

    blocks = inside.reshape(bottom - top, SAMPLES, right - left, SAMPLES)
    share = np.zeros((height, width), dtype=np.float32)
    share[top:bottom, left:right] = blocks.mean(axis=(1, 3))
    return share


# Scenes


def _place_objects(
    rng: np.random.Generator, count: int, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, list[int], list[float]]:
    """Up to `count` objects, each in front of those before it and leaving enough of them visible.

    Returns alphas (R, H, W) in [0, 1], visible masks (R, H, W), labels (R,) and whole areas (R,).
    """
    alphas, masks = np.zeros((0, height, width), dtype=np.float32), np.zeros((0, height, width), dtype=bool)
    labels: list[int] = []
    areas: list[float] = []
    for _ in range(count):
        label = int(rng.integers(len(CATEGORIES)))
        for _ in range(PLACEMENT_ATTEMPTS):
            outline, *holes = _draw_shape(rng, CATEGORIES[label], height, width)
            alpha = coverage([outline, *holes], height, width)
            area = abs(signed_area(outline)) - sum(abs(signed_area(hole)) for hole in holes)
            masks_with_it = np.concatenate([masks & (alpha < 0.5), alpha[None] >= 0.5])
            needed = np.maximum(MIN_AREA, MIN_VISIBLE * np.array([*areas, area]))
            if (masks_with_it.sum(axis=(1, 2)) >= needed).all():
                alphas, masks = np.concatenate([alphas, alpha[None]]), masks_with_it
                labels.append(label + 1)
                areas.append(area)
                break
    return alphas, masks, labels, areas


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
        coarse = rng.uniform(-1, 1, (int(height / period) + 2, int(width / period) + 2)).astype(np.float32)
        return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))
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


def render_scene(spec: SyntheticSpec, split: str, index: int) -> Scene:
    """Image `index` of a split; depends on the spec's sizes, its seed, the split and the index only."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
    rng = np.random.default_rng([spec.seed, SPLITS.index(split), index])
    shape = [spec.image_size, round(spec.image_size * rng.uniform(0.8, 1.0))]
    height, width = rng.permutation(shape).tolist()
    count = int(rng.integers(1, spec.max_objects + 1))
    alphas, masks, labels, areas = _place_objects(rng, count, height, width)
    return Scene(_paint(rng, alphas), masks, labels, areas)


# Annotations


def trace_outlines(mask: np.ndarray) -> list[np.ndarray]:
    """The rings (P, 2) int along the pixel edges around a mask (H, W) bool.

    The region lies on a ring's right-hand side: rings around it have a positive `signed_area`, rings around
    its holes a negative one. Diagonal neighbours belong to one part (8-connected), so thin spikes stay
    in one piece.
    """
    padded = np.pad(mask, 1)
    above_left, above_right = padded[:-1, :-1], padded[:-1, 1:]
    below_left, below_right = padded[1:, :-1], padded[1:, 1:]
    # edges[d, y, x]: from corner (x, y) an edge leads right, down, left or up, with the region on its right.
    rightward, downward = below_right & ~above_right, below_left & ~below_right
    leftward, upward = above_left & ~below_left, above_right & ~above_left
    edges = np.stack([rightward, downward, leftward, upward])
    direction, y, x = np.nonzero(edges)
    number = np.full(edges.shape, -1)
    number[edges] = np.arange(len(direction))
    end_x, end_y = x + np.array([1, 0, -1, 0])[direction], y + np.array([0, 1, 0, -1])[direction]
    left, ahead, right = (number[(direction + turn) % 4, end_y, end_x] for turn in (-1, 0, 1))
    # Only where two diagonal pixels meet is there a choice; the left turn leads on to the other pixel.
    following = np.where(left >= 0, left, np.where(ahead >= 0, ahead, right))

    corners = np.stack([x, y], axis=1)
    rings = []
    for cycle in _cycles(following.tolist()):
        is_turn = direction[cycle] != np.roll(direction[cycle], 1)
        rings.append(corners[cycle][is_turn])
    return rings


def _cycles(following: list[int]) -> Iterator[list[int]]:
    """The cycles of a permutation."""
    seen = [False] * len(following)
    for first in range(len(following)):
        cycle, at = [], first
        while not seen[at]:
            seen[at] = True
            cycle.append(at)
            at = following[at]
        if cycle:
            yield cycle


def simplify(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """The ring (P, 2) with fewer points (Douglas-Peucker), at least three.

    No dropped point is farther than `tolerance` pixels from the line that replaces it.
    """
    # A closed line has no ends: cut it in two at a point and at the one farthest from it.
    far = int(np.argmax(np.hypot(*(ring - ring[0]).T)))
    closed = np.concatenate([ring, ring[:1]])
    keep = {0, far}
    spans = [(0, far), (far, len(ring))]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        gaps = _segment_distance(closed[first + 1 : last], closed[first], closed[last])
        if gaps.max() > tolerance:
            middle = first + 1 + int(np.argmax(gaps))
            keep.add(middle)
            spans += [(first, middle), (middle, last)]
    if len(keep) == 2:
        keep.add(int(np.argmax(_segment_distance(ring, ring[0], ring[far]))))
    return ring[sorted(keep)]


def _segment_distance(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The distance (P,) from points (P, 2) to the segment between two distinct points (2,)."""
    direction = end - start
    offset = points - start
    share = np.clip(offset @ direction / (direction @ direction), 0, 1)
    return np.hypot(*(offset - share[:, None] * direction).T)


def _contains(ring: np.ndarray, point: np.ndarray) -> bool:
    """Whether a ring (P, 2) contains a point (2,) that is not on it."""
    (x, y), end = ring.T, np.roll(ring, -1, axis=0)
    crosses = (y <= point[1]) != (end[:, 1] <= point[1])
    slope = (end[crosses, 0] - x[crosses]) / (end[crosses, 1] - y[crosses])
    return bool(np.count_nonzero(x[crosses] + slope * (point[1] - y[crosses]) > point[0]) % 2)


def _join_hole(ring: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """One ring around a region with a hole: where the two are nearest, a slit of no width joins them."""
    gaps = np.linalg.norm(ring[:, None] - hole, axis=2)
    i, j = np.unravel_index(np.argmin(gaps), gaps.shape)
    return np.concatenate([ring[: i + 1], np.roll(hole, -j, axis=0), hole[j : j + 1], ring[i:]])


def mask_polygons(mask: np.ndarray, tolerance: float) -> list[np.ndarray]:
    """Polygons (P, 2), one a connected part, such as an annotator might draw around a mask (H, W) bool.

    Parts and holes under MIN_FRAGMENT pixels are left out, except for the largest part.
    """
    rings = sorted(trace_outlines(mask), key=signed_area, reverse=True)
    parts = [ring for n, ring in enumerate(rings) if signed_area(ring) >= (MIN_FRAGMENT if n else 0)]
    polygons = [simplify(part, tolerance) for part in parts]
    for hole in rings:
        if signed_area(hole) > -MIN_FRAGMENT:
            continue
        # A pixel centre of the part itself, on the right of the hole's first edge.
        step = np.sign(hole[1] - hole[0])
        beside = hole[0] + (step + np.array([-step[1], step[0]])) / 2
        # Parts run from large to small, and the smallest around that pixel is the one it belongs to.
        owner = max((n for n, part in enumerate(parts) if _contains(part, beside)), default=None)
        if owner is not None:
            polygons[owner] = _join_hole(polygons[owner], simplify(hole, tolerance))
    return polygons


def _annotations(scene: Scene, image_id: int, tolerance: float) -> tuple[list[dict], list[dict]]:
    """The scene's COCO annotations as coarse polygons, and the same as RLE of the exact masks."""
    height, width = scene.image.shape[:2]
    coarse: list[dict] = []
    exact: list[dict] = []
    for number, (mask, label) in enumerate(zip(scene.masks, scene.labels, strict=True), start=1):
        polygons = [[round(float(v), 2) for v in ring.ravel()] for ring in mask_polygons(mask, tolerance)]
        polygon_rle = mask_api.merge(mask_api.frPyObjects(polygons, height, width))
        mask_rle = mask_api.encode(np.asfortranarray(mask, dtype=np.uint8))
        segmentation = {"size": [height, width], "counts": mask_rle["counts"].decode("ascii")}
        for records, shape, rle in ((coarse, polygons, polygon_rle), (exact, segmentation, mask_rle)):
            records.append(
                {
                    "id": image_id * (MAX_OBJECTS + 1) + number,
                    "image_id": image_id,
                    "category_id": label,
                    "segmentation": shape,
                    "area": float(mask_api.area(rle)),
                    "bbox": mask_api.toBbox(rle).tolist(),
                    "iscrowd": 0,
                }
            )
    return coarse, exact


# The dataset on disk


def _write_image(spec: SyntheticSpec, split: str, folder: Path, index: int) -> tuple[dict, list[dict], list[dict]]:
    """Writes one image into `folder`; returns its COCO record, its polygon and its exact annotations."""
    scene = render_scene(spec, split, index)
    height, width = scene.image.shape[:2]
    image_id = SPLITS.index(split) * MAX_IMAGES + index + 1
    record = {"id": image_id, "file_name": f"{image_id:012d}.png", "width": width, "height": height}
    Image.fromarray(scene.image).save(folder / record["file_name"], compress_level=1)
    return record, *_annotations(scene, image_id, spec.polygon_tolerance)


def _write_annotations(path: Path, seed: int, images: list[dict], annotations: list[dict]) -> None:
    categories = [{"id": n, "name": name, "supercategory": "shape"} for n, name in enumerate(CATEGORIES, 1)]
    content = {
        "info": {"description": "Synthetic shapes, a stand-in for COCO", "seed": seed},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    path.write_text(json.dumps(content, separators=(",", ":")))


def _write_dataset(
    spec: SyntheticSpec, root: Path, run: Callable[..., Iterable], on_image: Callable[[], None] | None
) -> None:
    """Writes both splits under `root`; `run(function, items)` is a map that keeps the order."""
    (root / "annotations").mkdir()
    for split, count in zip(SPLITS, (spec.train_images, spec.val_images), strict=True):
        (root / split).mkdir()
        images, coarse, exact = [], [], []
        write = partial(_write_image, spec, split, root / split)
        for image, image_coarse, image_exact in run(write, range(count)):
            images.append(image)
            coarse += image_coarse
            exact += image_exact
            if on_image is not None:
                on_image()
        _write_annotations(root / "annotations" / f"instances_{split}.json", spec.seed, images, coarse)
        _write_annotations(root / "annotations" / f"exact_{split}.json", spec.seed, images, exact)


def generate(
    spec: SyntheticSpec,
    root: Path,
    *,
    processes: int | None = None,
    on_image: Callable[[], None] | None = None,
) -> None:
    """Writes the dataset that `spec` describes to the folder `root`, replacing one that is there.

    Layout: `{train,val}/<12-digit id>.png`; `annotations/instances_{train,val}.json`, COCO instances with
    polygons as coarse as COCO's; `annotations/exact_{train,val}.json`, the same annotations with RLE of the
    exact masks. The bytes depend on `spec` alone, and image i of a split and its annotations do not depend on
    the number of images.

    processes: worker processes, by default one a core; 1 works in this process. They are spawned, so a script
        that calls this needs its `if __name__ == "__main__":` guard.
    on_image: called in this process after each image, as for a progress bar.

    Raises NotADirectoryError if `root` is a file. Whatever is raised, `root` stays as it was.
    """
    if processes is None:
        processes = os.cpu_count() or 1
    with atomic_folder(Path(root)) as folder:
        if processes == 1:
            _write_dataset(spec, folder, map, on_image)
            return
        # Forked workers could inherit locks held by the caller's threads (torch, Ray, Arrow).
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            try:
                _write_dataset(spec, folder, partial(pool.map, chunksize=8), on_image)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
