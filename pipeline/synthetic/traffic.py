"""Draws what moves in a street: people, bicycles, motorcycles, cars, trucks, buses and trains."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipeline.synthetic.scenery import GLASS, label
from pipeline.synthetic.view import Layer, View, box, disc, limb, rgb

# Classes differ in colour where they can, so that they are learned soon: riders wear bright jackets, trams are red,
# buses yellow, loads white, and cars none of these.
CLOTHES = (
    rgb(40, 70, 140), rgb(54, 54, 60), rgb(122, 46, 54), rgb(58, 118, 84), rgb(120, 70, 130), rgb(96, 140, 176),
)  # fmt: skip
JACKETS = (rgb(250, 122, 30), rgb(244, 222, 40), rgb(240, 84, 60))
TROUSERS = (rgb(44, 52, 76), rgb(50, 48, 46), rgb(112, 96, 78), rgb(72, 84, 112))
SKIN = (rgb(236, 196, 166), rgb(206, 154, 118), rgb(144, 98, 70), rgb(98, 66, 50))
BODIES = (
    rgb(34, 66, 138), rgb(52, 54, 58), rgb(150, 156, 162), rgb(58, 106, 78), rgb(110, 44, 58), rgb(70, 128, 160),
)  # fmt: skip
TYRE = rgb(34, 34, 36)


def _pick(rng: np.random.Generator, colours: Sequence[np.ndarray]) -> np.ndarray:
    return colours[int(rng.integers(len(colours)))]


# Vehicles: a side profile, as wide all over


@dataclass(frozen=True)
class Vehicle:
    """The body of a vehicle, in metres; u runs along it with the front at the high end, v is the height."""

    name: str
    """Its class in Cityscapes."""
    profile: np.ndarray
    """(P, 2) of (u, v), counter-clockwise with u to the right and v up."""
    width: float
    wheels: tuple[float, ...]
    """Where the axles are."""
    radius: float
    side_windows: tuple[np.ndarray, ...] = ()
    """Rings of (u, v)."""
    glazed: tuple[tuple[int, float, float], ...] = ()
    """Edges of the profile with a window: number, and the shares of the edge between which it lies."""
    stripe: tuple[float, float] | None = None
    """Between which heights the sides have another colour."""


def _row(start: float, end: float, low: float, high: float, count: int, gap: float = 0.18) -> tuple[np.ndarray, ...]:
    """Windows side by side."""
    edges = np.linspace(start, end, count + 1)
    return tuple(box(a + gap / 2, low, b - gap / 2, high) for a, b in pairwise(edges))


def _profile(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points)


SEDAN = Vehicle(
    "car",
    _profile((-2.2, 0.3), (2.2, 0.3), (2.2, 0.78), (1.15, 0.95), (0.5, 1.44), (-0.85, 1.44), (-1.5, 1.0), (-2.2, 0.95)),
    1.8, (-1.35, 1.35), 0.33,
    (_profile((-1.2, 1.0), (-0.25, 1.0), (-0.25, 1.36), (-0.82, 1.36)),
     _profile((-0.15, 1.0), (0.95, 1.0), (0.46, 1.36), (-0.15, 1.36))),
    ((3, 0.08, 0.94), (5, 0.08, 0.92)),
)  # fmt: skip
HATCHBACK = Vehicle(
    "car",
    _profile((-1.9, 0.3), (1.9, 0.3), (1.9, 0.78), (1.05, 0.98), (0.4, 1.5), (-1.35, 1.5), (-1.8, 1.02), (-1.9, 0.9)),
    1.75, (-1.2, 1.2), 0.32,
    (_profile((-1.5, 1.04), (-0.3, 1.04), (-0.3, 1.42), (-1.25, 1.42)),
     _profile((-0.2, 1.04), (0.88, 1.04), (0.38, 1.42), (-0.2, 1.42))),
    ((3, 0.08, 0.94), (5, 0.08, 0.95)),
)  # fmt: skip
ESTATE = Vehicle(
    "car",
    _profile((-2.3, 0.3), (2.3, 0.3), (2.3, 0.82), (1.3, 1.0), (0.7, 1.62), (-2.0, 1.62), (-2.25, 1.1), (-2.3, 0.9)),
    1.85, (-1.4, 1.4), 0.35, _row(-2.0, 0.75, 1.08, 1.52, 3, 0.12), ((3, 0.08, 0.94), (5, 0.08, 0.95)),
)  # fmt: skip
TRUCK = Vehicle(
    "truck", _profile((-3.6, 0.75), (1.9, 0.75), (1.9, 3.4), (-3.6, 3.4)), 2.5, (-2.6, -1.5), 0.48, stripe=(0.75, 1.0)
)
CAB = Vehicle(
    "truck", _profile((1.95, 0.45), (3.9, 0.45), (3.9, 1.4), (3.65, 2.75), (1.95, 2.75)), 2.4, (3.0,), 0.48,
    (_profile((2.45, 1.5), (3.65, 1.5), (3.5, 2.45), (2.45, 2.45)),), ((2, 0.1, 0.85),),
)  # fmt: skip
BUS = Vehicle(
    "bus", _profile((-5.2, 0.35), (5.2, 0.35), (5.25, 1.2), (5.1, 3.1), (-5.2, 3.1)), 2.5, (-3.2, 3.3), 0.5,
    _row(-5.0, 4.9, 1.35, 2.55, 7), ((2, 0.05, 0.8), (4, 0.22, 0.62)), (0.35, 0.95),
)  # fmt: skip
TRAIN = Vehicle(
    "train",
    _profile((-10, 0.3), (10, 0.3), (10.3, 1.2), (9.7, 3.2), (9.3, 3.5), (-9.3, 3.5), (-9.7, 3.2), (-10.3, 1.2)),
    2.5, (), 0.3, _row(-9.2, 9.2, 1.45, 2.75, 12), ((2, 0.05, 0.85), (6, 0.15, 0.95)), (0.3, 1.05),
)  # fmt: skip
TRAILER = Vehicle("trailer", _profile((-1.4, 0.5), (1.2, 0.5), (1.2, 1.5), (-1.4, 1.5)), 1.6, (0.0,), 0.3)
CARAVAN = Vehicle(
    "caravan", _profile((-2.0, 0.4), (2.0, 0.4), (2.2, 1.3), (1.8, 2.5), (-1.8, 2.5), (-2.1, 1.3)), 2.2, (-0.2,), 0.33,
    (box(-1.2, 1.3, -0.2, 1.95), box(0.4, 1.3, 1.3, 1.95)), ((2, 0.2, 0.8), (4, 0.25, 0.8)), (0.4, 0.75),
)  # fmt: skip
CARS = (SEDAN, HATCHBACK, ESTATE)


@dataclass(frozen=True)
class _Pose:
    """Where a vehicle is and where it heads: yaw 0 is away from the camera, pi / 2 to the right."""

    view: View
    x: float
    z: float
    yaw: float

    def world(self, u: np.ndarray, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        """World points (P, 3) of points (P,) along, above and across."""
        sine, cosine = np.sin(self.yaw), np.cos(self.yaw)
        depth = self.z + u * cosine - w * sine
        return np.column_stack([self.x + u * sine + w * cosine, v, np.maximum(depth, 0.4)])

    def side(self, ring: np.ndarray, w: float) -> np.ndarray:
        """The picture's ring of one of (u, v) on the side at w."""
        return self.view.camera.project(self.world(ring[:, 0], ring[:, 1], np.full(len(ring), w)))

    def across(self, start: np.ndarray, end: np.ndarray, left: float, right: float) -> np.ndarray:
        """The picture's ring of the rectangle between two points (u, v), from w = left to right."""
        u = np.array([start[0], end[0], end[0], start[0]])
        v = np.array([start[1], end[1], end[1], start[1]])
        return self.view.camera.project(self.world(u, v, np.array([left, left, right, right])))

    def sees(self, points: np.ndarray, normal: np.ndarray) -> bool:
        """Whether the camera is in front of the face with these world points (P, 3) and this normal in (u, v, w)."""
        zero = np.zeros(1)
        outward = self.world(normal[:1], normal[1:2], normal[2:]) - self.world(zero, zero, zero)
        eye = np.array([0, self.view.camera.height, 0])
        return bool((eye - points.mean(axis=0)) @ outward[0] > 0)


def vehicle(view: View, kind: Vehicle, x: float, z: float, yaw: float, colour: np.ndarray, id_: int) -> None:
    pose, half = _Pose(view, x, z, yaw), kind.width / 2
    length = np.ptp(kind.profile[:, 0])
    middle = kind.profile[:, 0].mean()
    view.shade(
        x + middle * np.sin(yaw), z + middle * np.cos(yaw),
        0.55 * (abs(np.sin(yaw)) * length + abs(np.cos(yaw)) * kind.width),
        0.55 * (abs(np.cos(yaw)) * length + abs(np.sin(yaw)) * kind.width), 0.6,
    )  # fmt: skip
    accent = colour * 0.5 if colour.sum() > 330 else colour * 0.5 + 90

    def seen(paint: np.ndarray) -> np.ndarray:
        return view.faded(paint, z)

    layers: list[Layer] = []
    for axle in kind.wheels:
        for w in (-half + 0.1, half - 0.1):
            tread = pose.across(np.array([axle, 0.0]), np.array([axle, 2 * kind.radius]), w - 0.13, w + 0.13)
            layers += [([tread], seen(TYRE)), ([pose.side(disc(axle, kind.radius, kind.radius), w)], seen(TYRE))]
    faces: list[tuple[float, list[Layer]]] = []
    for sign in (-1.0, 1.0):
        corners = pose.world(kind.profile[:, 0], kind.profile[:, 1], np.full(len(kind.profile), sign * half))
        if not pose.sees(corners, np.array([0, 0, sign])):
            continue
        light = 0.94 if np.cos(yaw) * sign > 0 else 0.8
        face: list[Layer] = [([view.camera.project(corners)], seen(colour * light))]
        if kind.stripe:
            low, high = kind.stripe
            start, end = kind.profile[:, 0].min(), kind.profile[:, 0].max()
            face.append(([pose.side(box(start, low, end, high), sign * half)], seen(accent)))
        face += [([pose.side(ring, sign * half)], seen(GLASS * 0.9)) for ring in kind.side_windows]
        for axle in kind.wheels:
            wheel, hub = (pose.side(disc(axle, kind.radius, share * kind.radius), sign * half) for share in (1.0, 0.5))
            face += [([wheel], seen(TYRE)), ([hub], seen(rgb(150, 152, 156)))]
        faces.append((float(np.linalg.norm(corners.mean(axis=0))), face))
    for number, (start, end) in enumerate(zip(kind.profile, np.roll(kind.profile, -1, axis=0), strict=True)):
        along = end - start
        normal = np.array([along[1], -along[0], 0])
        corners = pose.world(
            np.array([start[0], end[0]] * 2), np.array([start[1], end[1]] * 2), np.array([-half, -half, half, half])
        )
        if not pose.sees(corners, normal):
            continue
        steep = abs(along[1]) / np.hypot(*along)
        face = [([pose.across(start, end, -half, half)], seen(colour * (1.12 - 0.24 * steep)))]
        for edge, low, high in kind.glazed:
            if edge == number:
                inset = start + low * along, start + high * along
                face.append(([pose.across(*inset, -0.86 * half, 0.86 * half)], seen(GLASS)))
        if steep > 0.9 and min(start[1], end[1]) < 0.8:
            face += _lights(pose, kind, start, end, seen)
        faces.append((float(np.linalg.norm(corners.mean(axis=0))), face))
    for _, face in sorted(faces, key=lambda found: -found[0]):
        layers += face
    view.fill_layers(layers, id_)


def _lights(
    pose: _Pose, kind: Vehicle, start: np.ndarray, end: np.ndarray, seen: Callable[[np.ndarray], np.ndarray]
) -> list[Layer]:
    """Lamps and a number plate on the front or the rear, whichever the edge is."""
    low, high = (start, end) if start[1] < end[1] else (end, start)
    lamp = rgb(255, 250, 224) if low[0] > kind.profile[:, 0].mean() else rgb(214, 30, 32)
    upwards = (high - low) * min(1.0, 0.62 / np.hypot(*(high - low)))
    outer = 0.48 * kind.width
    return [
        ([pose.across(low + 0.45 * upwards, low + 0.86 * upwards, outer - 0.3, outer)], seen(lamp)),
        ([pose.across(low + 0.45 * upwards, low + 0.86 * upwards, -outer, 0.3 - outer)], seen(lamp)),
        ([pose.across(low + 0.16 * upwards, low + 0.36 * upwards, -0.26, 0.26)], seen(rgb(232, 232, 226))),
    ]


def car(view: View, x: float, z: float, yaw: float, id_: int | None = None) -> None:
    kind = CARS[int(view.rng.integers(len(CARS)))]
    colour = _pick(view.rng, BODIES)
    vehicle(view, kind, x, z, yaw, colour, view.new_object(label("car")) if id_ is None else id_)


def truck(view: View, x: float, z: float, yaw: float) -> None:
    rng = view.rng
    id_ = view.new_object(label("truck"))
    load = _pick(rng, (rgb(232, 228, 218), rgb(214, 214, 220)))
    parts = [(TRUCK, load), (CAB, _pick(rng, BODIES))]
    # The part that is farther away first.
    for kind, colour in parts[:: -1 if np.cos(yaw) >= 0 else 1]:
        vehicle(view, kind, x, z, yaw, colour, id_)


def bus(view: View, x: float, z: float, yaw: float) -> None:
    colour = _pick(view.rng, (rgb(240, 194, 40), rgb(232, 170, 44)))
    vehicle(view, BUS, x, z, yaw, colour, view.new_object(label("bus")))


def train(view: View, x: float, z: float, yaw: float) -> None:
    colour = _pick(view.rng, (rgb(208, 56, 48), rgb(190, 36, 52)))
    vehicle(view, TRAIN, x, z, yaw, colour, view.new_object(label("train")))


def trailer(view: View, x: float, z: float, yaw: float) -> None:
    """A trailer or a caravan: void with instances."""
    kind = TRAILER if view.rng.random() < 0.5 else CARAVAN
    colour = rgb(236, 234, 226) if kind is CARAVAN else rgb(120, 124, 120)
    vehicle(view, kind, x, z, yaw, colour, view.new_object(label(kind.name)))


# People and two-wheelers: outlines on a plane that faces the camera


def _upright(
    view: View, x: float, z: float, parts: Sequence[tuple[list[np.ndarray], np.ndarray]], id_: int, turned: float
) -> None:
    """The parts in metres, back to front; `turned` scales their width, and mirrors them if it is negative."""
    stretch = np.array([turned, 1.0])
    view.fill_layers(
        [
            ([view.camera.upright(ring * stretch, x, z) for ring in rings], view.faded(paint, z))
            for rings, paint in parts
        ],
        id_,
    )


def person(view: View, x: float, z: float, id_: int | None = None) -> None:
    """A person who walks or stands."""
    rng = view.rng
    tall = rng.uniform(1.55, 1.9) if rng.random() < 0.85 else rng.uniform(1.05, 1.35)
    coat, trousers, skin = _pick(rng, CLOTHES), _pick(rng, TROUSERS), _pick(rng, SKIN)
    hair = _pick(rng, (rgb(44, 34, 28), rgb(96, 68, 40), rgb(196, 160, 92), rgb(150, 148, 146)))
    stride, swing = rng.uniform(0.0, 0.2), rng.uniform(0.03, 0.16)
    parts = [
        ([limb((-0.015, 0.5), (-stride, 0.02), 0.1, 0.06)], trousers * 0.8),
        ([limb((0.06, 0.76), (0.1 + swing, 0.46), 0.06, 0.045)], coat * 0.75),
        ([limb((0.015, 0.5), (stride, 0.02), 0.1, 0.06)], trousers),
        ([box(-stride - 0.04, 0, -stride + 0.07, 0.035)], rgb(40, 34, 32)),
        ([box(stride - 0.04, 0, stride + 0.07, 0.035)], rgb(40, 34, 32)),
        ([np.array([[-0.09, 0.46], [0.09, 0.46], [0.125, 0.8], [0.05, 0.85], [-0.05, 0.85], [-0.125, 0.8]])], coat),
        ([limb((-0.1, 0.8), (-0.12 - swing * 0.7, 0.47), 0.065, 0.045)], coat * 0.9),
        ([box(-0.03, 0.83, 0.03, 0.88)], skin * 0.9),
        ([disc(0, 0.925, 0.068)], hair),
        ([disc(0.012, 0.91, 0.055)], skin),
    ]
    if rng.random() < 0.25:
        parts.insert(5, ([np.array([[-0.09, 0.48], [0.09, 0.48], [0.16, 0.26], [-0.16, 0.26]])], coat * 0.85))
    if rng.random() < 0.25:
        parts.append(([box(0.1, 0.36, 0.22, 0.52)], _pick(rng, CLOTHES)))
    view.shade(x, z, 0.35, 0.35)
    turned = rng.choice([-1, 1]) * rng.uniform(0.8, 1.05)
    shown = [([ring * tall for ring in rings], paint) for rings, paint in parts]
    _upright(view, x, z, shown, view.new_object(label("person")) if id_ is None else id_, turned)


def bicycle(view: View, x: float, z: float, turned: float, id_: int | None = None) -> None:
    """Seen from the side, with see-through wheels."""
    colour = _pick(view.rng, BODIES)
    # So that a rim is there at all in a small picture.
    thick = max(0.045, 1.15 / view.camera.scale(z))
    wheel, parts = 0.35, []
    for hub in (-0.54, 0.54):
        # Foreshortening narrows a rim's sides too.
        narrow = np.array([max(1 - thick / abs(turned) / wheel, 0.15), 1 - thick / wheel])
        ring, at = disc(0, 0, wheel), np.array([hub, wheel])
        parts.append(([ring + at, ring * narrow + at], rgb(36, 36, 38)))
        if view.camera.scale(z) > 40:
            spokes = [
                limb((hub, wheel), (hub + a, wheel + b), 0.02, 0.02)
                for a, b in 0.33 * np.array([[1, 0.3], [-0.3, 1], [-1, -0.3], [0.3, -1]])
            ]
            parts += [([spoke], rgb(150, 150, 152)) for spoke in spokes]
    crank, head = (-0.08, 0.34), (0.4, 0.84)
    for start, end in (
        ((-0.54, wheel), crank),
        (crank, (-0.2, 0.82)),
        (crank, head),
        ((-0.18, 0.76), head),
        ((-0.54, wheel), (-0.18, 0.76)),
        (head, (0.54, wheel)),
    ):
        parts.append(([limb(start, end, thick, thick)], colour))
    parts.append(([limb((-0.36, 0.88), (-0.1, 0.88), thick * 1.4, thick)], rgb(40, 36, 34)))
    parts.append(([limb(head, (0.44, 1.0), thick, thick)], colour))
    parts.append(([limb((0.3, 1.02), (0.52, 1.0), thick, thick)], rgb(50, 50, 52)))
    view.shade(x, z, 0.8 * abs(turned), 0.3, 0.35)
    _upright(view, x, z, parts, view.new_object(label("bicycle")) if id_ is None else id_, turned)


def motorcycle(view: View, x: float, z: float, turned: float) -> None:
    colour = _pick(view.rng, BODIES)
    thick = max(0.08, 1.2 / view.camera.scale(z))
    wheel = 0.34
    parts: list[tuple[list[np.ndarray], np.ndarray]] = []
    for hub in (-0.68, 0.68):
        parts.append(([disc(hub, wheel, wheel), disc(hub, wheel, wheel * 0.5)], rgb(32, 32, 34)))
        parts.append(([disc(hub, wheel, wheel * 0.28)], rgb(150, 152, 156)))
    parts += [
        ([limb((0.68, wheel), (0.42, 0.98), thick, thick)], rgb(140, 142, 146)),
        ([limb((-0.68, wheel), (-0.1, 0.45), thick, thick)], rgb(96, 98, 102)),
        ([_profile((-0.32, 0.26), (0.3, 0.26), (0.34, 0.6), (-0.34, 0.6))], rgb(88, 88, 92)),
        ([limb((-0.3, 0.3), (-0.95, 0.4), 0.1, 0.12)], rgb(170, 172, 176)),
        (
            [_profile((-0.95, 0.78), (-0.4, 0.6), (0.3, 0.58), (0.5, 0.72), (0.4, 0.98), (0.1, 0.95), (-0.1, 0.82))],
            colour,
        ),
        ([_profile((-0.95, 0.8), (-0.1, 0.78), (-0.05, 0.88), (-0.9, 0.92))], rgb(36, 34, 34)),
        ([limb((0.4, 0.95), (0.2, 1.12), thick, thick)], rgb(60, 60, 64)),
        ([disc(0.52, 0.86, 0.11)], rgb(250, 244, 214)),
    ]
    view.shade(x, z, abs(turned), 0.35, 0.45)
    _upright(view, x, z, parts, view.new_object(label("motorcycle")), turned)


def rider(view: View, x: float, z: float, turned: float, *, on: str) -> None:
    """A rider on a bicycle or a motorcycle."""
    (bicycle if on == "bicycle" else motorcycle)(view, x, z, turned)
    rng = view.rng
    coat, trousers, skin = _pick(rng, JACKETS), _pick(rng, TROUSERS), _pick(rng, SKIN)
    seat, foot, hand = (-0.22, 0.95), (0.0, 0.22), (0.4, 1.03)
    if on == "motorcycle":
        seat, foot, hand = (-0.3, 0.9), (0.05, 0.34), (0.22, 1.1)
    shoulder = (seat[0] + 0.22, seat[1] + 0.5)
    head = (shoulder[0] + 0.1, shoulder[1] + 0.22)
    knee = (seat[0] + 0.42, seat[1] - 0.2)
    helmet = _pick(rng, JACKETS) if on == "motorcycle" or rng.random() < 0.6 else rgb(70, 50, 36)
    wide = 1 / max(abs(turned), 0.45) ** 0.5  # a body is nearly as broad from behind as it is deep from the side
    parts = [
        ([limb(seat, knee, 0.2 * wide, 0.15 * wide)], trousers),
        ([limb(knee, foot, 0.15 * wide, 0.1 * wide)], trousers * 0.9),
        ([box(foot[0] - 0.08, foot[1] - 0.05, foot[0] + 0.18, foot[1] + 0.04)], rgb(40, 34, 32)),
        ([limb(seat, shoulder, 0.3 * wide, 0.36 * wide)], coat),
        ([limb(shoulder, hand, 0.13 * wide, 0.1 * wide)], coat * 0.8),
        ([disc(*head, 0.135)], skin),
        ([disc(head[0] - 0.02, head[1] + 0.04, 0.15)[:11]], helmet),
    ]
    _upright(view, x, z, parts, view.new_object(label("rider")), turned)
