"""The models by name: ``build_model("pointrend_rcnn_r50_fpn_coco")``."""

from dataclasses import dataclass
from typing import Literal

from pointrend.backbones import Norm, resnet_fpn
from pointrend.detector import box_heads, proposal_network
from pointrend.instance import FourConvMaskHead, MaskRCNN, PointRendMaskHead, Rendering
from pointrend.points import PointSampling
from pointrend.transform import ImageTransform


@dataclass(frozen=True)
class InstanceSpec:
    """A Mask R-CNN by numbers: what the names of the registry stand for."""

    mask_head: Literal["4xconv", "pointrend"]
    backbone: str
    num_classes: int
    min_size: int
    max_size: int
    norm: Norm
    anchor_sizes: tuple[int, int, int, int, int] = (32, 64, 128, 256, 512)
    fpn_channels: int = 256
    box_hidden: int = 1024
    mask_channels: int = 256  # of the 4xconv, coarse and point heads alike
    coarse_hidden: int = 1024
    proposals_per_level: tuple[int, int] = (2000, 1000)  # before NMS, in training and at inference
    proposals_per_image: int = 1000
    rois_per_image: int = 512
    roi_sampling_ratio: int = 0


def _pair(suffix: str, backbone: str, **numbers) -> dict[str, InstanceSpec]:
    """The two models, one per mask head, that share a detector."""
    return {
        f"maskrcnn_{suffix}": InstanceSpec("4xconv", backbone, **numbers),
        f"pointrend_rcnn_{suffix}": InstanceSpec("pointrend", backbone, **numbers),
    }


_COCO = {"num_classes": 80, "min_size": 800, "max_size": 1333, "norm": "frozen_batch"}
_TINY = {
    "num_classes": 80,
    "min_size": 256,
    "max_size": 512,
    "norm": "group",
    "anchor_sizes": (16, 32, 64, 128, 256),
    "fpn_channels": 64,
    "box_hidden": 256,
    "mask_channels": 64,
    "coarse_hidden": 256,
    "proposals_per_level": (500, 500),
    "proposals_per_image": 500,
    "rois_per_image": 64,
    "roi_sampling_ratio": 2,
}

MODELS: dict[str, InstanceSpec] = {
    **_pair("r50_fpn_coco", "r50", **_COCO),
    **_pair("tiny_fpn", "tiny", **_TINY),
}


def list_models() -> list[str]:
    """The names that :func:`build_model` knows."""
    return sorted(MODELS)


def build_model(
    name: str,
    *,
    num_classes: int | None = None,
    min_size: int | None = None,
    max_size: int | None = None,
    pretrained_backbone: bool = False,
    norm: Norm | None = None,
    sampling: PointSampling | None = None,
    rendering: Rendering | None = None,
    rois_per_image: int | None = None,
) -> MaskRCNN:
    """A model of the paper, randomly initialised.

    Args:
        name: one of :func:`list_models`.
        num_classes: K, without background; the name's own by default.
        min_size: shorter edge in pixels that images are resized to at inference; the name's own by default.
        max_size: limit of the longer edge.
        pretrained_backbone: start from ImageNet weights, with stem and res2 frozen (Appendix A).
        norm: the backbone's normalisation, "frozen_batch" or "group"; the name's own by default. To train a paper's
            model from scratch, take "group".
        sampling: PointRend's training points (Section 3.1).
        rendering: PointRend's output resolution and points per step (Table 3); can also be given per call.
        rois_per_image: proposals that each training image contributes to the box loss, at most a
            quarter of them positive; the name's own by default.

    Returns:
        an ``nn.Module`` in training mode.

    Raises:
        ValueError: for an unknown name, or PointRend's options on a model without PointRend.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}, expected one of {', '.join(list_models())}")
    spec = MODELS[name]
    classes = spec.num_classes if num_classes is None else num_classes
    if classes < 1:
        raise ValueError(f"num_classes is {classes}, expected at least 1")
    mask_head: FourConvMaskHead | PointRendMaskHead
    if spec.mask_head == "pointrend":
        mask_head = PointRendMaskHead(
            spec.fpn_channels,
            classes,
            coarse_channels=spec.mask_channels,
            coarse_hidden=spec.coarse_hidden,
            point_channels=spec.mask_channels,
            sampling=sampling,
            rendering=rendering,
        )
    elif sampling is not None or rendering is not None:
        raise ValueError(f"model {name!r} has no PointRend head: it takes neither sampling nor rendering")
    else:
        mask_head = FourConvMaskHead(spec.fpn_channels, classes, spec.mask_channels, spec.roi_sampling_ratio)
    return MaskRCNN(
        ImageTransform(min_size or spec.min_size, max_size or spec.max_size),
        resnet_fpn(spec.backbone, norm or spec.norm, spec.fpn_channels, pretrained_backbone),
        proposal_network(spec.fpn_channels, spec.anchor_sizes, spec.proposals_per_level, spec.proposals_per_image),
        box_heads(
            spec.fpn_channels,
            spec.box_hidden,
            classes,
            rois_per_image or spec.rois_per_image,
            spec.roi_sampling_ratio,
        ),
        mask_head,
    )
