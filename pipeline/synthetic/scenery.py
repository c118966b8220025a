"""Draws the static parts of a street: sky, ground, buildings, walls, fences, trees, poles, signs and lights."""

import numpy as np
from cityscapesscripts.helpers.labels import name2label

from pipeline.synthetic.drawing import polar, smooth_noise, turn
from pipeline.synthetic.view import Layer, Paint, View, box, disc, leafy, limb, rgb, stripes

FAR = 70.0  # metres, where the street ends
NEAR = 0.8  # metres, behind the lower edge of any picture

FACADES = (
    rgb(196, 170, 138), rgb(168, 104, 82), rgb(206, 196, 176), rgb(150, 146, 142), rgb(184, 136, 96),
    rgb(214, 206, 196), rgb(140, 92, 78), rgb(176, 158, 120),
)  # fmt: skip
FOLIAGE = (rgb(58, 104, 44), rgb(82, 122, 48), rgb(48, 88, 52), rgb(104, 128, 50))
GLASS = rgb(62, 78, 94)


def label(name: str) -> int:
    """Cityscapes' label id of a class."""
    return int(name2label[name].id)


def sky(view: View) -> None:
    height, width = view.ids.shape
    # Twice as wide as high.
    noise = sum(size * smooth_noise(view.rng, 2 * height, width, size * height / 3)[::2] for size in (1.0, 0.4))
    clouds = np.clip(noise + 0.1, 0, 1)[..., None]
    depth = np.linspace(0, 1, height, dtype=np.float32)[:, None, None] * height / max(view.camera.horizon, 1)
    zenith = view.haze + (rgb(92, 148, 216) - view.haze) * view.rng.uniform(0.35, 1.0)
    blue = zenith + (view.haze - zenith) * np.clip(depth, 0, 1)
    view.image[:] = blue + 0.55 * clouds * (rgb(246, 246, 248) - blue)
    view.ids[:] = label("sky")


def backdrop(view: View) -> None:
    """The end of the street: far houses and trees."""
    rng, x = view.rng, -90.0
    while x < 90:
        width = rng.uniform(7, 16)
        if rng.random() < 0.55:
            colour = view.faded(FACADES[rng.integers(len(FACADES))], FAR)
            outline = box(x, -2, x + width, rng.uniform(7, 15))
            if rng.random() < 0.5:
                outline = np.insert(outline, 3, [x + width / 2, outline[2, 1] + rng.uniform(2, 4)], axis=0)
            view.fill([view.camera.upright(outline, 0, FAR)], colour, label("building"), dirt=9)
        else:
            for _ in range(int(width / 2)):
                clump = leafy(rng, x + rng.uniform(0, width), rng.uniform(1, 7), rng.uniform(2, 3.5))
                colour = view.faded(FOLIAGE[rng.integers(len(FOLIAGE))], FAR)
                view.fill([view.camera.upright(clump, 0, FAR)], colour, label("vegetation"), dirt=14)
        x += width


def strip(
    view: View, left: float, right: float, colour: np.ndarray, name: str, slab: float = 0, dirt: float = 9
) -> None:
    """The ground from X = left to right, all along the street; `slab` is the length of its slabs in metres."""
    camera = view.camera

    def paint(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        z = camera.focal * camera.height / np.maximum(y - camera.horizon, 0.5)
        shown = view.faded(colour, z)
        if slab:
            blur = z**2 / (camera.focal * camera.height)
            across = (x - camera.centre) * z / camera.focal
            joints = np.maximum(stripes(z, slab, 0.06, blur), stripes(across - left, slab, 0.06, z / camera.focal))
            shown = shown * (1 - 0.22 * joints[..., None])
        return shown

    ring = camera.ground([left, right, right, left], [NEAR, NEAR, FAR, FAR])
    view.fill([ring], paint, label(name), dirt=dirt)


def markings(view: View, x: float, *, dashed: bool) -> None:
    """A white line on the road."""
    width, z, length = 0.14, 1.0, 3.0
    while z < FAR:
        end = min(z + length, FAR)
        ring = view.camera.ground([x - width / 2, x + width / 2, x + width / 2, x - width / 2], [z, z, end, end])
        view.fill([ring], view.faded(rgb(222, 222, 218), z), None, dirt=10)
        z += length + (4.0 if dashed else 0)


def crossing(view: View, left: float, right: float, z: float) -> None:
    """Zebra stripes across the road."""
    for x in np.arange(left + 0.3, right - 0.5, 0.95):
        ring = view.camera.ground([x, x + 0.5, x + 0.5, x], [z, z, z + 3, z + 3])
        view.fill([ring], view.faded(rgb(220, 220, 216), z), None, dirt=10)


def rails(view: View, x: float) -> None:
    for rail in (x - 0.72, x + 0.72):
        ring = view.camera.ground([rail - 0.07, rail + 0.07, rail + 0.07, rail - 0.07], [NEAR, NEAR, FAR, FAR])
        view.fill([ring], rgb(206, 208, 212), None)


def _along(view: View, x: float, near: float, far: float, bottom: float, top: float) -> np.ndarray:
    """The ring (4, 2) of an upright rectangle along the street."""
    return view.camera.project(np.array([[x, bottom, near], [x, top, near], [x, top, far], [x, bottom, far]]))


def _facade(view: View, x: float | None, z: float, colour: np.ndarray, seed: int) -> Paint:
    """Windows in rows, on the plane X = x along the street or Z = z across it."""
    rng, camera = np.random.default_rng(seed), view.camera
    storey, bay = rng.uniform(2.8, 3.5), rng.uniform(2.0, 3.0)
    wide, high = rng.uniform(0.38, 0.6), rng.uniform(0.45, 0.65)
    glass = GLASS * rng.uniform(0.8, 1.3)
    plinth = colour * rng.uniform(0.6, 0.85)

    def paint(column: np.ndarray, row: np.ndarray) -> np.ndarray:
        if x is None:
            depth = np.full(column.shape, z)
            along, blur = (column - camera.centre) * z / camera.focal, depth / camera.focal
        else:
            depth = np.clip(camera.focal * x / np.where(column == camera.centre, 1e-3, column - camera.centre), 1, FAR)
            along, blur = depth, depth**2 / (camera.focal * abs(x))
        above = camera.height - (row - camera.horizon) * depth / camera.focal
        fine = depth / camera.focal
        window = stripes(along, bay, wide, blur) * stripes(above + 0.2, storey, high, fine)
        sill = stripes(along, bay, wide + 0.1, blur) * stripes(above + 0.2, storey, high + 0.1, fine)
        ground_floor = np.clip((storey - 0.35 - above) / fine + 0.5, 0, 1)
        shown = colour + (plinth - colour) * ground_floor[..., None]
        shown = shown + (shown * 1.18 - shown) * sill[..., None]
        shown = shown + (glass - shown) * window[..., None]
        return view.faded(shown, depth)

    return paint


def building(view: View, side: int, x: float, near: float, far: float, height: float) -> None:
    """A house from Z = near to far whose front stands at X = x on the given side, -1 or 1."""
    rng = view.rng
    colour = FACADES[rng.integers(len(FACADES))] * rng.uniform(0.85, 1.1)
    seed = int(rng.integers(1 << 30))
    name, outer = label("building"), x + side * 14
    front = view.camera.project(np.array([[x, 0, near], [outer, 0, near], [outer, height, near], [x, height, near]]))
    roof = rgb(112, 66, 54) * rng.uniform(0.7, 1.2)
    rise = rng.uniform(1.2, 2.6)
    slope = np.array(
        [[x, height, near], [x, height, far], [x + side * 3, height + rise, far], [x + side * 3, height + rise, near]]
    )
    layers: list[Layer] = []
    if rng.random() < 0.6:
        gable = np.array([[x, height, near], [x + side * 3, height + rise, near], [outer, height, near]])
        layers += [
            ([view.camera.project(gable)], view.faded(colour * 0.78, near)),
            ([view.camera.project(slope)], view.faded(roof, near)),
        ]
    layers.append(([front], _facade(view, None, near, colour * 0.78, seed)))
    layers.append(
        ([_along(view, x, near, far, 0, height)], _facade(view, x, near, colour * (0.92 if side < 0 else 1.04), seed))
    )
    view.fill_layers(layers, name, dirt=7)


def wall(view: View, x: float, near: float, far: float, height: float) -> None:
    camera, colour = view.camera, rgb(134, 122, 112) * view.rng.uniform(0.85, 1.15)

    def paint(column: np.ndarray, row: np.ndarray) -> np.ndarray:
        depth = np.clip(camera.focal * x / np.where(column == camera.centre, 1e-3, column - camera.centre), 1, FAR)
        above = camera.height - (row - camera.horizon) * depth / camera.focal
        course = np.floor(above / 0.4)
        joints = np.maximum(
            stripes(above, 0.4, 0.16, depth / camera.focal),
            stripes(depth + 0.45 * course, 0.9, 0.08, depth**2 / (camera.focal * abs(x))),
        )
        return view.faded(colour * (1 - 0.3 * joints[..., None]), depth)

    view.fill_layers(
        [
            ([_along(view, x, near, far, 0, height)], paint),
            ([_along(view, x, near, far, height, height + 0.16)], view.faded(colour * 1.25, near)),
        ],
        label("wall"),
        dirt=9,
    )


def fence(view: View, x: float, near: float, far: float, height: float) -> None:
    """Pickets on two rails; one sees through between those that are near."""
    rng, name = view.rng, label("fence")
    colour = (rgb(228, 224, 214), rgb(134, 92, 58), rgb(70, 92, 80))[rng.integers(3)]
    spacing = 0.34
    layers: list[Layer] = [
        ([_along(view, x, near, far, level * height, level * height + 0.13)], view.faded(colour * 0.82, near))
        for level in (0.25, 0.72)
    ]
    for z in np.arange(far, near, -spacing):
        top = np.array(
            [[x, 0, z], [x, height, z], [x, height + 0.14, z - 0.09], [x, height, z - 0.18], [x, 0, z - 0.18]]
        )
        layers.append(([view.camera.project(top)], view.faded(colour, float(z))))
    view.fill_layers(layers, name, dirt=6)


def hedge(view: View, x: float, near: float, far: float, height: float) -> None:
    rng = view.rng
    clumps: list[Layer] = []
    for z in np.arange(far, near, -0.9):
        for _ in range(2):
            clump = leafy(rng, rng.uniform(-0.5, 0.5), rng.uniform(0.2, 1) * height * 0.75, height * 0.42, 18)
            colour = FOLIAGE[rng.integers(len(FOLIAGE))] * rng.uniform(0.8, 1.15)
            clumps.append(([view.camera.upright(clump, x, float(z))], view.faded(colour, float(z))))
    view.fill_layers(clumps, label("vegetation"), dirt=15)


def tree(view: View, x: float, z: float, height: float) -> None:
    """A trunk and a crown of leaf clumps, or bare branches."""
    rng, name = view.rng, label("vegetation")
    bark = view.faded(rgb(84, 66, 50), z)
    crown, radius = height * 0.66, height * rng.uniform(0.24, 0.32)
    column, reach = view.camera.centre + x * view.camera.scale(z), 1.4 * radius * view.camera.scale(z)
    if not -reach < column < view.ids.shape[1] + reach:
        return
    view.shade(x, z, radius, 0.8, 0.3)
    if rng.random() < 0.18:
        branches: list[Layer] = []
        _branch(rng, branches, (0.0, 0.0), np.pi / 2, height * 0.34, height * 0.045, 5)
        view.fill_layers([([view.camera.upright(ring, x, z) for ring in rings], bark) for rings, _ in branches], name)
        return
    trunk = limb((0, 0), (rng.uniform(-0.2, 0.2), crown), height * 0.05, height * 0.03)
    view.fill([view.camera.upright(trunk, x, z)], bark, name, dirt=10)
    colour = FOLIAGE[rng.integers(len(FOLIAGE))]
    count = int(np.clip(1.6 * radius * view.camera.scale(z), 8, 22))
    clumps: list[Layer] = []
    for share in np.linspace(0, 1, count):
        angle, distance = rng.uniform(0, 2 * np.pi), radius * np.sqrt(rng.random())
        middle = crown + 1.15 * distance * np.sin(angle) + 0.12 * share * radius
        clump = leafy(rng, distance * np.cos(angle), middle, radius * rng.uniform(0.24, 0.46), 18)
        # From the shade below and behind to the light above.
        clumps.append(([view.camera.upright(clump, x, z)], view.faded(colour * (0.62 + 0.5 * share), z)))
    view.fill_layers(clumps, name, dirt=16)


def _branch(
    rng: np.random.Generator,
    into: list[Layer],
    foot: tuple[float, float],
    angle: float,
    length: float,
    width: float,
    levels: int,
) -> None:
    tip = np.array(foot) + length * np.array([np.cos(angle), np.sin(angle)])
    into.append(([limb(foot, tip, width, width * 0.65)], np.zeros(3)))
    if levels > 1:
        for turned in (-0.42, 0.42):
            bend = angle + turned + rng.uniform(-0.2, 0.2)
            _branch(
                rng,
                into,
                (float(tip[0]), float(tip[1])),
                bend,
                length * rng.uniform(0.66, 0.82),
                width * 0.65,
                levels - 1,
            )


def _post(view: View, z: float, height: float, width: float) -> np.ndarray:
    """An upright bar in metres that is at least 1.3 pixels wide."""
    half = max(width, 1.3 / view.camera.scale(z)) / 2
    return box(-half, 0, half, height)


def lamp(view: View, x: float, z: float, towards: int) -> None:
    """A street lamp whose arm reaches out to the given side."""
    colour, height = view.faded(rgb(96, 100, 104), z), view.rng.uniform(4.8, 6.2)
    thick = max(0.12, 1.2 / view.camera.scale(z))
    parts = [
        _post(view, z, height, 0.15),
        limb((0, height - thick / 2), (towards * 1.3, height + 0.25), thick, thick),
        limb((towards * 1.15, height + 0.18), (towards * 1.9, height + 0.22), thick * 1.6, thick * 1.2),
    ]
    view.fill_layers([([view.camera.upright(part, x, z)], colour) for part in parts], label("pole"))


def bollards(view: View, x: float, near: float, count: int) -> None:
    for z in near + 1.6 * np.arange(count)[::-1]:
        colour = view.faded(rgb(112, 108, 104), float(z))
        view.fill([view.camera.upright(_post(view, float(z), 0.95, 0.16), x, float(z))], colour, label("pole"))


def traffic_light(view: View, x: float, z: float) -> None:
    rng, camera = view.rng, view.camera
    height = rng.uniform(2.3, 2.8)
    post = camera.upright(_post(view, z, height + 0.2, 0.13), x, z)
    view.fill([post], view.faded(rgb(104, 108, 110), z), label("pole"))
    half, tall = 0.24, 1.25
    name = label("traffic light")
    view.fill([camera.upright(box(-half, height, half, height + tall), x, z)], view.faded(rgb(30, 34, 32), z), name)
    lit = int(rng.integers(3))
    for number, colour in enumerate((rgb(60, 236, 120), rgb(255, 200, 50), rgb(250, 58, 48))):
        centre = height + tall * (number + 0.5) / 3
        shown = colour if number == lit else colour * 0.3
        view.fill([camera.upright(disc(0, centre, 0.16), x, z)], view.faded(shown, z / 2), None)


def traffic_sign(view: View, x: float, z: float) -> None:
    """One or two signs on a post."""
    rng, camera = view.rng, view.camera
    height, radius = rng.uniform(1.9, 2.3), 0.42
    post = camera.upright(_post(view, z, height + radius, 0.1), x, z)
    view.fill([post], view.faded(rgb(128, 130, 132), z), label("pole"))
    for number in range(1 if rng.random() < 0.65 else 2):
        middle = height + radius + 2.15 * radius * number
        kind = rng.integers(5)
        red, white, blue = rgb(206, 34, 40), rgb(238, 238, 234), rgb(32, 84, 176)
        layers: list[tuple[np.ndarray, np.ndarray]]
        if kind == 0:  # a speed limit
            layers = [
                (disc(0, 0, radius), red),
                (disc(0, 0, radius * 0.72), white),
                (box(-0.14, -0.1, 0.14, 0.1), rgb(40, 40, 40)),
            ]
        elif kind == 1:  # give way
            triangle = polar(radius * 1.15, np.pi / 6 + turn(3) + np.pi)
            layers = [(triangle, red), (triangle * 0.58, white)]
        elif kind == 2:  # priority road
            diamond = polar(radius * 1.1, turn(4))
            layers = [(diamond, white), (diamond * 0.68, rgb(244, 196, 36))]
        elif kind == 3:  # an order
            layers = [(disc(0, 0, radius), blue), (limb((0, -0.24), (0, 0.24), 0.12, 0.12), white)]
        else:  # parking
            layers = [
                (box(-radius * 0.85, -radius, radius * 0.85, radius), blue),
                (box(-0.12, -0.22, 0.12, 0.22), white),
            ]
        rings = [
            ([camera.upright(ring + np.array([0, middle]), x, z)], view.faded(colour, z)) for ring, colour in layers
        ]
        view.fill(*rings[0], label("traffic sign"))
        for rings_, paint in rings[1:]:
            view.fill(rings_, paint, None)


def furniture(view: View, x: float, z: float) -> None:
    """A litter bin or a column of posters: void."""
    rng, camera = view.rng, view.camera
    view.shade(x, z, 0.7, 0.4)
    if rng.random() < 0.5:
        colour = (rgb(226, 110, 30), rgb(60, 70, 76), rgb(56, 92, 60))[rng.integers(3)]
        layers = [(box(-0.27, 0, 0.27, 0.85), colour), (box(-0.31, 0.8, 0.31, 0.95), colour * 0.6)]
        name = label("dynamic")
    else:
        layers = [(box(-0.55, 0, 0.55, 2.7), rgb(190, 180, 160)), (box(-0.65, 2.65, 0.65, 2.95), rgb(74, 84, 78))]
        layers += [
            (box(left, low, left + 0.34, low + 0.6), rgb(*rng.uniform(60, 230, 3)))
            for left in (-0.48, 0.08) for low in (0.5, 1.25, 1.95)
        ]  # fmt: skip
        name = label("static")
    view.fill_layers([([camera.upright(ring, x, z)], view.faded(colour, z)) for ring, colour in layers], name, dirt=5)


def bonnet(view: View, rise: float, colour: np.ndarray) -> None:
    """The car that carries the camera: `rise` is its share of the picture's height."""
    height, width = view.ids.shape
    across = np.linspace(-0.02, 1.02, 40)
    edge = height * (1 - rise * (1 - (2 * np.abs(across - 0.5)) ** 3 * 0.85))
    ring = np.concatenate([np.stack([across * width, edge], axis=1), [[width * 1.02, height + 2], [-2, height + 2]]])

    def paint(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        shine = np.clip((y / height - (1 - rise)) / rise, 0, 1)
        return colour * (1.5 - 0.9 * shine)[..., None] + 26 * np.exp(-(((x / width - 0.36) / 0.1) ** 2))[..., None]

    view.fill([ring], paint, label("ego vehicle"))
    star = np.array([width / 2, height * (1 - rise)])
    size = height * 0.022
    view.fill(
        [star + polar(size, turn(24)) - [0, size], star + polar(size * 0.72, turn(24)) - [0, size]],
        rgb(190, 194, 198),
        label("ego vehicle"),
    )


def border(view: View, width: int) -> None:
    """The empty borders that rectification leaves at both sides."""
    rows, columns = view.ids.shape
    y = np.arange(rows)[:, None] / rows
    bulge = width * (0.5 + 2 * (y - 0.5) ** 2)
    x = np.arange(columns)[None]
    outside = (x < bulge) | (x >= columns - bulge)
    view.image[outside] = 6
    view.ids[outside] = label("rectification border")
