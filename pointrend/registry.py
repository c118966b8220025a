"""The models by name: ``build_model("pointrend_rcnn_r50_fpn_coco")``."""

from pointrend.backbones import resnet_fpn
from pointrend.detector import box_heads, proposal_network
from pointrend.instance import FourConvMaskHead, MaskRCNN, PointRendMaskHead
from pointrend.specs import MODELS, Norm, PointSampling, Rendering, list_models
from pointrend.transform import ImageTransform


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
    for option, value in (("min_size", min_size), ("max_size", max_size), ("rois_per_image", rois_per_image)):
        if value is not None and value < 1:
            raise ValueError(f"{option} is {value}, expected at least 1")
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
