"""A camera on a street, and the picture and instance ids that it records.

World coordinates are in metres: X to the right of the camera, Y above the ground, Z away from the camera. Shape
letters: H W rows and columns of the picture, P points.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.synthetic.drawing import crop_coverage, polar, smooth_noise, turn

#: An RGB colour (3,) in [0, 255], or a function from pixel centres x (h, w) and y (h, w) to colours (h, w, 3).
Paint = np.ndarray | Callable[[np.ndarray, np.ndarray], np.ndarray]
#: Rings and the paint inside them.
Layer = tuple[list[np.ndarray], Paint]

HAZE_DISTANCE = 130.0  # metres, at which an object has lost 63 % of its colour


def rgb(red: float, green: float, blue: float) -> np.ndarray:
    return np.array([red, green, blue], dtype=np.float32)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks along the street, level."""

    focal: float
    """In pixels."""
    centre: float
    """Column of the vanishing point."""
    horizon: float
    """Row of the vanishing point."""
    height: float
    """In metres above the ground."""

    def scale(self, z: float) -> float:
        """Pixels per metre at distance z."""
        return self.focal / z

    def project(self, points: np.ndarray) -> np.ndarray:
        """Pixels (P, 2) of world points (P, 3); Z must be positive."""
        scale = self.focal / points[:, 2]
        return np.stack(
            [self.centre + points[:, 0] * scale, self.horizon + (self.height - points[:, 1]) * scale], axis=1
        )

    def upright(self, outline: np.ndarray, x: float, z: float) -> np.ndarray:
        """The ring (P, 2) of an outline (P, 2) in metres, drawn on a plane that faces the camera.

        Args:
            outline: metres to the right of, and above, the point (x, 0, z).
            x: the point's X.
            z: the plane's distance.
        """
        return self.project(np.column_stack([outline[:, 0] + x, outline[:, 1], np.full(len(outline), z)]))

    def ground(self, x: np.ndarray | Sequence[float], z: np.ndarray | Sequence[float]) -> np.ndarray:
        """The ring (P, 2) of points (P,) on the ground."""
        return self.project(np.column_stack([x, np.zeros(len(x)), z]))


@dataclass
class View:
    """The picture and the instance ids, painted from far to near."""

    camera: Camera
    rng: np.random.Generator
    haze: np.ndarray
    """(3,), the colour that far objects fade to."""
    image: np.ndarray
    """(H, W, 3) float32 in [0, 255], RGB."""
    ids: np.ndarray
    """(H, W) int32 of Cityscapes' instance ids: the label id, or 1000 times the label id plus the object's number."""
    noise: np.ndarray
    """(H, W) in [-1, 1], the dirt on everything."""
    _objects: dict[int, int] = field(default_factory=dict)

    @staticmethod
    def empty(camera: Camera, rng: np.random.Generator, haze: np.ndarray, height: int, width: int) -> "View":
        grain = height / 128
        noise = 0.5 * smooth_noise(rng, height, width, 1.6 * grain) + 0.5 * smooth_noise(rng, height, width, 7 * grain)
        image = np.zeros((height, width, 3), dtype=np.float32)
        return View(camera, rng, haze, image, np.zeros((height, width), dtype=np.int32), noise)

    def new_object(self, label: int) -> int:
        """The instance id of one more object of a class."""
        number = self._objects.get(label, 0)
        self._objects[label] = number + 1
        return 1000 * label + number

    def faded(self, colour: np.ndarray, z: float | np.ndarray) -> np.ndarray:
        """The colour (..., 3) as it looks from z metres away."""
        share = np.asarray(1 - np.exp(-np.asarray(z) / HAZE_DISTANCE))[..., None]
        return colour + (self.haze - colour) * share

    def fill(self, rings: list[np.ndarray], paint: Paint, id_: int | None, *, dirt: float = 0) -> None:
        """Paints the inside of rings. If `id_` is None the ids stay, for details of something painted before."""
        self.fill_layers([(rings, paint)], id_, dirt=dirt)

    def fill_layers(self, layers: Sequence[Layer], id_: int | None, *, dirt: float = 0) -> None:
        """Paints the parts of one object, back to front, without a seam where two meet."""
        height, width = self.ids.shape
        parts = [(*crop_coverage(rings, height, width), paint) for rings, paint in layers]
        parts = [part for part in parts if part[1].size]
        if not parts:
            return
        top, left = (min(window[axis].start for window, _, _ in parts) for axis in (0, 1))
        bottom, right = (max(window[axis].stop for window, _, _ in parts) for axis in (0, 1))
        colours = np.zeros((bottom - top, right - left, 3), dtype=np.float32)
        total = np.zeros((bottom - top, right - left), dtype=np.float32)
        for (rows, columns), share, paint in parts:
            here = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
            if not isinstance(paint, np.ndarray):
                y, x = np.mgrid[rows, columns] + 0.5
                paint = paint(x, y)
            # Over what the object has there already; where it has nothing yet, the paint alone.
            weight = np.where(total[here] > 0, share, share > 0)[..., None]
            colours[here] += weight * (paint - colours[here])
            total[here] = np.minimum(1, total[here] + share)
        window = slice(top, bottom), slice(left, right)
        if dirt:
            colours += dirt * self.noise[window][..., None]
        self.image[window] += total[..., None] * (colours - self.image[window])
        if id_ is not None:
            self.ids[window][total >= 0.5] = id_

    def shade(self, x: float, z: float, across: float, along: float, strength: float = 0.45) -> None:
        """A soft shadow on the ground: an ellipse of the given half axes in metres."""
        for size, share in ((1.0, 0.4), (0.75, 0.6)):
            ellipse = polar(1.0, turn(20)) * (across * size, along * size)
            ring = self.camera.ground(x + ellipse[:, 0], np.maximum(z + ellipse[:, 1], 0.5))
            window, cover = crop_coverage([ring], *self.ids.shape)
            self.image[window] *= 1 - strength * share * cover[..., None]

    def finished(self, smallest: int) -> tuple[np.ndarray, np.ndarray]:
        """The picture (H, W, 3) uint8 and the instance ids (H, W) uint16.

        Args:
            smallest: the visible pixels that an object needs to count as an instance. With fewer it has the label
                id alone, as groups in Cityscapes do.
        """
        ids, counts = np.unique(self.ids, return_counts=True)
        found = self.ids.copy()
        for id_ in ids[(ids >= 1000) & (counts < smallest)]:
            found[found == id_] = id_ // 1000
        image = self.image + self.rng.normal(0, 2.2, self.image.shape)
        return np.clip(np.rint(image), 0, 255).astype(np.uint8), found.astype(np.uint16)


def limb(
    start: Sequence[float] | np.ndarray, end: Sequence[float] | np.ndarray, start_width: float, end_width: float
) -> np.ndarray:
    """The ring (4, 2) of a bar between two points whose width changes evenly."""
    a, b = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
    direction = (b - a) / np.linalg.norm(b - a)
    aside = np.array([-direction[1], direction[0]])
    return np.stack(
        [a - aside * start_width / 2, b - aside * end_width / 2, b + aside * end_width / 2, a + aside * start_width / 2]
    )


def disc(x: float, y: float, radius: float, points: int = 20) -> np.ndarray:
    """The ring (P, 2) of a circle."""
    return np.array([x, y]) + polar(radius, turn(points))


def box(left: float, bottom: float, right: float, top: float) -> np.ndarray:
    """The ring (4, 2) of an upright rectangle."""
    return np.array([[left, bottom], [right, bottom], [right, top], [left, top]])


def leafy(rng: np.random.Generator, x: float, y: float, radius: float, points: int = 26) -> np.ndarray:
    """The ring (P, 2) of a clump of leaves: rough, and as wide as high."""
    rough = radius * rng.uniform(0.72, 1.08, points)
    return np.array([x, y]) + polar(rough, turn(points) + rng.uniform(0, 2 * np.pi))


def stripes(along: np.ndarray, period: float, share: float, blur: np.ndarray | float) -> np.ndarray:
    """How much of each pixel lies in the middle `share` of every period, with edges softened over `blur`."""
    inside = share * period / 2 - np.abs(along % period - period / 2)
    mix = np.clip(blur / period, 0, 1)
    return (1 - mix) * np.clip(inside / np.maximum(blur, 1e-6) + 0.5, 0, 1) + mix * share
