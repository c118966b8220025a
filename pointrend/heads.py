"""The layers of the mask heads: 4xconv head, coarse 7x7 head and point head (Section 4).

Shape letters: R regions, C channels, K classes, P points.
"""

from contextlib import nullcontext

import torch
from torch import Tensor, cat, nn


def _init_relu_layer(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Conv1d) -> None:
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def _init_linear(layer: nn.Linear) -> None:
    nn.init.kaiming_uniform_(layer.weight, a=1)
    nn.init.zeros_(layer.bias)


def _init_predictor(layer: nn.Linear | nn.Conv1d | nn.Conv2d) -> None:
    """Small weights, so that training starts from undecided masks."""
    nn.init.normal_(layer.weight, std=0.001)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


class FourConvHead(nn.Sequential):
    """Mask R-CNN's default mask head, the paper's "4xconv" (Section 4, footnote 2).

    Four 3x3 convolutions, a 2x2 deconvolution and a 1x1 prediction layer: (R, C, S, S) features to
    (R, K, 2S, 2S) mask logits.
    """

    def __init__(self, in_channels: int, num_classes: int, channels: int = 256) -> None:
        layers: list[nn.Module] = []
        for _ in range(4):
            conv = nn.Conv2d(in_channels, channels, 3, padding=1)
            _init_relu_layer(conv)
            layers += [conv, nn.ReLU()]
            in_channels = channels
        deconv = nn.ConvTranspose2d(in_channels, channels, 2, stride=2)
        _init_relu_layer(deconv)
        predictor = nn.Conv2d(channels, num_classes, 1)
        _init_predictor(predictor)
        super().__init__(*layers, deconv, nn.ReLU(), predictor)
        self.num_classes = num_classes

    def forward_class(self, features: Tensor, classes: Tensor) -> Tensor:
        """The logits of one class per region: (R, C, S, S) and classes (R,) from 0 to (R, 1, 2S, 2S).

        Equal to :meth:`forward` followed by selecting that class, without computing the others.
        """
        *layers, predictor = self
        for layer in layers:
            features = layer(features)
        weight, bias = (predictor.get_parameter(name)[classes] for name in ("weight", "bias"))
        logits = torch.baddbmm(bias[:, None, None], weight[:, None, :, 0, 0], features.flatten(2))
        return logits.unflatten(2, features.shape[-2:])


class CoarseMaskHead(nn.Module):
    """The lightweight head that predicts the coarse mask (Section 4, "Lightweight, coarse mask prediction head").

    A 2x2 convolution of stride two, then an MLP over the whole region: (R, C, 2S, 2S) features to (R, K, S, S)
    mask logits, S = ``side``.
    """

    def __init__(
        self, in_channels: int, num_classes: int, side: int = 7, channels: int = 256, hidden: int = 1024
    ) -> None:
        super().__init__()
        self.num_classes, self.side = num_classes, side
        self.reduce = nn.Conv2d(in_channels, channels, 2, stride=2)
        self.fc1 = nn.Linear(channels * side * side, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.predictor = nn.Linear(hidden, num_classes * side * side)
        _init_relu_layer(self.reduce)
        _init_linear(self.fc1)
        _init_linear(self.fc2)
        _init_predictor(self.predictor)

    def forward(self, features: Tensor) -> Tensor:
        x = self.reduce(features).relu().flatten(1)
        x = self.fc2(self.fc1(x).relu()).relu()
        # With many classes the last layer has most of the weights, and autocast would convert them in every call.
        device = x.device.type
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            logits = self.predictor(x.to(self.predictor.weight.dtype))
        return logits.view(-1, self.num_classes, self.side, self.side)


class PointHead(nn.Module):
    """The MLP that labels a point from its features, weights shared over all points and regions (Section 3.2).

    The coarse prediction joins the fine-grained features at the input and the hidden features at every layer
    (Section 4, "PointRend"). Without ``coarse_each_layer`` it joins at the input only. Maps fine (R, C, P) and coarse
    (R, K, P) to logits (R, K, P).
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int = 256,
        num_layers: int = 3,
        *,
        coarse_each_layer: bool = True,
    ) -> None:
        super().__init__()
        self.coarse_each_layer = coarse_each_layer
        in_channels += num_classes
        self.layers = nn.ModuleList()
        for _ in range(num_layers):
            layer = nn.Conv1d(in_channels, channels, 1)
            _init_relu_layer(layer)
            self.layers.append(layer)
            in_channels = channels + num_classes if coarse_each_layer else channels
        self.predictor = nn.Conv1d(in_channels, num_classes, 1)
        _init_predictor(self.predictor)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        x = cat((fine, coarse), dim=1)
        for layer in self.layers:
            x = layer(x).relu_()
            if self.coarse_each_layer:
                x = cat((x, coarse), dim=1)
        return self.predictor(x)
