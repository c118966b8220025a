"""ResNet backbones built from torchvision: with a feature pyramid, or dilated for DeepLabV3."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.models import (
    ResNet50_Weights,
    ResNet101_Weights,
    ResNeXt101_32X8D_Weights,
    WeightsEnum,
    resnet50,
    resnet101,
    resnext101_32x8d,
)
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from pointrend.frozen_norm import FrozenBatchNorm2d, fold_frozen_norms
from pointrend.specs import Norm

NormLayer = Callable[..., nn.Module]
#: "frozen_batch" keeps the statistics of an ImageNet model (Appendix A, and SemanticFPN in Appendix B). "batch" learns
#: them from large mini-batches (DeepLabV3 in Appendix B); for several processes, convert the model with
#: ``torch.nn.SyncBatchNorm.convert_sync_batchnorm``. "group" is for training from scratch on a few images at a time; it
#: normalises the pyramid too, has no running statistics, and is the same in training and at inference (He et al.,
#: Rethinking ImageNet Pre-training, 2019).
NORM_LAYERS: dict[Norm, NormLayer] = {
    "frozen_batch": FrozenBatchNorm2d,
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(min(32, channels // 4), channels),
}

#: The strides of the FPN's outputs by name; "pool" (P6) is for proposals only.
STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "pool": 64}

#: DeepLabV3's dilations of the three blocks of res5, as multiples of a base rate.
MULTI_GRID = (1, 2, 4)


class PyramidFromP3(FeaturePyramidNetwork):
    """A feature pyramid of res3, res4 and res5, for a head that reads no P2.

    Convolutions of P2 would get no gradient from any loss, and DistributedDataParallel refuses such parameters. The
    others keep the names that they have in a whole pyramid, so that the weights of one fit the other.
    """

    def __init__(self, **pyramid: Any) -> None:
        super().__init__(**pyramid)
        blocks = {name: getattr(self, name) for name in ("inner_blocks", "layer_blocks")}
        for name, levels in blocks.items():
            setattr(self, name, nn.ModuleDict({str(number): block for number, block in enumerate(levels, 1)}))

    def get_result_from_inner_blocks(self, x: Tensor, idx: int) -> Tensor:
        return list(self.inner_blocks.values())[idx](x)

    def get_result_from_layer_blocks(self, x: Tensor, idx: int) -> Tensor:
        return list(self.layer_blocks.values())[idx](x)


#: Prefixes of P2's convolutions, in the names of this library and of Detectron2.
_P2 = (
    "backbone.fpn.inner_blocks.0.",
    "backbone.fpn.layer_blocks.0.",
    "backbone.fpn_lateral2.",
    "backbone.fpn_output2.",
)


def unused_p2(state: Iterable[str], own: Iterable[str]) -> list[str]:
    """The names in a file that are P2's convolutions, if the model's pyramid starts at P3 and has none.

    Detectron2 builds them for every pyramid, and so did earlier versions of this library.

    Args:
        state: the names in the file, of this library or of Detectron2.
        own: the names of the model's state dict.
    """
    pyramid = [name for name in own if name.startswith("backbone.fpn.")]
    if not pyramid or any(name.startswith(_P2) for name in pyramid):
        return []
    return sorted(name for name in state if name.startswith(_P2))


class TinyResNet(ResNet):
    """A small ResNet for demonstrations and tests: 1, 2 or 3 basic blocks per stage, half as wide as ResNet-18.

    With more than one block per stage, every block starts as its shortcut alone, so a deeper network that is given a
    shallower one's weights computes the same. torchvision has no weights for it.
    """

    def __init__(self, weights: None, norm_layer: NormLayer, blocks: int = 1) -> None:
        super().__init__(BasicBlock, [blocks] * 4, norm_layer=norm_layer)
        self.inplanes = _NARROW[0]
        self.conv1 = nn.Conv2d(3, self.inplanes, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm_layer(self.inplanes)
        for number, channels in enumerate(_NARROW, 1):
            setattr(self, f"layer{number}", self._make_layer(BasicBlock, channels, blocks, 1 if number == 1 else 2))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock) and blocks > 1:
                nn.init.zeros_(module.bn2.weight)


class ResNet103(ResNet):
    """ResNet-101 with three 3x3 convolutions in place of the 7x7 one of its stem (Section 5, footnote 3)."""

    def __init__(self, weights: None, norm_layer: NormLayer) -> None:
        super().__init__(Bottleneck, [3, 4, 23, 3], norm_layer=norm_layer)
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False),
            norm_layer(64),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, 64, 3, padding=1, bias=False),
            norm_layer(64),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, 128, 3, padding=1, bias=False),
        )
        self.bn1 = norm_layer(128)
        self.inplanes = 128  # channels that res2 reads, twice as many as usual
        self.layer1 = self._make_layer(Bottleneck, 64, 3)
        for module in (*self.conv1.modules(), *self.layer1.modules()):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


@dataclass(frozen=True)
class _Backbone:
    resnet: Callable[..., ResNet]
    imagenet: WeightsEnum | None
    stage_channels: tuple[int, int, int, int]


_NARROW, _WIDE = (32, 64, 128, 256), (256, 512, 1024, 2048)
_BACKBONES = {
    "tiny": _Backbone(TinyResNet, None, _NARROW),
    "tiny18": _Backbone(partial(TinyResNet, blocks=2), None, _NARROW),
    "tiny26": _Backbone(partial(TinyResNet, blocks=3), None, _NARROW),
    "r50": _Backbone(resnet50, ResNet50_Weights.IMAGENET1K_V1, _WIDE),
    "r101": _Backbone(resnet101, ResNet101_Weights.IMAGENET1K_V1, _WIDE),
    "r103": _Backbone(ResNet103, None, _WIDE),
    "x101": _Backbone(resnext101_32x8d, ResNeXt101_32X8D_Weights.IMAGENET1K_V1, _WIDE),
}


def _strided_blocks(model: nn.Module) -> list[Bottleneck]:
    """The bottleneck blocks that enter a stage and halve its resolution."""
    return [
        block
        for block in model.modules()
        if isinstance(block, Bottleneck) and block.downsample is not None and block.downsample[0].stride != (1, 1)
    ]


def stride_in_1x1(model: nn.Module) -> bool | None:
    """Whether a model's ResNet halves the resolution in 1x1 convolutions; None if it has no bottleneck blocks."""
    blocks = _strided_blocks(model)
    return blocks[0].conv1.stride != (1, 1) if blocks else None


def set_stride_in_1x1(model: nn.Module, in_1x1: bool) -> None:
    """Puts the strides of a model's ResNet into the 1x1 convolutions, or into the 3x3 ones as torchvision does.

    Raises:
        ValueError: if it has no such 1x1 convolutions.
    """
    blocks = _strided_blocks(model)
    if in_1x1 and not blocks:
        raise ValueError("stride_in_1x1 needs a backbone of bottleneck blocks: basic blocks have no 1x1 convolution")
    for block in blocks:
        stride = block.downsample[0].stride
        block.conv1.stride, block.conv2.stride = (stride, (1, 1)) if in_1x1 else ((1, 1), stride)


def _resnet(name: str, norm: Norm, pretrained: bool) -> ResNet:
    if name not in _BACKBONES:
        raise ValueError(f"unknown backbone {name!r}, expected one of {', '.join(_BACKBONES)}")
    if norm not in NORM_LAYERS:
        raise ValueError(f"norm is {norm!r}, expected one of {', '.join(NORM_LAYERS)}")
    spec = _BACKBONES[name]
    if pretrained and spec.imagenet is None:
        raise ValueError(f"torchvision has no ImageNet weights for backbone {name!r}")
    if pretrained and norm == "group":
        raise ValueError("ImageNet weights come with batch norm: norm is 'group', expected 'frozen_batch' or 'batch'")
    body = spec.resnet(weights=spec.imagenet if pretrained else None, norm_layer=NORM_LAYERS[norm])
    fold_frozen_norms(body)
    return body


def freeze_stem_and_res2(body: nn.Module) -> None:
    """Freezes the stem and res2 of a ResNet, as the paper does for instance segmentation (Appendix A)."""
    for name, parameter in body.named_parameters():
        if name.startswith(("conv1.", "bn1.", "layer1.")):
            parameter.requires_grad_(False)


def resnet_fpn(
    name: str,
    norm: Norm,
    fpn_channels: int = 256,
    pretrained: bool = False,
    *,
    stride_in_1x1: bool = False,
    freeze_early: bool = True,
    with_p2: bool = True,
) -> BackboneWithFPN:
    """A ResNet with a feature pyramid.

    Args:
        name: "r50", "r101", "x101" (ResNeXt-101 32x8d), or "tiny", "tiny18" and "tiny26" for demonstrations.
        norm: the normalisation of the ResNet.
        fpn_channels: C, the channels of every pyramid level.
        pretrained: start from torchvision's ImageNet weights (downloaded once).
        stride_in_1x1: halve the resolution in the 1x1 convolution that enters res3, res4 and res5, as the original
            ResNets do (He et al., 2016) and the weights trained from them expect, rather than in the 3x3 one.
        freeze_early: freeze a pretrained stem and res2, as the paper does for instance segmentation (Appendix A).
            Without pretrained weights nothing is frozen.
        with_p2: whether P2 is part of the pyramid.

    Returns:
        a module that maps (N, 3, H, W) to {"p2": (N, C, H/4, W/4), "p3", "p4", "p5", "pool"}, or to those from P3 on.

    Raises:
        ValueError: for an unknown name or norm, ``pretrained`` where no such weights exist, or ``stride_in_1x1``
            where there is no such convolution.
    """
    body = _resnet(name, norm, pretrained)
    if stride_in_1x1:
        set_stride_in_1x1(body, True)
    if pretrained and freeze_early:
        freeze_stem_and_res2(body)
    first = 0 if with_p2 else 1
    stages = {"layer1": "p2", "layer2": "p3", "layer3": "p4", "layer4": "p5"}
    pyramid: dict[str, Any] = {
        "in_channels_list": list(_BACKBONES[name].stage_channels)[first:],
        "out_channels": fpn_channels,
        "extra_blocks": LastLevelMaxPool(),
        "norm_layer": NORM_LAYERS[norm] if norm == "group" else None,
    }
    backbone = BackboneWithFPN(body, dict(list(stages.items())[first:]), **pyramid)
    if not with_p2:
        backbone.fpn = PyramidFromP3(**pyramid)
    return backbone


def _set_stage(stage: nn.Sequential, stride: int, entry: int, dilations: Iterable[int]) -> None:
    """Sets the stride of a stage, the dilation of its first 3x3 convolution, and that of the others by block."""
    for block, dilation in zip(stage, dilations, strict=False):
        for conv in (module for module in block.modules() if isinstance(module, nn.Conv2d)):
            if conv.kernel_size == (3, 3):
                conv.dilation = conv.padding = (dilation, dilation)
    first: Any = stage[0]
    strided = first.conv1 if isinstance(first, BasicBlock) else first.conv2
    strided.dilation = strided.padding = (entry, entry)
    strided.stride = first.downsample[0].stride = (stride, stride)


class DilatedResNet(nn.Module):
    """A ResNet that keeps the resolution of its last stages by dilation, for DeepLabV3 (Section 5).

    Maps (N, 3, H, W) to {"res2": (N, C2, H/4, W/4), "res5": (N, C5, H/S, W/S)}, S the output stride, sizes rounded up.
    """

    def __init__(self, body: ResNet, channels: tuple[int, int], output_stride: int = 16) -> None:
        super().__init__()
        self.channels = {"res2": channels[0], "res5": channels[1]}
        self.body = IntermediateLayerGetter(body, {"layer1": "res2", "layer4": "res5"})
        self.set_output_stride(output_stride)

    def set_output_stride(self, output_stride: int) -> None:
        """Stride 16, or 8 with res4 dilated too, with the same weights (Table 6).

        Raises:
            ValueError: for another stride.
        """
        if output_stride not in (8, 16):
            raise ValueError(f"output_stride is {output_stride}, expected 8 or 16")
        res4 = self.body["layer3"]
        dilation = 16 // output_stride
        # res4's first convolution still reads res3 undilated. All later ones are dilated to keep their field of view:
        # at stride 8, every second cell of the features is a cell of those at stride 16.
        _set_stage(res4, 2 // dilation, 1, [dilation] * len(res4))
        rates = [2 * dilation * step for step in MULTI_GRID]
        _set_stage(self.body["layer4"], 1, rates[0], rates)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.body(images)


def dilated_resnet(name: str, norm: Norm, output_stride: int = 16, pretrained: bool = False) -> DilatedResNet:
    """DeepLabV3's backbone: the dilated last stages of a ResNet, with a multi-grid of 1, 2, 4 in res5.

    Args:
        name: "r103" as in the paper, or any other name that :func:`resnet_fpn` knows.
        norm: its normalisation.
        output_stride: 16, or 8.
        pretrained: start from torchvision's ImageNet weights (downloaded once); nothing is frozen.

    Raises:
        ValueError: for an unknown name, norm or stride, or ``pretrained`` where no such weights exist.
    """
    body = _resnet(name, norm, pretrained)
    channels = _BACKBONES[name].stage_channels
    return DilatedResNet(body, (channels[0], channels[-1]), output_stride)
