"""The models by name: ``build_model("pointrend_rcnn_r50_fpn_coco")``."""

from dataclasses import fields, replace
from typing import Any

from pointrend.backbones import dilated_resnet, resnet_fpn
from pointrend.detector import box_heads, proposal_network
from pointrend.instance import FourConvMaskHead, MaskRCNN, PointRendMaskHead
from pointrend.points import Size
from pointrend.semantic import SemanticPointRend, SemanticSegmenter
from pointrend.semantic_heads import DeepLabV3Head, SemanticFPNHead
from pointrend.specs import (
    MODELS,
    DeepLabV3Spec,
    InstanceSpec,
    Norm,
    PointSampling,
    Rendering,
    SemanticFPNSpec,
    SemanticSpec,
    list_models,
    task_of,
)
from pointrend.transform import ImageTransform


def build_model(
    name: str,
    *,
    pretrained_backbone: bool = False,
    num_classes: int | None = None,
    norm: Norm | None = None,
    sampling: PointSampling | None = None,
    stride_in_1x1: bool | None = None,
    min_size: int | None = None,
    max_size: int | None = None,
    rendering: Rendering | None = None,
    rois_per_image: int | None = None,
    detections_per_image: int | None = None,
    class_agnostic: bool | None = None,
    point_layers: int | None = None,
    point_channels: int | None = None,
    levels: tuple[str, ...] | None = None,
    output_stride: int | None = None,
    pool_window: Size | None = None,
    points_per_step: int | None = None,
    coarse_each_layer: bool | None = None,
) -> MaskRCNN | SemanticSegmenter:
    """A model of the paper, randomly initialised. What is left out is as the name says.

    Args:
        name: one of :func:`list_models`.
        pretrained_backbone: start from torchvision's ImageNet weights; instance models keep the stem and res2 frozen
            (Appendix A).
        num_classes: K, without background.
        norm: the backbone's normalisation, and that of DeepLabV3's head: "frozen_batch", "batch" or "group". To train
            from scratch on small batches, take "group".
        sampling: PointRend's training points (Section 3.1).
        point_layers: hidden layers of PointRend's point head.
        point_channels: channels of each of them.
        stride_in_1x1: the strides of a pyramid's res3 to res5 in their 1x1 convolutions, see
            :func:`pointrend.backbones.resnet_fpn`.

        min_size: shorter edge in pixels that images are resized to at inference. This and the next five are for
            instance models.
        max_size: limit of the longer edge.
        rendering: PointRend's output resolution and points per step (Table 3); can also be given per call.
        rois_per_image: proposals that each training image contributes to the box loss, at most a quarter of them
            positive.
        detections_per_image: the most that are kept of an image, by score.
        class_agnostic: predict one mask per region instead of one per class.

        levels: the pyramid levels that SemanticFPN merges, from "p2" or from "p3" to "p5" (Table 7).
        output_stride: of DeepLabV3, 16 or 8 (Table 6); can be changed with ``model.set_output_stride``.
        pool_window: of DeepLabV3, see :class:`pointrend.semantic_heads.ASPP`.
        points_per_step: N of a semantic PointRend at inference.
        coarse_each_layer: of a semantic PointRend, see :class:`pointrend.semantic.SemanticPointRend`.

    Returns:
        an ``nn.Module`` in training mode.

    Raises:
        ValueError: for an unknown name, a value outside its domain, or an option that the model has not.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}, expected one of {', '.join(list_models())}")
    spec = MODELS[name]
    options: dict[str, Any] = {
        "num_classes": num_classes,
        "norm": norm,
        "stride_in_1x1": stride_in_1x1,
        "min_size": min_size,
        "max_size": max_size,
        "rois_per_image": rois_per_image,
        "detections_per_image": detections_per_image,
        "class_agnostic": class_agnostic,
        "point_layers": point_layers,
        "point_channels": point_channels,
        "levels": levels,
        "output_stride": output_stride,
        "pool_window": pool_window,
        "points_per_step": points_per_step,
        "coarse_each_layer": coarse_each_layer,
    }
    given = {option: value for option, value in options.items() if value is not None}
    known = {field.name for field in fields(spec)}
    strange = sorted(given.keys() - known)
    if strange:
        raise ValueError(f"{task_of(spec)} model {name!r} takes no {', '.join(strange)}")
    pointrend_only = {
        "sampling": sampling,
        "rendering": rendering,
        "points_per_step": points_per_step,
        "coarse_each_layer": coarse_each_layer,
        "point_layers": point_layers,
        "point_channels": point_channels,
    }
    unused = [option for option, value in pointrend_only.items() if value is not None]
    if unused and not spec.has_pointrend:
        raise ValueError(f"model {name!r} has no PointRend head: it takes no {', '.join(unused)}")
    spec = replace(spec, **given)
    if isinstance(spec, InstanceSpec):
        return _instance_model(spec, pretrained_backbone, sampling, rendering)
    if rendering is not None:
        raise ValueError(f"semantic model {name!r} renders at the image's size: it takes points_per_step, no rendering")
    return _semantic_model(spec, pretrained_backbone, sampling)


def _instance_model(
    spec: InstanceSpec, pretrained: bool, sampling: PointSampling | None, rendering: Rendering | None
) -> MaskRCNN:
    mask_classes = 1 if spec.class_agnostic else spec.num_classes
    mask_head: FourConvMaskHead | PointRendMaskHead
    if spec.has_pointrend:
        mask_head = PointRendMaskHead(
            spec.fpn_channels,
            mask_classes,
            coarse_channels=spec.mask_channels,
            coarse_hidden=spec.coarse_hidden,
            point_channels=spec.point_channels or spec.mask_channels,
            point_layers=spec.point_layers,
            sampling=sampling,
            rendering=rendering,
        )
    else:
        mask_head = FourConvMaskHead(spec.fpn_channels, mask_classes, spec.mask_channels, spec.roi_sampling_ratio)
    return MaskRCNN(
        ImageTransform(spec.min_size, spec.max_size),
        resnet_fpn(spec.backbone, spec.norm, spec.fpn_channels, pretrained, stride_in_1x1=spec.stride_in_1x1),
        proposal_network(spec.fpn_channels, spec.anchor_sizes, spec.proposals_per_level, spec.proposals_per_image),
        box_heads(
            spec.fpn_channels,
            spec.box_hidden,
            spec.num_classes,
            spec.rois_per_image,
            spec.detections_per_image,
            spec.roi_sampling_ratio,
        ),
        mask_head,
    )


def _semantic_model(spec: SemanticSpec, pretrained: bool, sampling: PointSampling | None) -> SemanticSegmenter:
    head: DeepLabV3Head | SemanticFPNHead
    match spec:
        case DeepLabV3Spec():
            backbone = dilated_resnet(spec.backbone, spec.norm, spec.output_stride, pretrained)
            head = DeepLabV3Head(
                backbone.channels["res5"],
                spec.num_classes,
                spec.norm,
                spec.head_channels,
                spec.output_stride,
                spec.pool_window,
            )
            fine_level, fine_channels, size_divisible = "res2", backbone.channels["res2"], 1
        case SemanticFPNSpec():
            backbone = resnet_fpn(
                spec.backbone,
                spec.norm,
                spec.fpn_channels,
                pretrained,
                stride_in_1x1=spec.stride_in_1x1,
                freeze_early=False,
            )
            head = SemanticFPNHead(spec.fpn_channels, spec.num_classes, spec.levels, spec.head_channels)
            fine_level, fine_channels, size_divisible = "p2", spec.fpn_channels, 32
    pointrend = None
    if spec.has_pointrend:
        pointrend = SemanticPointRend(
            fine_level,
            fine_channels,
            spec.num_classes,
            channels=spec.point_channels,
            num_layers=spec.point_layers,
            coarse_each_layer=spec.coarse_each_layer,
            sampling=sampling,
            points_per_step=spec.points_per_step,
        )
    # Nothing needs padding but the pyramid, whose levels must be exact halves of one another.
    return SemanticSegmenter(ImageTransform(None, None, size_divisible), backbone, head, spec.num_classes, pointrend)
