"""bfloat16 on CPUs without instructions for it."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


def emulates_bfloat16(device: torch.device) -> bool:
    """Whether a device has no instructions for bfloat16: its convolutions take about a hundred times as long."""
    return device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


class Float32Sums(TorchDispatchMode):
    """Computes convolutions and matrix products of bfloat16 as tensor cores do: sums in float32, rounded once.

    Autograd saves the bfloat16 tensors all the same.
    """

    HEAVY = frozenset(
        {
            torch.ops.aten.convolution.default,
            torch.ops.aten.convolution_backward.default,
            torch.ops.aten.addmm.default,
            torch.ops.aten.mm.default,
            torch.ops.aten.bmm.default,
        }
    )

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function not in self.HEAVY or args[0].dtype != torch.bfloat16:
            return function(*args, **(kwargs or {}))
        exact = function(*tree_map_only(Tensor, Tensor.float, args), **(kwargs or {}))
        return tree_map_only(Tensor, Tensor.bfloat16, exact)
