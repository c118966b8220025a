"""Builds semantic models from their specs: DeepLabV3 and SemanticFPN, with or without PointRend."""

from pointrend.backbones import dilated_resnet, resnet_fpn
from pointrend.semantic import SemanticPointRend, SemanticSegmenter
from pointrend.semantic_heads import DeepLabV3Head, SemanticFPNHead
from pointrend.specs import DeepLabV3Spec, SemanticFPNSpec, SemanticSpec
from pointrend.transform import ImageTransform


def build_semantic_model(spec: SemanticSpec, pretrained: bool) -> SemanticSegmenter:
    """The model that a spec describes, randomly initialised, in training mode.

    Args:
        spec: with ``points_per_step`` if it has a PointRend head.
        pretrained: start the backbone from torchvision's ImageNet weights.
    """
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
                with_p2="p2" in spec.levels or spec.has_pointrend,
            )
            head = SemanticFPNHead(spec.fpn_channels, spec.num_classes, spec.levels, spec.head_channels)
            fine_level, fine_channels, size_divisible = "p2", spec.fpn_channels, 32
    pointrend = None
    if spec.sampling is not None:
        assert spec.points_per_step is not None
        pointrend = SemanticPointRend(
            fine_level,
            fine_channels,
            spec.num_classes,
            sampling=spec.sampling,
            points_per_step=spec.points_per_step,
            channels=spec.point_channels,
            num_layers=spec.point_layers,
            coarse_each_layer=spec.coarse_each_layer,
        )
    # Only the pyramid needs padding: its levels must be exact halves of one another.
    return SemanticSegmenter(ImageTransform(None, None, size_divisible), backbone, head, spec.num_classes, pointrend)
