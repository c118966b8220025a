"""Random weights in Detectron2's naming, the same wherever they are made.

The names and shapes are written down here from Detectron2's models, not derived from this library's.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
Named = Iterator[tuple[str, tuple[int, ...]]]

#: How many masks of a picture :func:`summary` keeps.
KEPT_MASKS = 8


@dataclass(frozen=True)
class Architecture:
    """One of Detectron2's models by numbers."""

    blocks: tuple[int, int, int, int]
    head: Literal["4xconv", "pointrend", "semantic_fpn", "deeplab"]
    num_classes: int = 80
    groups: int = 1
    width_per_group: int = 64
    pixel_scale: float = 70.0  # the spread of what the first convolution sees
    residual: float = 0.35  # how much a block adds, so that deep stages do not grow


R50, R101 = (3, 4, 6, 3), (3, 4, 23, 3)
ARCHITECTURES = {
    "maskrcnn_r50_fpn_coco": Architecture(R50, "4xconv"),
    "pointrend_rcnn_r50_fpn_coco": Architecture(R50, "pointrend"),
    "pointrend_rcnn_r101_fpn_coco": Architecture(R101, "pointrend", residual=0.18),
    "pointrend_rcnn_x101_fpn_coco": Architecture(R101, "pointrend", 80, 32, 8, 1.2, 0.18),
    "pointrend_semantic_fpn_r101_cityscapes": Architecture(R101, "semantic_fpn", 19, residual=0.18),
    "deeplabv3_r103_cityscapes": Architecture(R101, "deeplab", 19, pixel_scale=1.2, residual=0.18),
}


def _norm(prefix: str, channels: int) -> Named:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{prefix}.norm.{part}", (channels,)


def _layer(prefix: str, *shape: int) -> Named:
    yield f"{prefix}.weight", shape
    yield f"{prefix}.bias", (shape[0],)


def _normed(prefix: str, *shape: int) -> Named:
    yield f"{prefix}.weight", shape
    yield from _norm(prefix, shape[0])


def _resnet(prefix: str, architecture: Architecture) -> Named:
    if architecture.head == "deeplab":
        for index, (inputs, outputs) in enumerate(((3, 64), (64, 64), (64, 128)), start=1):
            yield from _normed(f"{prefix}stem.conv{index}", outputs, inputs, 3, 3)
        inputs = 128
    else:
        yield from _normed(f"{prefix}stem.conv1", 64, 3, 7, 7)
        inputs = 64
    width, outputs = architecture.groups * architecture.width_per_group, 256
    for stage, blocks in enumerate(architecture.blocks, start=2):
        for block in range(blocks):
            name = f"{prefix}res{stage}.{block}"
            if block == 0:
                yield from _normed(f"{name}.shortcut", outputs, inputs, 1, 1)
            yield from _normed(f"{name}.conv1", width, inputs, 1, 1)
            yield from _normed(f"{name}.conv2", width, width // architecture.groups, 3, 3)
            yield from _normed(f"{name}.conv3", outputs, width, 1, 1)
            inputs = outputs
        width, outputs = width * 2, outputs * 2


def _point_head(prefix: str, inputs: int, classes: int, coarse_each_layer: bool) -> Named:
    inputs += classes
    for index in (1, 2, 3):
        yield from _layer(f"{prefix}fc{index}", 256, inputs, 1)
        inputs = 256 + (classes if coarse_each_layer else 0)
    yield from _layer(f"{prefix}predictor", classes, inputs, 1)


def _detector(classes: int) -> Named:
    yield from _layer("proposal_generator.rpn_head.conv", 256, 256, 3, 3)
    yield from _layer("proposal_generator.rpn_head.objectness_logits", 3, 256, 1, 1)
    yield from _layer("proposal_generator.rpn_head.anchor_deltas", 12, 256, 1, 1)
    yield from _layer("roi_heads.box_head.fc1", 1024, 256 * 7 * 7)
    yield from _layer("roi_heads.box_head.fc2", 1024, 1024)
    yield from _layer("roi_heads.box_predictor.cls_score", classes + 1, 1024)
    yield from _layer("roi_heads.box_predictor.bbox_pred", classes * 4, 1024)


def _mask_head(architecture: Architecture) -> Named:
    prefix, classes = "roi_heads.mask_head.", architecture.num_classes
    if architecture.head == "4xconv":
        for index in (1, 2, 3, 4):
            yield from _layer(f"{prefix}mask_fcn{index}", 256, 256, 3, 3)
        yield f"{prefix}deconv.weight", (256, 256, 2, 2)
        yield f"{prefix}deconv.bias", (256,)
        yield from _layer(f"{prefix}predictor", classes, 256, 1, 1)
        return
    yield from _layer(f"{prefix}coarse_head.reduce_spatial_dim_conv", 256, 256, 2, 2)
    yield from _layer(f"{prefix}coarse_head.fc1", 1024, 256 * 7 * 7)
    yield from _layer(f"{prefix}coarse_head.fc2", 1024, 1024)
    yield from _layer(f"{prefix}coarse_head.prediction", classes * 7 * 7, 1024)
    yield from _point_head(f"{prefix}point_head.", 256, classes, coarse_each_layer=True)


def _semantic_fpn(prefix: str, classes: int) -> Named:
    for level, convolutions in ((2, 1), (3, 1), (4, 2), (5, 3)):
        for index in range(convolutions):
            name = f"{prefix}p{level}.{2 * index}"  # every other module upsamples
            yield f"{name}.weight", (128, 256 if index == 0 else 128, 3, 3)
            yield f"{name}.norm.weight", (128,)
            yield f"{name}.norm.bias", (128,)
    yield from _layer(f"{prefix}predictor", classes, 128, 1, 1)


def _deeplab(classes: int) -> Named:
    aspp = "sem_seg_head.aspp."
    yield from _normed(f"{aspp}convs.0", 256, 2048, 1, 1)
    for index in (1, 2, 3):
        yield from _normed(f"{aspp}convs.{index}", 256, 2048, 3, 3)
    yield from _layer(f"{aspp}convs.4.1", 256, 2048, 1, 1)  # the pooled image has no norm
    yield from _normed(f"{aspp}project", 256, 5 * 256, 1, 1)
    yield from _layer("sem_seg_head.predictor", classes, 256, 1, 1)


def detectron2_shapes(model: str) -> Shapes:
    """The names and shapes of Detectron2's state dict of one of :data:`ARCHITECTURES`, without counts of batches."""
    architecture = ARCHITECTURES[model]
    classes = architecture.num_classes
    if architecture.head == "deeplab":
        return dict((*_resnet("backbone.", architecture), *_deeplab(classes)))
    shapes = dict(_resnet("backbone.bottom_up.", architecture))
    for level in (2, 3, 4, 5):
        shapes |= dict(_layer(f"backbone.fpn_lateral{level}", 256, 128 << (level - 1), 1, 1))
        shapes |= dict(_layer(f"backbone.fpn_output{level}", 256, 256, 3, 3))
    if architecture.head == "semantic_fpn":
        shapes |= dict(_semantic_fpn("sem_seg_head.coarse_sem_seg_head.", classes))
        return shapes | dict(_point_head("sem_seg_head.point_head.", 256, classes, coarse_each_layer=False))
    return shapes | dict((*_detector(classes), *_mask_head(architecture)))


#: Gains over what keeps the spread of a layer's inputs, so that boxes, scores and masks are neither all alike nor
#: saturated.
_GAINS = {
    "fpn_lateral": 0.5,
    "rpn_head.objectness_logits": 1.0,
    "rpn_head.anchor_deltas": 0.06,
    "box_predictor.cls_score": 0.5,
    "box_predictor.bbox_pred": 0.2,
    "mask_head.predictor": 2.0,
    "coarse_head.prediction": 1.0,
    "point_head.predictor": 2.0,
}


def random_detectron2(model: str, seed: int) -> dict[str, Tensor]:
    """A state dict in Detectron2's naming with random weights, and random statistics in its frozen batch norms."""
    architecture = ARCHITECTURES[model]
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in detectron2_shapes(model).items():
        if name.endswith("running_var"):
            value = 0.5 + torch.rand(shape, generator=generator)
            if name.endswith("stem.conv1.norm.running_var"):
                value = value * 2 * architecture.pixel_scale**2
        elif name.endswith("norm.weight"):
            value = (0.8 + 0.4 * torch.rand(shape, generator=generator)) * (
                architecture.residual if ".conv3." in name else 1.0
            )
        elif len(shape) == 1:
            value = 0.1 * torch.randn(shape, generator=generator)
        else:
            fan_in = torch.Size(shape[1:]).numel()
            gain = next((gain for part, gain in _GAINS.items() if part in name), 2**0.5)
            value = torch.randn(shape, generator=generator) * gain / fan_in**0.5
        state[name] = value
    return state


@dataclass(frozen=True)
class Case:
    """What the tests compare: the seed of the weights, the size of the picture, and options of the model."""

    seed: int
    size: tuple[int, int]
    options: dict[str, tuple[int, int]] = field(default_factory=dict)


CASES = {
    "maskrcnn_r50_fpn_coco": Case(3, (96, 128)),
    "pointrend_rcnn_r50_fpn_coco": Case(4, (96, 125)),
    "pointrend_rcnn_x101_fpn_coco": Case(5, (64, 96)),
    "pointrend_semantic_fpn_r101_cityscapes": Case(6, (100, 150)),
    # Twice as high as the window that averages the image.
    "deeplabv3_r103_cityscapes": Case(7, (256, 256), {"pool_window": (128, 256)}),
}


def random_picture(size: tuple[int, int]) -> Tensor:
    """A picture (3, H, W) of whole values in [0, 255]: coarse colours under finer and finer grain."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.zeros(1, 3, *size)
    for cells in (2, 5, 12, 40):
        noise = torch.rand(1, 3, cells, cells, generator=generator)
        picture += torch.nn.functional.interpolate(noise, size=size, mode="bilinear", align_corners=False)
    return (picture[0] / 4 * 255).round()


def summary(output: dict[str, Tensor] | Tensor) -> dict[str, np.ndarray]:
    """What a model returns, small enough to keep: all boxes, and some of the masks as bits; or all labels."""
    if isinstance(output, Tensor):
        return {"labels": output.argmax(0).numpy().astype(np.uint8), "logits": output[:, 4::24, 4::24].numpy()}
    masks = {
        name: np.packbits((output[name][:KEPT_MASKS, 0] >= 0.5).numpy(), axis=None)
        for name in ("masks", "region_masks")
    }
    kept = {name: output[name].numpy() for name in ("boxes", "scores", "labels")}
    return {**kept, **masks}
