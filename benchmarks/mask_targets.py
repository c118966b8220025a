"""Training targets of mask heads from bitmasks at the image's own resolution, as here, against Detectron2's.

    python benchmarks/mask_targets.py instances_train2017.json lvis_v0.5_val.json --images 100

Detectron2's 4xconv head rasterises polygons at the mask's resolution, 28x28 in a box; its PointRend rasterises them at
the resized image's, from which the coarse 7x7 mask is pooled and points are sampled. Both are repeated here from COCO's
polygons, on boxes as in training: those of the objects, moved and scaled, with an IoU of at least 0.5.

Printed by the size of objects, as COCO has it: the share of cells, or of points, that differ from what this library
trains on; as a yardstick, the share in which Detectron2's own targets differ if the outline is moved by up to half a
pixel; and the mean IoU of each 28x28 target, pasted into its box, with the object's mask, by which predictions are
judged.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.ops import box_iou

from pointrend.instance import crop_masks
from pointrend.paste import paste_masks
from pointrend.points import Size, points_in_image, sample_masks
from pointrend.transform import rescale_boxes, resized_size

SHORTER, LONGER = 800, 1333
SIDE, COARSE_SIDE, POINTS = 28, 7, 196
SIZES = {"small": 32**2, "medium": 96**2, "large": float("inf")}
Polygons = list[np.ndarray]


def rasterised(polygons: Polygons, size: Size) -> Tensor:
    """Polygons (x, y, x, y, ...) in pixels to a mask (H, W) bool, as COCO and Detectron2 do."""
    pieces = coco_mask.frPyObjects([polygon.tolist() for polygon in polygons], *size)
    return torch.from_numpy(coco_mask.decode(coco_mask.merge(pieces))).bool()


def scaled(polygons: Polygons, x: float, y: float, left: float = 0.0, top: float = 0.0) -> Polygons:
    return [(polygon.reshape(-1, 2) - (left, top)) * (x, y) for polygon in polygons]


def rasterised_in_box(polygons: Polygons, box: Tensor, side: int) -> Tensor:
    """Polygons to a mask (side, side) of a box: Detectron2's ``rasterize_polygons_within_box``."""
    x0, y0, x1, y1 = box.double().tolist()
    inside = scaled(polygons, side / max(x1 - x0, 0.1), side / max(y1 - y0, 0.1), x0, y0)
    return rasterised([polygon.ravel() for polygon in inside], (side, side))


def training_boxes(box: Tensor, count: int, size: Size) -> Tensor:
    """A box (4,) moved and scaled: (count, 4), each with an IoU of at least 0.5, inside an image (H, W)."""
    limit = torch.tensor([size[1], size[0]] * 2)
    extent = (box[2:] - box[:2]).repeat(2)
    found = box.new_zeros(0, 4)
    while len(found) < count:
        drawn = (box + 0.15 * extent * torch.randn(count, 4)).clamp(min=torch.zeros(4), max=limit)
        drawn = drawn[((drawn[:, 2:] - drawn[:, :2]) > 1).all(1)]
        found = torch.cat((found, drawn[box_iou(drawn, box[None])[:, 0] >= 0.5]))
    return found[:count]


def pasted_iou(targets: Tensor, boxes: Tensor, mask: Tensor) -> float:
    """The mean IoU of targets (R, M, M), pasted into their boxes, with the part of a mask (H, W) inside these."""
    height, width = mask.shape
    pasted = paste_masks(targets[:, None], boxes, (height, width))[:, 0] >= 0.5
    y, x = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)
    inside = ((x >= x0) & (x <= x1))[:, None] & ((y >= y0) & (y <= y1))[:, :, None]
    truth = mask & inside
    union = (pasted | truth).flatten(1).sum(1)
    return float(((pasted & truth).flatten(1).sum(1) / union.clamp(min=1)).mean())


def compare(annotation: dict[str, Any], size: Size, boxes_each: int) -> dict[str, float]:
    """The differences of one object's targets, as means over its boxes."""
    polygons = [np.asarray(polygon, np.float64) for polygon in annotation["segmentation"]]
    mask = rasterised(polygons, size)
    x0, y0, width, height = annotation["bbox"]
    boxes = training_boxes(torch.tensor([x0, y0, x0 + width, y0 + height]), boxes_each, size)
    no_index = torch.zeros(len(boxes), dtype=torch.int64)

    ours = crop_masks([mask[None]], [no_index], [boxes], [size], SIDE)
    theirs = torch.stack([rasterised_in_box(polygons, box, SIDE) for box in boxes]).float()
    # The precision of an annotation: Detectron2's own targets where the outline lies up to half a pixel elsewhere.
    shift = (torch.rand(2) - 0.5).tolist()
    moved = [polygon.ravel() for polygon in scaled(polygons, 1, 1, *shift)]
    elsewhere = torch.stack([rasterised_in_box(moved, box, SIDE) for box in boxes]).float()

    large = resized_size(size, SHORTER, LONGER)
    enlarged = [p.ravel() for p in scaled(polygons, large[1] / size[1], large[0] / size[0])]
    resized_mask, resized_boxes = rasterised(enlarged, large), rescale_boxes(boxes, size, large)
    moved_enlarged = [p.ravel() for p in scaled(moved, large[1] / size[1], large[0] / size[0])]
    moved_mask = rasterised(moved_enlarged, large)
    coarse = crop_masks([mask[None]], [no_index], [boxes], [size], COARSE_SIDE)
    their_coarse = crop_masks([resized_mask[None]], [no_index], [resized_boxes], [large], COARSE_SIDE)

    # Three quarters of the points are as near the outline as the best third of three times as many.
    drawn = torch.rand(len(boxes), 3 * POINTS, 2)
    cell = (drawn * SIDE).long().clamp(max=SIDE - 1)
    smooth = torch.nn.functional.avg_pool2d(ours[:, None], 3, 1, 1, count_include_pad=False)[:, 0]
    unsure = -(smooth[torch.arange(len(boxes))[:, None], cell[..., 1], cell[..., 0]] - 0.5).abs()
    best = unsure.topk(3 * POINTS // 4, dim=1).indices[..., None].expand(-1, -1, 2)
    points = torch.cat((drawn.gather(1, best), torch.rand(len(boxes), POINTS // 4, 2)), dim=1)

    def at_points(masks: Tensor, its_boxes: Tensor) -> Tensor:
        extent = torch.tensor(masks.shape[::-1], dtype=torch.float32)
        return sample_masks([masks[None]], [no_index], points_in_image(points, its_boxes) / extent)

    our_points, their_points = at_points(mask, boxes) >= 0.5, at_points(resized_mask, resized_boxes) >= 0.5
    moved_points = at_points(moved_mask, resized_boxes) >= 0.5

    def percent(differ: Tensor) -> float:
        return 100 * float(differ.float().mean())

    return {
        "4xconv 28x28, %": percent(ours != theirs),
        "of these only here, %": percent(ours > theirs),
        "outline moved, %": percent(theirs != elsewhere),
        "IoU here": pasted_iou(ours, boxes, mask),
        "IoU Detectron2": pasted_iou(theirs, boxes, mask),
        "PointRend 7x7, %": percent(coarse != their_coarse),
        "points, %": percent(our_points != their_points),
        "outline moved, points, %": percent(their_points != moved_points),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", type=Path, nargs="+", help="instances files in COCO's format, with polygons")
    parser.add_argument("--images", type=int, default=100, help="of each file, at most")
    parser.add_argument("--boxes", type=int, default=8, help="of each object")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    for path in arguments.annotations:
        content = json.loads(path.read_text("utf-8"))
        images = {image["id"]: image for image in content["images"][: arguments.images]}
        found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in (*SIZES, "all")}
        for annotation in content["annotations"]:
            image = images.get(annotation["image_id"])
            if image is None or not isinstance(annotation["segmentation"], list) or min(annotation["bbox"][2:]) < 2:
                continue
            name = next(name for name, limit in SIZES.items() if annotation["area"] < limit)
            for key, value in compare(annotation, (image["height"], image["width"]), arguments.boxes).items():
                found[name][key].append(value)
                found["all"][key].append(value)
        columns = list(found["all"])
        print(f"\n{path.name}, {arguments.boxes} boxes of each object\n")
        print(f"| objects | number | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 2)}")
        for name, values in found.items():
            if values:
                cells = " | ".join(f"{fmean(values[key]):.3f}" for key in columns)
                print(f"| {name} | {len(values[columns[0]])} | {cells} |")


if __name__ == "__main__":
    main()
