"""Batch norm whose statistics never change, and its folding into the convolution before it.

A frozen norm multiplies each channel by a number and adds another, so a convolution with scaled weights and a bias
computes the same in one operator, without a second map as large as its output, in both passes.
"""

from itertools import pairwise
from typing import Any

import torch
import torchvision.ops
from torch import Tensor, nn


def _is_current(key: tuple[tuple[Tensor, int], ...], sources: tuple[Tensor, ...]) -> bool:
    return len(key) == len(sources) and all(
        tensor is source and version == source._version for (tensor, version), source in zip(key, sources, strict=True)
    )


class _Derived:
    """Tensors computed from others without gradient, kept until one of the others is replaced or written to.

    Attributes:
        values: the tensors.
    """

    def __init__(self) -> None:
        self.values: tuple[Tensor, ...] = ()
        self._key: tuple[tuple[Tensor, int], ...] = ()

    def clear(self) -> None:
        self.values, self._key = (), ()

    def holds(self, sources: tuple[Tensor, ...]) -> bool:
        return bool(self.values) and _is_current(self._key, sources)

    def store(self, sources: tuple[Tensor, ...], values: tuple[Tensor, ...]) -> None:
        self.values, self._key = values, tuple((source, source._version) for source in sources)

    def __getstate__(self) -> dict[str, Any]:
        return {"values": (), "_key": ()}  # a copy has other tensors, and counts its writes anew


def _can_keep(*sources: Tensor) -> bool:
    """Whether later writes to the tensors can be told: neither in a graph nor for tensors of ``inference_mode``."""
    return not torch.compiler.is_compiling() and not any(source.is_inference() for source in sources)


class FrozenBatchNorm2d(torchvision.ops.FrozenBatchNorm2d):
    """Batch norm whose statistics, scale and shift never change, computed in the features' type as Detectron2's is.

    torchvision's multiplies by float32 numbers, which turns bfloat16 features into float32 ones, twice as large.

    Attributes:
        folded: whether the convolution before it computes this norm too (:func:`fold_frozen_norms`). Then it returns
            its input.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps)
        self.folded = False
        self._derived = _Derived()

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """What the norm multiplies the channels by and then adds: two tensors (C,), in float32 or wider."""
        sources = (self.weight, self.bias, self.running_mean, self.running_var)
        if not _can_keep(*sources):
            return self._scale_and_shift()
        if not self._derived.holds(sources):
            with torch.inference_mode(False), torch.no_grad():  # a tensor of inference mode could not train
                self._derived.store(sources, self._scale_and_shift())
        scale, shift = self._derived.values
        return scale, shift

    def _scale_and_shift(self) -> tuple[Tensor, Tensor]:
        weight, bias, mean, variance = (
            buffer.to(torch.promote_types(buffer.dtype, torch.float32))
            for buffer in (self.weight, self.bias, self.running_mean, self.running_var)
        )
        scale = weight * (variance + self.eps).rsqrt()
        return scale, bias - mean * scale

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape and type."""
        if self.folded:
            return x
        scale, shift = self.scale_and_shift()
        return x * scale.to(x.dtype).view(1, -1, 1, 1) + shift.to(x.dtype).view(1, -1, 1, 1)


class FoldedConv2d(nn.Conv2d):
    """A convolution that computes the frozen norm after it as well, with the weights and names of a plain one.

    Gradients flow through the scaled weight into the weight. A weight that needs no gradient is scaled once, and again
    after it was loaded, moved, trained or written to, or ``train`` or ``eval`` was called. (torch does not count writes
    to ``weight.data``: call ``eval`` after those.)

    Args:
        conv: the convolution, whose parameters are shared.
        norm: the norm after it, which is marked as folded.
    """

    def __init__(self, conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
            device="meta",
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.training = conv.training
        self._norm = (norm,)  # in a tuple: a module of its own here would be in the state dict twice
        self._derived = _Derived()
        norm.folded = True

    def folded(self) -> tuple[Tensor, Tensor]:
        """The weight, of the same shape, and the bias (C,) that compute convolution and norm."""
        scale, shift = self._norm[0].scale_and_shift()
        sources = (self.weight, scale, shift) if self.bias is None else (self.weight, scale, shift, self.bias)
        trains = torch.is_grad_enabled() and any(source.requires_grad for source in sources)
        if trains or not _can_keep(*sources):
            self._derived.clear()  # torch does not count what a fused optimizer writes after this pass
            return self._fold(scale, shift)
        if not self._derived.holds(sources):
            with torch.inference_mode(False), torch.no_grad():
                self._derived.store(sources, self._fold(scale, shift))
        weight, bias = self._derived.values
        return weight, bias

    def _fold(self, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        # Scaled in float32 where the weight is narrower, and rounded once.
        weight = (self.weight * scale.view(-1, 1, 1, 1)).to(self.weight.dtype)
        bias = shift if self.bias is None else shift + self.bias * scale
        return weight, bias.to(self.weight.dtype)

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, *self.folded())

    def train(self, mode: bool = True) -> "FoldedConv2d":
        self._derived.clear()
        return super().train(mode)

    def _apply(self, *arguments: Any, **options: Any) -> "FoldedConv2d":
        self._derived.clear()
        return super()._apply(*arguments, **options)


def fold_frozen_norms(module: nn.Module) -> None:
    """Folds the frozen norms of a network into the convolutions before them, in place.

    These are ``conv1`` and ``bn1`` and so on, as torchvision names them, and neighbours in a sequence. The state dict
    stays as it is, and so do other norms. Strides and dilations of the convolutions may still be changed.
    """
    for parent in list(module.modules()):
        names = list(parent._modules)
        named = ((name, name.replace("conv", "bn")) for name in names if name.startswith("conv"))
        for first, second in pairwise(names) if isinstance(parent, nn.Sequential) else named:
            norm, holder, name = parent._modules.get(second), parent, first
            if isinstance(stem := parent._modules[first], nn.Sequential):  # several convolutions, the last one bare
                holder, name = stem, list(stem._modules)[-1]
            conv = holder._modules[name]
            if isinstance(norm, FrozenBatchNorm2d) and not norm.folded and isinstance(conv, nn.Conv2d):
                setattr(holder, name, FoldedConv2d(conv, norm))
