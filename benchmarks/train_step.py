"""One update of a whole instance model: losses, gradients, SGD.

    python benchmarks/train_step.py --threads 2

With Detectron2 (and its project PointRend) importable from a source tree, its model trains on the same weights,
images and objects. Stem and res2 of both are frozen.
"""

from contextlib import ExitStack
from typing import Any

import torch
from mask_head import random_boxes
from measure import DETECTRON2, measure, parser, report
from rcnn_pair import CONFIGS, random_picture, rcnn_pair
from torch import Tensor, nn

from pointrend.points import Size

NUM_CLASSES = 80


def filled_ellipses(boxes: Tensor, size: Size) -> Tensor:
    """Masks (G, H, W) of the ellipses in boxes (G, 4)."""
    x, y = torch.arange(size[1]) + 0.5, torch.arange(size[0]) + 0.5
    centres, radii = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    columns, rows = ((axis - c[:, None]) / r[:, None] for axis, c, r in zip((x, y), centres.T, radii.T, strict=True))
    return columns.square()[:, None] + rows.square()[:, :, None] <= 1


def update(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Any) -> None:
    """One step of stochastic gradient descent on the sum of the losses."""
    loss = sum(model(*inputs).values())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", choices=sorted(CONFIGS), default="pointrend_rcnn_r50_fpn_coco")
    options.add_argument("--images", type=int, default=2)
    options.add_argument("--objects", type=int, default=8, help="in each image")
    options.add_argument("--height", type=int, default=480, help="of an image, in pixels")
    options.add_argument("--width", type=int, default=640)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    model, theirs = rcnn_pair(arguments.model, device)
    size = (arguments.height, arguments.width)
    pictures = [random_picture(size).to(device) for _ in range(arguments.images)]
    torch.manual_seed(0)
    boxes = [random_boxes(arguments.objects, size) for _ in pictures]
    masks = [filled_ellipses(image_boxes, size).to(device) for image_boxes in boxes]
    boxes = [image_boxes.to(device) for image_boxes in boxes]
    classes = torch.randint(NUM_CLASSES, (arguments.images, arguments.objects), device=device)
    targets = [
        {"boxes": image_boxes, "labels": image_classes + 1, "masks": image_masks}
        for image_boxes, image_classes, image_masks in zip(boxes, classes, masks, strict=True)
    ]
    pairs: dict[str, tuple[nn.Module, Any]] = {"float32": (model, ([p / 255 for p in pictures], targets))}
    if theirs is not None:
        from detectron2.structures import BitMasks, Boxes, Instances

        inputs = [
            {
                "image": picture.flip(0),
                "instances": Instances(
                    size, gt_boxes=Boxes(image_boxes), gt_classes=image_classes, gt_masks=BitMasks(image_masks)
                ),
            }
            for picture, image_boxes, image_classes, image_masks in zip(pictures, boxes, classes, masks, strict=True)
        ]
        pairs = {DETECTRON2: (theirs, (inputs,)), **pairs}
    candidates = {}
    for name, (network, network_inputs) in pairs.items():
        network.train()
        # A learning rate too small to change the weights, so that every update does the same work.
        optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1e-9, momentum=0.9)
        candidates[name] = lambda n=network, o=optimizer, i=network_inputs: update(n, o, i)
    with ExitStack() as stack:
        if theirs is not None:
            from detectron2.utils.events import EventStorage

            stack.enter_context(EventStorage())
        measurements = measure(candidates, device, arguments.repeats)
    of = f"{arguments.images} images of {size[0]}x{size[1]}, {arguments.objects} objects each"
    report(
        f"update of {arguments.model}: {of}, {device}, {torch.get_num_threads()} threads",
        measurements,
        arguments.json,
    )


if __name__ == "__main__":
    main()
