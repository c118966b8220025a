"""The heads of the semantic models: DeepLabV3's and SemanticFPN's (Section 5).

Shape letters: N images, C channels, K classes, H W rows and columns of the image.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointrend.backbones import NORM_LAYERS, STRIDES
from pointrend.points import Size, upsample
from pointrend.specs import Norm


def _conv_norm(in_channels: int, channels: int, kernel: int, norm: Norm) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=False)
    return [conv, NORM_LAYERS[norm](channels), nn.ReLU(inplace=True)]


def _predictor(channels: int, num_classes: int) -> nn.Conv2d:
    """Small weights, so that training starts from undecided pixels."""
    predictor = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(predictor.weight, std=0.001)
    nn.init.zeros_(predictor.bias)  # type: ignore[arg-type]
    return predictor


def window_means(maps: Tensor, window: Size) -> Tensor:
    """``F.avg_pool2d(maps, window, stride=1)`` by cumulative sums, for graphs in which the window's size is symbolic.

    Args:
        maps: (N, C, H, W).
        window: rows and columns, at most H and W.

    Returns:
        (N, C, H - rows + 1, W - columns + 1).
    """
    sums = F.pad(maps.cumsum(2).cumsum(3), (1, 0, 1, 0))
    for axis, length in zip((2, 3), window, strict=True):
        ends = torch.arange(length, sums.shape[axis], device=maps.device)
        sums = sums.index_select(axis, ends) - sums.index_select(axis, ends - length)
    return sums / (window[0] * window[1])


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: parallel dilated convolutions, and the image's mean.

    Args:
        in_channels: of the features.
        channels: of every branch, and of the output.
        norm: the normalisation of all branches except the image pooling, which has none.
        rates: dilations at output stride 16.
        pool_window: (rows, columns) of the window that the pooling averages, in pixels of the image, such as the size
            of the training crops. By default, and for images smaller than the window, the whole image.
        dropout: share of the output's channels dropped in training.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        norm: Norm,
        rates: tuple[int, ...] = (6, 12, 18),
        pool_window: Size | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.rates, self.pool_window = rates, pool_window
        kernels = (1, *(3 for _ in rates))
        self.branches = nn.ModuleList(
            nn.Sequential(*_conv_norm(in_channels, channels, kernel, norm)) for kernel in kernels
        )
        self.pool = nn.Conv2d(in_channels, channels, 1)
        self.project = nn.Sequential(*_conv_norm((len(kernels) + 1) * channels, channels, 1, norm), nn.Dropout(dropout))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
        nn.init.zeros_(self.pool.bias)  # type: ignore[arg-type]
        self.set_output_stride(16)

    def set_output_stride(self, output_stride: int) -> None:
        """Scales the dilations so that the branches keep their field of view of stride 16."""
        self.output_stride = output_stride
        for branch, rate in zip(list(self.branches)[1:], self.rates, strict=True):
            conv: Any = branch[0]  # type: ignore[index]
            conv.dilation = conv.padding = (rate * 16 // output_stride,) * 2

    def _image_pool(self, features: Tensor) -> Tensor:
        size = (features.shape[-2], features.shape[-1])
        if self.pool_window is None:
            pooled = features.mean((2, 3), keepdim=True)
        else:
            rows, columns = (
                torch.sym_min(max(1, window // self.output_stride), cells)
                for window, cells in zip(self.pool_window, size, strict=True)
            )
            if torch.compiler.is_compiling():
                pooled = window_means(features, (rows, columns))  # type: ignore[arg-type]
            else:
                pooled = F.avg_pool2d(features, (rows, columns), stride=1)  # type: ignore[arg-type]
        return upsample(self.pool(pooled).relu(), size)

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, channels, H, W)."""
        pyramid = [*(branch(features) for branch in self.branches), self._image_pool(features)]
        return self.project(torch.cat(pyramid, dim=1))


class DeepLabV3Head(nn.Module):
    """DeepLabV3's head (Section 5): ASPP on res5, then a 1x1 prediction layer."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        norm: Norm,
        channels: int = 256,
        output_stride: int = 16,
        pool_window: Size | None = None,
    ) -> None:
        super().__init__()
        self.aspp = ASPP(in_channels, channels, norm, pool_window=pool_window)
        self.predictor = _predictor(channels, num_classes)
        self.aspp.set_output_stride(output_stride)

    @property
    def stride(self) -> int:
        """Pixels of the image per cell of the prediction."""
        return self.aspp.output_stride

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Features "res5" (N, C, H/S, W/S) to logits (N, K, H/S, W/S), S the stride."""
        return self.predictor(self.aspp(features["res5"]))


class SemanticFPNHead(nn.Module):
    """SemanticFPN's head (Section 5): every pyramid level brought to the finest one's resolution, summed, predicted.

    A level is upsampled two-fold after each of its 3x3 convolutions, which have group norm.
    """

    def __init__(
        self, in_channels: int, num_classes: int, levels: Sequence[str] = ("p2", "p3", "p4", "p5"), channels: int = 128
    ) -> None:
        super().__init__()
        #: Pixels of the image per cell of the prediction: 4 from P2 on, 8 from P3 on (Table 7).
        self.stride = STRIDES[levels[0]]
        self.levels = nn.ModuleDict()
        for level in levels:
            doublings = (STRIDES[level] // self.stride).bit_length() - 1
            layers: list[nn.Module] = []
            for index in range(max(1, doublings)):
                layers += _conv_norm(channels if index else in_channels, channels, 3, "group")
                if doublings:
                    layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            self.levels[level] = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.predictor = _predictor(channels, num_classes)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """A pyramid of (N, C, ., .) to logits (N, K, H/S, W/S), S the stride."""
        merged: Tensor | None = None
        for level, layers in self.levels.items():
            scaled = layers(features[level])
            merged = scaled if merged is None else merged + scaled
        return self.predictor(merged)
