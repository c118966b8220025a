"""Builds instance models from their specs: Mask R-CNN with the 4xconv or the PointRend mask head."""

from pointrend.backbones import resnet_fpn
from pointrend.detector import box_heads, proposal_network
from pointrend.instance import FourConvMaskHead, MaskRCNN, PointRendMaskHead
from pointrend.specs import InstanceSpec
from pointrend.transform import ImageTransform


def build_instance_model(spec: InstanceSpec, pretrained: bool) -> MaskRCNN:
    """The model that a spec describes, randomly initialised, in training mode.

    Args:
        spec: with ``sampling`` and ``rendering`` if it has a PointRend head.
        pretrained: start the backbone from torchvision's ImageNet weights.
    """
    mask_classes = 1 if spec.class_agnostic else spec.num_classes
    mask_head: FourConvMaskHead | PointRendMaskHead
    if spec.has_pointrend:
        assert spec.sampling is not None
        assert spec.rendering is not None
        assert spec.cascade is not None
        mask_head = PointRendMaskHead(
            spec.fpn_channels,
            mask_classes,
            sampling=spec.sampling,
            rendering=spec.rendering,
            cascade=spec.cascade,
            coarse_channels=spec.mask_channels,
            coarse_hidden=spec.coarse_hidden,
            point_channels=spec.point_channels or spec.mask_channels,
            point_layers=spec.point_layers,
        )
    else:
        mask_head = FourConvMaskHead(
            spec.fpn_channels, mask_classes, spec.mask_channels, spec.roi_sampling_ratio, spec.mask_side
        )
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
