"""Masks onto the image and into COCO's run-length encoding.

    python benchmarks/paste_and_encode.py --threads 2

Detectron2 pastes every mask onto the image and pycocotools encodes the image. Needs pycocotools.
"""

from typing import Any

import numpy as np
import torch
from mask_head import random_boxes
from measure import DETECTRON2, has_detectron2, measure, parser, positive, report
from pycocotools import mask as coco_mask
from torch import Tensor

from pipeline.evaluation.instances import encode_regions
from pointrend.paste import paste_masks


def discs(regions: int, side: int) -> Tensor:
    """Probabilities (R, M, M) of discs with a soft and noisy edge."""
    cells = torch.linspace(-1, 1, side)
    radius = (cells.square() + cells.square()[:, None]).sqrt()
    return ((0.9 - radius) * 20 + torch.randn(regions, side, side)).sigmoid()


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--regions", type=positive, default=100)
    options.add_argument("--resolution", type=positive, default=224, help="of the region masks")
    options.add_argument("--height", type=positive, default=800, help="of the image, in pixels")
    options.add_argument("--width", type=positive, default=1216)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    size = (arguments.height, arguments.width)
    boxes = random_boxes(arguments.regions, size).to(device)
    masks = discs(arguments.regions, arguments.resolution).to(device)
    encoded: dict[str, list[Any]] = {}

    def own() -> None:
        encoded["pointrend"] = [rle["counts"] for rle in encode_regions(masks, boxes, size)]

    candidates = {
        "pointrend": own,
        "pointrend, probabilities on the image, not encoded": lambda: paste_masks(masks[:, None], boxes, size),
    }
    if has_detectron2():
        from detectron2.layers.mask_ops import paste_masks_in_image

        def detectron2() -> None:
            pasted = paste_masks_in_image(masks, boxes, size).cpu()
            # As Detectron2's evaluation has it.
            rles = [
                coco_mask.encode(np.array(mask[:, :, None].numpy(), order="F", dtype="uint8"))[0] for mask in pasted
            ]
            encoded[DETECTRON2] = [rle["counts"].decode("utf-8") for rle in rles]

        candidates = {
            DETECTRON2: detectron2,
            "detectron2, binary masks on the image, not encoded": lambda: paste_masks_in_image(masks, boxes, size),
            **candidates,
        }
    with torch.inference_mode():
        measurements = measure(candidates, device, arguments.repeats)
    agreement: dict[str, dict[str, float]] = {}
    if DETECTRON2 in encoded:
        pairs = list(zip(encoded["pointrend"], encoded[DETECTRON2], strict=True))
        agreement["pointrend"] = {"equal to the byte": sum(a == b for a, b in pairs) / max(1, len(pairs))}
    masks_of = f"{arguments.regions} masks of {arguments.resolution}x{arguments.resolution}"
    report(
        f"paste and encode: {masks_of} on {size[0]}x{size[1]}, {device}, {torch.get_num_threads()} threads",
        measurements,
        arguments.json,
        agreement,
    )


if __name__ == "__main__":
    main()
