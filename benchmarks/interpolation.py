"""Compares each bilinear interpolation that the library implements itself with torch's.

    python benchmarks/interpolation.py --threads 2

An implementation that is not faster here should be removed. :mod:`pointrend.points` lists them with these figures.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from mask_head import random_boxes
from measure import measure, parser, report

from pointrend.interpolation import bilinear_cells, sum_weighted_rows
from pointrend.paste import paste_crops
from pointrend.points import sample_features, sample_masks

TORCH = "torch"
SIZE = (800, 1216)  # rows and columns of the image

Case = tuple[Callable[[], Any], Callable[[], Any]]


def mask_head_points(device: torch.device) -> Case:
    """What a hidden layer of the mask head reads from the coarse prediction: 100 regions, five at a time."""
    coarse = torch.randn(100, 256, 9, 9, device=device)
    table = coarse.permute(0, 2, 3, 1).contiguous()  # as the head has it, channels last
    points = torch.rand(100, 784, 2, device=device)
    offset = torch.arange(5, device=device)[:, None, None] * 81

    def own() -> None:
        for first in range(0, 100, 5):
            cells, weights = bilinear_cells(points[first : first + 5] * 9 - 0.5, (9, 9))
            rows = (cells + offset).flatten(0, 1)
            sum_weighted_rows(table[first : first + 5].flatten(0, 2), rows, weights.flatten(0, 1))

    def torchs() -> None:
        for first in range(0, 100, 5):
            # Transposed to (R, P, D), the layout that the following matrix product needs.
            sample_features(coarse[first : first + 5], points[first : first + 5]).transpose(1, 2).contiguous()

    return own, torchs


def pasting(device: torch.device) -> Case:
    """100 masks of 224x224 onto the image's pixels in their boxes."""
    masks, boxes = torch.rand(100, 224, 224, device=device), random_boxes(100, SIZE).to(device)
    places = [(crop.shape, first) for crop, first in paste_crops(masks, boxes, SIZE)]

    def own() -> None:
        for _ in paste_crops(masks, boxes, SIZE):
            pass

    def torchs() -> None:
        for mask, box, ((height, width), (top, left)) in zip(masks, boxes, places, strict=True):
            x = (torch.arange(left, left + width, device=device) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
            y = (torch.arange(top, top + height, device=device) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
            grid = torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), dim=2)
            F.grid_sample(mask[None, None], grid[None], align_corners=False)

    return own, torchs


def training_points(device: torch.device) -> Case:
    """The ground truth of 128 regions at 196 points each, from masks of 8 objects."""
    masks = torch.rand(8, *SIZE, device=device) > 0.5
    indices, points = torch.randint(8, (128,), device=device), torch.rand(128, 196, 2, device=device)
    return (
        lambda: sample_masks([masks], [indices], points),
        lambda: sample_features(masks[indices][:, None].float(), points),
    )


def main() -> None:
    arguments = parser(__doc__).parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    cases = {
        "mask head: 100 regions, 784 points, 256 channels": mask_head_points,
        "pasting: 100 masks of 224x224": pasting,
        "training points: 128 regions, 196 points, 8 masks": training_points,
    }
    for name, case in cases.items():
        own, torchs = case(device)
        with torch.inference_mode():
            measurements = measure({TORCH: torchs, "pointrend": own}, device, arguments.repeats)
        title = f"{name}, {device}, {torch.get_num_threads()} threads"
        report(title, measurements, arguments.json, baseline=TORCH)


if __name__ == "__main__":
    main()
