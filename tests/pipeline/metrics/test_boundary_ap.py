"""Boundary AP: the boundary against its definition, the metric against pycocotools with the boundary IoU put in."""

import contextlib
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_instances import annotation, perfect, rle, scene, truth
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.metrics.boundary_ap import boundary_ap, boundary_width, mask_boundary
from pipeline.metrics.coco_ap import coco_ap


def eroded_boundary(mask: np.ndarray, width: int) -> np.ndarray:
    """The definition: the mask without what is left of it after ``width`` erosions by a 3x3 square."""
    inside = np.pad(mask, 1)
    for _ in range(width):
        windows = np.lib.stride_tricks.sliding_window_view(inside, (3, 3))
        inside = np.pad(windows.all((2, 3)), 1)
    return mask & ~inside[1:-1, 1:-1]


@given(
    st.tuples(st.integers(1, 24), st.integers(1, 24)),
    st.integers(1, 13),
    st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]),
    st.integers(0, 2**32),
)
def test_the_boundary_is_the_mask_without_its_erosion(
    shape: tuple[int, int], width: int, holes: float, seed: int
) -> None:
    mask = np.random.default_rng(seed).random(shape) >= holes
    np.testing.assert_array_equal(mask_boundary(mask, width), eroded_boundary(mask, width))


def test_the_width_of_the_boundary() -> None:
    # 0.02 of the diagonal: 800 for 480x640, 0.02 * 800 = 16.
    assert boundary_width(480, 640, 0.02) == 16
    assert boundary_width(480, 640, 0.005) == 4
    assert boundary_width(3, 4, 0.02) == 1


class Definition(COCOeval):
    """Boundary AP with nothing left out: whole images, every pair."""

    def computeIoU(self, imgId: int, catId: int) -> Any:  # noqa: N802, N803
        ious = super().computeIoU(imgId, catId)
        objects, found = self._gts[imgId, catId], self._dts[imgId, catId]
        if not objects or not found:
            return ious
        found = sorted(found, key=lambda detection: -detection["score"])

        def boundaries(entries: list[dict[str, Any]]) -> list[Any]:
            masks = [coco_mask.decode(entry["segmentation"]).astype(bool) for entry in entries]
            widths = [max(1, round(0.02 * math.hypot(*mask.shape))) for mask in masks]
            return [
                coco_mask.encode(np.asfortranarray(eroded_boundary(mask, width).astype(np.uint8)))
                for mask, width in zip(masks, widths, strict=True)
            ]

        crowd = np.array([entry["iscrowd"] for entry in objects])
        bands = coco_mask.iou(boundaries(found), boundaries(objects), crowd.tolist())
        return np.where(crowd, ious, np.minimum(ious, bands))


@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_coco_ap_by_the_smaller_iou(seed: int, write: Callable[..., tuple[Path, Path]]) -> None:
    content, results = scene(seed)
    paths = write(content, results)
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO(str(paths[0]))
        evaluation = Definition(ground_truth, ground_truth.loadRes(str(paths[1])), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    found = boundary_ap(*paths)
    assert list(found.values()) == pytest.approx([100 * value for value in evaluation.stats[:6]], abs=1e-9)
    assert found["AP"] < coco_ap(*paths)["AP"] - 1, "the boundaries must matter in this scene"


def test_by_hand(write: Callable[..., tuple[Path, Path]]) -> None:
    """A square of 40 pixels in 60x80, whose boundaries are 0.02 * 100 = 2 pixels wide, found 2 pixels to the right.

    Mask IoU is 38 * 40 / (2 * 1600 - 1520) = 0.905. A boundary has 1600 - 36^2 = 304 pixels, the masks' inner squares
    overlap in 36 x 34: of the 38 x 40 common pixels 1520 - 36 * 36 - 36 * 36 + 36 * 34 = 152 are boundary in both, and
    boundary IoU is 152 / 456 = 1/3.
    """
    mask, moved = np.zeros((60, 80), bool), np.zeros((60, 80), bool)
    mask[10:50, 20:60] = True
    moved[10:50, 22:62] = True
    content = truth([annotation(1, 1, 3, mask)], {1: (60, 80)})
    paths = write(content, [{"image_id": 1, "category_id": 3, "segmentation": rle(moved), "score": 0.5}])
    assert coco_ap(*paths)["AP"] == pytest.approx(90)
    assert boundary_ap(*paths)["AP"] == 0
    # With boundaries of 20 pixels the masks are all boundary.
    assert boundary_ap(*paths, dilation_ratio=0.2)["AP"] == pytest.approx(90)


def test_the_edge_of_the_image_is_boundary(write: Callable[..., tuple[Path, Path]]) -> None:
    """All of a 60x80 image, found but for its left half. Boundary 2 pixels wide along the image's edge.

    Mask IoU 1/2. The boundaries have 4800 - 56 * 76 = 544 and 2400 - 56 * 36 = 384 pixels and share 272; their IoU is
    272 / 656 = 0.41.
    """
    mask, half = np.ones((60, 80), bool), np.ones((60, 80), bool)
    half[:, :40] = False
    content = truth([annotation(1, 1, 3, mask)], {1: (60, 80)})
    paths = write(content, [{"image_id": 1, "category_id": 3, "segmentation": rle(half), "score": 0.5}])
    assert coco_ap(*paths)["AP50"] == pytest.approx(100)
    assert boundary_ap(*paths)["AP50"] == 0


def test_perfect_and_no_predictions(write: Callable[..., tuple[Path, Path]]) -> None:
    content, _ = scene(0)
    assert boundary_ap(*write(content, perfect(content)))["AP"] == pytest.approx(100)
    assert boundary_ap(*write(content, []))["AP"] == 0


@pytest.mark.parametrize("ratio", [0, -0.1, math.nan, math.inf])
def test_a_ratio_that_is_no_width(write: Callable[..., tuple[Path, Path]], ratio: float) -> None:
    with pytest.raises(ValueError, match="dilation_ratio"):
        boundary_ap(*write(*scene(0)), dilation_ratio=ratio)
