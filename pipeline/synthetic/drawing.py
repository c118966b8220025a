"""Anti-aliased drawing of outlines.

Shape letters: H W rows and columns of an image, P points of an outline. Points are (x, y) in pixels; the pixel of row i
and column j covers [j, j + 1] x [i, i + 1], so its centre is (j + 0.5, i + 0.5). A *ring* is a closed polygon (P, 2)
without its first point repeated; a shape is a list of rings under the even-odd rule.
"""

import numpy as np
from PIL import Image

SAMPLES = 4  # per pixel side, when coverage is measured


def polar(radius: np.ndarray | float, angle: np.ndarray) -> np.ndarray:
    """The ring (P, 2) with the given radius (P,) at each angle (P,) in radians."""
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def turn(points: int) -> np.ndarray:
    """`points` evenly spaced angles (P,) of one full turn."""
    return np.linspace(0, 2 * np.pi, points, endpoint=False)


def signed_area(ring: np.ndarray) -> float:
    """The area enclosed by a ring (P, 2): positive where it runs clockwise as seen in the image (y down)."""
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def crop_coverage(rings: list[np.ndarray], height: int, width: int) -> tuple[tuple[slice, slice], np.ndarray]:
    """As `coverage`, but only for the rows and columns that the rings reach: these slices, and the shares (h, w) there.

    Exact at SAMPLES x SAMPLES points per pixel: in each row of samples that an edge crosses, the edge toggles all
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
    return (slice(top, bottom), slice(left, right)), blocks.mean(axis=(1, 3)).astype(np.float32)


def coverage(rings: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """The share of each pixel (H, W), in [0, 1], that is inside the rings under the even-odd rule."""
    window, share = crop_coverage(rings, height, width)
    whole = np.zeros((height, width), dtype=np.float32)
    whole[window] = share
    return whole


def smooth_noise(rng: np.random.Generator, height: int, width: int, period: float) -> np.ndarray:
    """Cloudy noise (H, W) in [-1, 1] that changes over `period` pixels."""
    coarse = rng.uniform(-1, 1, (int(height / period) + 2, int(width / period) + 2)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))
