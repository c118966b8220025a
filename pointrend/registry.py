"""Models by name: ``build_model("pointrend_rcnn_r50_fpn_coco")``."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from pointrend.metadata import ModelMetadata
from pointrend.specs import (
    MODELS,
    InstanceSpec,
    Norm,
    PointSampling,
    Rendering,
    SemanticSpec,
    list_models,
    task_of,
)

if TYPE_CHECKING:
    from pointrend.instance import MaskRCNN
    from pointrend.semantic import SemanticSegmenter

#: Options that only models with a PointRend head have.
POINTREND_OPTIONS = (
    "sampling",
    "rendering",
    "points_per_step",
    "coarse_each_layer",
    "point_layers",
    "point_channels",
    "cascade",
)


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
    mask_side: int | None = None,
    cascade: bool | None = None,
    point_layers: int | None = None,
    point_channels: int | None = None,
    levels: tuple[str, ...] | None = None,
    output_stride: int | None = None,
    pool_window: tuple[int, int] | None = None,
    points_per_step: int | None = None,
    coarse_each_layer: bool | None = None,
) -> "MaskRCNN | SemanticSegmenter":
    """A model of the paper, randomly initialised. Options that are not given keep the values that the name stands for.

    Args:
        name: one of :func:`list_models`.
        pretrained_backbone: start from torchvision's ImageNet weights; instance models keep the stem and res2 frozen
            (Appendix A).
        num_classes: K, without background.
        norm: the backbone's normalisation, and that of DeepLabV3's head: "frozen_batch", "batch" or "group". To train
            from scratch on small batches, choose "group".
        sampling: PointRend's training points (Section 3.1).
        point_layers: hidden layers of PointRend's point head.
        point_channels: channels of each of them.
        stride_in_1x1: put the strides of res3 to res5 into the 1x1 convolutions; models with a pyramid only, see
            :func:`pointrend.backbones.resnet_fpn`.

        min_size: shorter edge in pixels that images are resized to at inference. This and the next seven are for
            instance models.
        max_size: upper limit of the longer edge in pixels, at inference.
        rendering: PointRend's output resolution and points per step (Table 3); can also be given per call.
        rois_per_image: proposals sampled per training image for the box loss, at most a quarter of them positive.
        detections_per_image: how many detections are kept per image, by score.
        class_agnostic: predict one mask per region instead of one per class.
        mask_side: of the 4xconv head's masks, 28 by default (Section 4.1 has 56 too).
        cascade: train PointRend's mask branch on the boxes that the box head predicts, as is the default, or on
            proposals as the 4xconv head (Section 4, "Training").

        levels: the pyramid levels that SemanticFPN merges, ("p2", ..., "p5") or ("p3", "p4", "p5") (Table 7).
        output_stride: of DeepLabV3, 16 or 8 (Table 6); can be changed later with ``model.set_output_stride``.
        pool_window: of DeepLabV3, see :class:`pointrend.semantic_heads.ASPP`.
        points_per_step: N of a semantic PointRend at inference.
        coarse_each_layer: of a semantic PointRend, see :class:`pointrend.semantic.SemanticPointRend`.

    Returns:
        an ``nn.Module`` in training mode.

    Raises:
        ValueError: for an unknown name, a value outside its domain, or an option that the model does not have.
    """
    options: dict[str, Any] = {
        "num_classes": num_classes,
        "norm": norm,
        "stride_in_1x1": stride_in_1x1,
        "min_size": min_size,
        "max_size": max_size,
        "rois_per_image": rois_per_image,
        "detections_per_image": detections_per_image,
        "class_agnostic": class_agnostic,
        "mask_side": mask_side,
        "cascade": cascade,
        "point_layers": point_layers,
        "point_channels": point_channels,
        "levels": levels,
        "output_stride": output_stride,
        "pool_window": pool_window,
        "sampling": sampling,
        "rendering": rendering,
        "points_per_step": points_per_step,
        "coarse_each_layer": coarse_each_layer,
    }
    return build_from_metadata(ModelMetadata(name, spec_of(name, options)), pretrained_backbone)


def spec_of(name: str, options: Mapping[str, Any]) -> InstanceSpec | SemanticSpec:
    """The spec of the model of that name, with those options of :func:`build_model` that are not None.

    Raises:
        ValueError: as :func:`build_model`.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}, expected one of {', '.join(list_models())}")
    return with_options(name, MODELS[name], options)


def with_options(
    name: str, spec: InstanceSpec | SemanticSpec, options: Mapping[str, Any]
) -> InstanceSpec | SemanticSpec:
    """A spec of the model of that name with other values for those options of :func:`build_model` that are not None.

    Raises:
        ValueError: for a value outside its domain, or an option that the model does not have.
    """
    given = {option: value for option, value in options.items() if value is not None}
    if not spec.has_pointrend and (unused := [option for option in POINTREND_OPTIONS if option in given]):
        raise ValueError(f"model {name!r} has no PointRend head: it takes no {', '.join(unused)}")
    if "rendering" in given and task_of(spec) == "semantic":
        raise ValueError(f"semantic model {name!r} renders at the image's size: it takes points_per_step, no rendering")
    if unknown := sorted(given.keys() - {field.name for field in fields(spec)}):
        raise ValueError(f"{task_of(spec)} model {name!r} takes no {', '.join(unknown)}")
    return replace(spec, **given)


def build_from_metadata(metadata: ModelMetadata, pretrained_backbone: bool = False) -> "MaskRCNN | SemanticSegmenter":
    """The model that metadata describe, randomly initialised, in training mode; see :func:`build_model`."""
    spec = metadata.spec
    model: MaskRCNN | SemanticSegmenter
    # Imported here, so that neither kind of model depends on the other's code.
    if isinstance(spec, InstanceSpec):
        from pointrend.instance_models import build_instance_model

        model = build_instance_model(spec, pretrained_backbone)
    else:
        from pointrend.semantic_models import build_semantic_model

        model = build_semantic_model(spec, pretrained_backbone)
    model.metadata = metadata
    return model
