"""ResNet-FPN backbones from torchvision's parts. They return P2 to P6, strides 4 to 64."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn
from torchvision.models import ResNet50_Weights, WeightsEnum, resnet50
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from pointrend.specs import Norm

NormLayer = Callable[..., nn.Module]
#: "frozen_batch" keeps the statistics of an ImageNet model (Appendix A). A network trained from scratch on a few images
#: at a time learns "group" instead, in the pyramid too: it has no running statistics, and is the same in training
#: and at inference (He et al., Rethinking ImageNet Pre-training, 2019).
NORM_LAYERS: dict[Norm, NormLayer] = {
    "frozen_batch": FrozenBatchNorm2d,
    "group": partial(nn.GroupNorm, 32),
}

#: The FPN's outputs by name; "pool" (P6) serves the proposals only.
STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "pool": 64}


def resnet_tiny(weights: None, norm_layer: NormLayer) -> ResNet:
    """One basic block per stage: a ten-layer ResNet for demonstrations and tests, in no paper. It has no weights."""
    return ResNet(BasicBlock, [1, 1, 1, 1], norm_layer=norm_layer)


@dataclass(frozen=True)
class _Backbone:
    resnet: Callable[..., ResNet]
    imagenet: WeightsEnum | None
    stage_channels: tuple[int, int, int, int]


_BACKBONES = {
    "tiny": _Backbone(resnet_tiny, None, (64, 128, 256, 512)),
    "r50": _Backbone(resnet50, ResNet50_Weights.IMAGENET1K_V1, (256, 512, 1024, 2048)),
}


def resnet_fpn(name: str, norm: Norm, fpn_channels: int = 256, pretrained: bool = False) -> BackboneWithFPN:
    """A ResNet with a feature pyramid.

    Args:
        name: "r50", or "tiny" for demonstrations.
        norm: the normalisation of the ResNet.
        fpn_channels: C, the channels of every pyramid level.
        pretrained: start from torchvision's ImageNet weights (downloaded once), with the stem and res2 frozen, as in
            the paper (Appendix A). From scratch nothing is frozen.

    Returns:
        a module that maps (N, 3, H, W) to {"p2": (N, C, H/4, W/4), "p3", "p4", "p5", "pool"}.

    Raises:
        ValueError: for an unknown name or norm, or ``pretrained`` where no such weights exist.
    """
    if name not in _BACKBONES:
        raise ValueError(f"unknown backbone {name!r}, expected one of {', '.join(_BACKBONES)}")
    if norm not in NORM_LAYERS:
        raise ValueError(f"norm is {norm!r}, expected one of {', '.join(NORM_LAYERS)}")
    spec = _BACKBONES[name]
    if pretrained and spec.imagenet is None:
        raise ValueError(f"there are no ImageNet weights for backbone {name!r}; train it from scratch")
    if pretrained and norm != "frozen_batch":
        raise ValueError(f"ImageNet weights come with batch norm: norm is {norm!r}, expected 'frozen_batch'")
    body = spec.resnet(weights=spec.imagenet if pretrained else None, norm_layer=NORM_LAYERS[norm])
    if pretrained:
        for parameter in (*body.conv1.parameters(), *body.layer1.parameters()):
            parameter.requires_grad_(False)
    return BackboneWithFPN(
        body,
        return_layers={"layer1": "p2", "layer2": "p3", "layer3": "p4", "layer4": "p5"},
        in_channels_list=list(spec.stage_channels),
        out_channels=fpn_channels,
        extra_blocks=LastLevelMaxPool(),
        norm_layer=NORM_LAYERS[norm] if norm == "group" else None,
    )
