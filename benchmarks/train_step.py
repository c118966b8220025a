"""One update of a whole instance model: losses, gradients, SGD.

    python benchmarks/train_step.py --threads 2

With Detectron2 (and its project PointRend) importable from a source tree, its model trains on the same weights,
images and objects. Stem and res2 of both are frozen. A second row of each keeps weights and features channels last, as
a schedule with ``channels_last: true`` does. ``--precision`` is a schedule's too.
"""

import copy
from contextlib import ExitStack
from functools import partial
from typing import Any, get_args

import torch
from mask_head import random_boxes
from measure import DETECTRON2, measure, parser, positive, report
from rcnn_pair import CONFIGS, random_picture, rcnn_pair
from torch import Tensor, nn

from pipeline.config.schedules import Precision
from pipeline.training.precision import autocast, float32_math
from pointrend.points import Size

NUM_CLASSES = 80


def filled_ellipses(boxes: Tensor, size: Size) -> Tensor:
    """Masks (G, H, W) of the ellipses in boxes (G, 4)."""
    x, y = torch.arange(size[1]) + 0.5, torch.arange(size[0]) + 0.5
    centres, radii = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    columns, rows = ((axis - c[:, None]) / r[:, None] for axis, c, r in zip((x, y), centres.T, radii.T, strict=True))
    return columns.square()[:, None] + rows.square()[:, :, None] <= 1


def update(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Any, precision: str = "float32") -> Tensor:
    """One step of stochastic gradient descent on the sum of the losses, which is returned."""
    with autocast(next(model.parameters()).device, precision):
        loss = torch.stack(list(model(*inputs).values())).sum()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """SGD, fused on a GPU as in a training. Its learning rate is too small to change what an update has to do."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.SGD(trainable, lr=1e-9, momentum=0.9, fused=True if trainable[0].is_cuda else None)


def batch(arguments: Any, device: torch.device) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images (3, H, W) in [0, 1] and their objects, as a model of this library is trained on.

    Args:
        arguments: ``images``, ``objects``, ``height`` and ``width``, as the options of this script have them.
        device: where they lie.
    """
    size = (arguments.height, arguments.width)
    torch.manual_seed(0)
    images, targets = [], []
    for _ in range(arguments.images):
        boxes = random_boxes(arguments.objects, size)
        labels = torch.randint(1, NUM_CLASSES + 1, (arguments.objects,))
        target = {"boxes": boxes, "labels": labels, "masks": filled_ellipses(boxes, size)}
        images.append(random_picture(size).to(device) / 255)
        targets.append({name: value.to(device) for name, value in target.items()})
    return images, targets


def detectron2_batch(images: list[Tensor], targets: list[dict[str, Tensor]]) -> list[dict[str, Any]]:
    """The same batch as Detectron2's models are trained on."""
    from detectron2.structures import BitMasks, Boxes, Instances

    return [
        {
            "image": (image * 255).round().flip(0),
            "instances": Instances(
                (image.shape[1], image.shape[2]),
                gt_boxes=Boxes(target["boxes"]),
                gt_classes=target["labels"] - 1,
                gt_masks=BitMasks(target["masks"]),
            ),
        }
        for image, target in zip(images, targets, strict=True)
    ]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", choices=sorted(CONFIGS), default="pointrend_rcnn_r50_fpn_coco")
    options.add_argument("--images", type=positive, default=2)
    options.add_argument("--objects", type=int, default=8, help="in each image")
    options.add_argument("--height", type=positive, default=480, help="of an image, in pixels")
    options.add_argument("--width", type=positive, default=640)
    options.add_argument("--precision", choices=get_args(Precision), default="float32")
    arguments = options.parse_args()
    if (arguments.precision, arguments.device) == ("tf32", "cpu"):
        options.error("a CPU has no TF32")
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    model, theirs = rcnn_pair(arguments.model, device)
    images, targets = batch(arguments, device)
    pairs: dict[str, tuple[nn.Module, Any]] = {arguments.precision: (model, (images, targets))}
    if theirs is not None:
        pairs = {DETECTRON2: (theirs, (detectron2_batch(images, targets),)), **pairs}
    pairs |= {
        f"{name}, channels last": (copy.deepcopy(network).to(memory_format=torch.channels_last), inputs)
        for name, (network, inputs) in pairs.items()
    }
    candidates = {
        name: partial(update, network.train(), optimizer_of(network), inputs, arguments.precision)
        for name, (network, inputs) in pairs.items()
    }
    with ExitStack() as stack:
        stack.enter_context(float32_math(arguments.precision))
        if theirs is not None:
            from detectron2.utils.events import EventStorage

            stack.enter_context(EventStorage())
        measurements = measure(candidates, device, arguments.repeats)
    of = f"{arguments.images} images of {arguments.height}x{arguments.width}, {arguments.objects} objects each"
    report(
        f"update of {arguments.model}: {of}, {device}, {torch.get_num_threads()} threads",
        measurements,
        arguments.json,
    )


if __name__ == "__main__":
    main()
