"""Masks (H, W) bool, for the tests that draw them."""

import numpy as np
from pycocotools import mask as mask_api


def polygon_mask(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Polygons (P, 2) as COCO rasterises them."""
    flat = [polygon.astype(float).ravel().tolist() for polygon in polygons]
    return mask_api.decode(mask_api.merge(mask_api.frPyObjects(flat, height, width))).astype(bool)


def dilate(mask: np.ndarray) -> np.ndarray:
    """The mask and all eight neighbours of its pixels."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    return np.any([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)
