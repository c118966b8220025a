"""A seeded synthetic dataset in place of Cityscapes: street scenes in its layout and with its label ids.

All 19 evaluated classes occur, the eight object classes both as instances and as groups, and void regions too: the ego
vehicle, the borders left by rectification, bins, caravans. Edges have detail that coarse predictions cannot represent:
thin poles, see-through bicycle rims, leaves, pickets, legs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.files import atomic_folder
from pipeline.synthetic import scenery, traffic
from pipeline.synthetic.scenery import label
from pipeline.synthetic.splits import MAX_IMAGES, SPLITS, check_ranges, draw_images, split_number
from pipeline.synthetic.view import Camera, View, rgb

#: The towns of each split; no town is in both.
CITIES = {"train": ("bricktown", "lindenau"), "val": ("harbourside",)}
FRAME = 19  # as in Cityscapes, where the 20th frame of each sequence is annotated
SMALLEST_OBJECT = 14  # visible pixels

MOODS = (rgb(214, 226, 238), rgb(226, 226, 224), rgb(240, 222, 200), rgb(204, 216, 222))


@dataclass(frozen=True)
class StreetsSpec:
    """The parameters of the dataset; raises ValueError naming the field that is out of range."""

    train_images: int
    val_images: int
    height: int = 128
    """In pixels."""
    width: int = 256
    """In pixels."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(
            self,
            {
                "train_images": (1, MAX_IMAGES),
                "val_images": (1, MAX_IMAGES),
                "height": (64, 2048),
                "width": (self.height, 4 * self.height),
                "seed": (0, math.inf),
            },
        )


@dataclass
class _Street:
    """The layout of a street: the X, in metres, where each part begins, from left to right."""

    view: View
    left: float
    """The left edge of the road, below 0, where the sidewalk begins."""
    right: float
    walk_left: float
    """Where the sidewalk ends, with a verge of grass or none behind it."""
    walk_right: float
    property_left: float
    """Where houses and gardens begin."""
    property_right: float
    lane: float
    """The middle of the oncoming lane."""
    things: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    """The distance of each thing in metres, and the function that draws it."""
    _taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    def add(self, z: float, draw: Callable[[], None]) -> None:
        self.things.append((z, draw))

    def free(self, x: float, z: float, across: float, along: float) -> bool:
        """Reserves a place on the ground for something of these half sizes; False if it is taken already."""
        if any(abs(x - tx) < across + ta and abs(z - tz) < along + tl for tx, tz, ta, tl in self._taken):
            return False
        self._taken.append((x, z, across, along))
        return True


def render_street(spec: StreetsSpec, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W, 3) uint8 and instance ids (H, W) uint16 of one image of a split.

    They depend on the spec's sizes, its seed, the split and the index only. Rare classes take turns
    over the indices, so that a few images have all of them.
    """
    rng = np.random.default_rng([spec.seed, split_number(split), index])
    height, width = spec.height, spec.width
    camera = Camera(
        focal=0.9 * width * min(1.0, 2 * height / width),
        centre=width * rng.uniform(0.42, 0.58),
        horizon=height * rng.uniform(0.38, 0.46),
        height=rng.uniform(1.9, 2.3),
    )
    view = View.empty(camera, rng, MOODS[int(rng.integers(len(MOODS)))], height, width)
    scenery.sky(view)
    scenery.backdrop(view)
    street = _lay_out(view, index)
    for side in (-1, 1):
        _line_with_houses(street, side, index)
    _furnish(street)
    _populate(street, index)
    for _, draw in sorted(street.things, key=lambda thing: -thing[0]):
        draw()
    city = CITIES[split].index(_city(split, index))
    scenery.bonnet(view, 0.07 + 0.02 * city, (rgb(34, 40, 52), rgb(66, 20, 26))[city])
    scenery.border(view, max(1, round(width / 128)))
    image, ids = view.finished(SMALLEST_OBJECT)
    return image, ids


def _lay_out(view: View, index: int) -> _Street:
    """The ground, from the far left to the far right."""
    rng = view.rng
    right, left = rng.uniform(2.4, 3.6), -rng.uniform(5.2, 6.6)
    lane = left / 2 - 0.4
    scenery.strip(view, -120, 120, rgb(112, 146, 66), "terrain", dirt=16)
    tram = index % 4 == 2
    sidewalks = rng.uniform(2.2, 3.4, 2)
    track = 3.2 if tram else 0.0
    parking = 2.2 if rng.random() < 0.35 else 0.0
    kerb_left, kerb_right = left - track, right + parking
    verges = rng.uniform(1.2, 2.6, 2) * (rng.random(2) < 0.5)
    walk_left, walk_right = kerb_left - sidewalks[0], kerb_right + sidewalks[1]
    slabs = rgb(192, 178, 170) * rng.uniform(0.88, 1.06)
    scenery.strip(view, walk_left, kerb_left, slabs, "sidewalk", slab=1.2)
    scenery.strip(view, kerb_right, walk_right, slabs, "sidewalk", slab=1.2)
    asphalt = rgb(98, 98, 102) * rng.uniform(0.86, 1.12)
    scenery.strip(view, left, right, asphalt, "road", dirt=8)
    if parking:
        scenery.strip(view, right, kerb_right, rgb(128, 116, 108), "parking", slab=0.5)
    for edge in (kerb_left, kerb_right):
        scenery.strip(view, edge - 0.09, edge + 0.09, rgb(214, 208, 200), "sidewalk", dirt=4)
    scenery.markings(view, (left + right) / 2 - 0.6, dashed=True)
    street = _Street(view, left, right, walk_left, walk_right, walk_left - verges[0], walk_right + verges[1], lane)
    if rng.random() < 0.3:
        scenery.crossing(view, left, right, rng.uniform(9, 16))
    if tram:
        middle = left - track / 2
        scenery.strip(view, left - track, left, rgb(132, 118, 100), "rail track", dirt=18)
        scenery.rails(view, middle)
        z = rng.uniform(19, 26)
        street.free(middle, z, 1.5, 11)
        street.add(z - 9, partial(traffic.train, view, middle, z, math.pi))
    return street


def _line_with_houses(street: _Street, side: int, index: int) -> None:
    """Houses, walls, fences and hedges along one side, painted at once from far to near."""
    view, rng = street.view, street.view.rng
    x = street.property_left if side < 0 else street.property_right
    ends = [1.2]
    while ends[-1] < scenery.FAR:
        ends.append(ends[-1] + rng.uniform(6, 13))
    # One of the near parts is a wall or a fence, in turns.
    special = int(rng.integers(1, 3)) if (side < 0) == (index // 4 % 2 == 0) else -1
    for number in range(len(ends) - 2, -1, -1):
        near, far = ends[number], min(ends[number + 1], scenery.FAR)
        kind = ("wall", "fence")[index // 2 % 2] if number == special else None
        kind = kind or str(rng.choice(["house", "wall", "fence", "hedge"], p=[0.66, 0.08, 0.14, 0.12]))
        if kind == "house":
            scenery.building(view, side, x + side * rng.uniform(0, 0.6), near, far, rng.uniform(6.5, 15))
            continue
        for z in sorted(rng.uniform(near, far, int(rng.integers(1, 4))), reverse=True):
            scenery.tree(view, x + side * rng.uniform(2.5, 7), max(z, 3), rng.uniform(5, 9))
        if kind == "wall":
            scenery.wall(view, x, near, far, rng.uniform(1.9, 2.9))
        elif kind == "fence":
            scenery.fence(view, x, near, far, rng.uniform(1.1, 1.5))
        else:
            scenery.hedge(view, x + side * 0.6, near, far, rng.uniform(1.1, 1.7))


def _furnish(street: _Street) -> None:
    """Lamps, signs, lights, trees, bollards and bins on the sidewalks."""
    view, rng = street.view, street.view.rng
    kerbs = {-1: street.walk_left + 2.0, 1: street.walk_right - 2.0}
    for side, kerb in kerbs.items():
        avenue = rng.random() < 0.4
        z = rng.uniform(7, 13)
        while z < 55:
            if street.free(kerb, z, 0.4, 0.5):
                if avenue:
                    street.add(z, partial(scenery.tree, view, kerb, z, rng.uniform(4.5, 7)))
                else:
                    street.add(z, partial(scenery.lamp, view, kerb, z, -side))
            z += rng.uniform(7, 12)
        for draw, chance in (
            (scenery.traffic_sign, 1.0), (scenery.traffic_sign, 0.5), (scenery.traffic_light, 0.75),
            (scenery.furniture, 0.45),
        ):  # fmt: skip
            z = rng.uniform(8, 24)
            x = (
                kerb - side * rng.uniform(0, 0.4)
                if draw is not scenery.furniture
                else kerb + side * rng.uniform(0.6, 1.4)
            )
            if rng.random() < chance and street.free(x, z, 0.5, 0.7):
                street.add(z, partial(draw, view, x, z))
        if rng.random() < 0.3:
            z, count = rng.uniform(7, 14), int(rng.integers(3, 7))
            street.add(z, partial(scenery.bollards, view, kerb, z, count))


def _populate(street: _Street, index: int) -> None:
    """Traffic on the road, two-wheelers, and people on the sidewalks and the road."""
    view, rng = street.view, street.view.rng
    away, oncoming = 0.0, math.pi

    def lorry(draw: Callable[[View, float, float, float], None], length: float) -> None:
        heading = away if rng.random() < 0.5 else oncoming
        x = 0.9 if heading == away else street.lane
        z = rng.uniform(13, 20) + length / 2
        if street.free(x, z, 1.4, length / 2 + 0.5):
            street.add(z - length / 2, partial(draw, view, x, z, heading + rng.normal(0, 0.04)))

    if index % 4 == 0:
        lorry(traffic.truck, 7.5)
    elif index % 4 == 1:
        lorry(traffic.bus, 10.5)
    if rng.random() < 0.15:
        lorry((traffic.truck, traffic.bus)[int(rng.integers(2))], 9)

    mount = ("bicycle", "motorcycle")[(index + index // 4) % 2]
    for number in range(1 + int(rng.random() < 0.4)):
        on = mount if number == 0 else str(rng.choice(["bicycle", "motorcycle"]))
        x, z = rng.choice([street.right - 0.7, street.left + 0.9, rng.uniform(-1, 1)]), rng.uniform(7.5, 14)
        turned = rng.choice([-1, 1]) * rng.uniform(0.55, 1.0)
        if street.free(x, z, 1.0, 0.8):
            street.add(z, partial(traffic.rider, view, float(x), z, float(turned), on=on))
    for _ in range(int(rng.integers(0, 2))):
        x, z = street.walk_right - rng.uniform(0.7, 1.2), rng.uniform(7, 15)
        if street.free(x, z, 1.0, 0.4):
            draw = traffic.bicycle if rng.random() < 0.6 else traffic.motorcycle
            street.add(z, partial(draw, view, x, z, float(rng.choice([-1, 1]))))
    if rng.random() < 0.3:  # parked in a rack: one group
        x, z = street.walk_left + rng.uniform(0.8, 1.6), rng.uniform(8, 15)
        if street.free(x, z, 1.5, 0.8):
            for number in range(int(rng.integers(3, 6))):
                at = x + 0.42 * number, z - 0.15 * number
                street.add(at[1], partial(traffic.bicycle, view, *at, 0.8, label("bicycle")))

    # Parked at the kerbs, in a row that becomes a group where it is far; then moving.
    for x, heading in ((street.walk_right - 4.0, away), (street.left + 1.0, oncoming)):
        if rng.random() < 0.5:
            z = rng.uniform(9, 16)
            while z < 50 and rng.random() < 0.8:
                if street.free(x, z, 1.0, 2.4):
                    id_ = label("car") if z > 36 else None
                    street.add(z - 2, partial(traffic.car, view, x, z, heading, id_))
                z += rng.uniform(5.6, 8)
    for x, heading in ((0.9, away), (street.lane, oncoming), (0.9, away), (street.lane, oncoming)):
        z = 10 + 34 * rng.random() ** 1.3
        if rng.random() < 0.62 and street.free(x, z, 1.1, 2.6):
            street.add(z - 2, partial(traffic.car, view, x + rng.normal(0, 0.15), z, heading + rng.normal(0, 0.06)))
    if rng.random() < 0.3:
        z = rng.uniform(16, 30)
        x = rng.uniform(street.left + 2, street.right - 2)
        if street.free(x, z, 2.6, 1.2):
            street.add(z, partial(traffic.car, view, x, z, float(rng.choice([-1, 1])) * math.pi / 2))
    if rng.random() < 0.15:
        z = rng.uniform(12, 22)
        if street.free(street.walk_right - 4.0, z, 1.2, 2.4):
            street.add(z - 2, partial(traffic.trailer, view, street.walk_right - 4.0, z, away))

    for _ in range(int(rng.integers(2, 7))):
        side = rng.choice([-1, 1])
        inner, outer = (
            (street.walk_left + 0.5, street.walk_left + 1.9)
            if side < 0
            else (street.walk_right - 1.9, street.walk_right - 0.5)
        )
        x, z = rng.uniform(inner, outer), 6.5 + 18 * rng.random() ** 1.6
        if street.free(x, z, 0.3, 0.3):
            street.add(z, partial(traffic.person, view, x, z))
    if rng.random() < 0.5:  # somebody crosses
        x, z = rng.uniform(street.left + 0.5, street.right - 0.5), rng.uniform(8, 15)
        if street.free(x, z, 0.4, 0.4):
            street.add(z, partial(traffic.person, view, x, z))
    if rng.random() < 0.4:  # people too close to be annotated one by one: one group
        x = rng.choice([street.walk_left + 1.1, street.walk_right - 1.3])
        z = rng.uniform(13, 22)
        if street.free(x, z, 1.2, 0.8):
            for number in range(int(rng.integers(5, 9))):
                at = x + rng.uniform(-0.8, 0.8), z - 0.1 * number
                street.add(at[1], partial(traffic.person, view, *at, label("person")))


# The dataset on disk


def _city(split: str, index: int) -> str:
    return CITIES[split][index % len(CITIES[split])]


def _draw_image(spec: StreetsSpec, folder: Path, split: str, index: int) -> None:
    """Writes one image, its label ids and its instance ids."""
    image, ids = render_street(spec, split, index)
    city = _city(split, index)
    name = f"{city}_{index:06d}_{FRAME:06d}"
    labels = np.where(ids < 1000, ids, ids // 1000).astype(np.uint8)
    for picture, kind, suffix in (
        (image, "leftImg8bit", "leftImg8bit"),
        (labels, "gtFine", "gtFine_labelIds"),
        (ids, "gtFine", "gtFine_instanceIds"),
    ):
        Image.fromarray(picture).save(folder / kind / split / city / f"{name}_{suffix}.png", compress_level=1)


def generate_streets(
    spec: StreetsSpec,
    root: Path,
    *,
    processes: int | None = None,
    on_image: Callable[[], None] | None = None,
) -> None:
    """Writes the dataset that `spec` describes to the folder `root`, which must be new or empty.

    Layout, as Cityscapes': ``leftImg8bit/{train,val}/<city>/<city>_<index>_000019_leftImg8bit.png`` and
    ``gtFine/{train,val}/<city>/<city>_<index>_000019_gtFine_{labelIds,instanceIds}.png``, with Cityscapes' label ids.
    An instance has 1000 times its label id plus its number in the image; stuff, and groups of objects that are not
    separated, have the label id. The bytes depend on `spec` alone, and image i of a split does not depend on the number
    of images.

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
        for split in SPLITS:
            for kind in ("leftImg8bit", "gtFine"):
                for city in CITIES[split]:
                    (folder / kind / split / city).mkdir(parents=True)
        counts = {"train": spec.train_images, "val": spec.val_images}
        draw_images(partial(_draw_image, spec, folder), counts, processes, on_image)
