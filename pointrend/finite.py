"""Checks tensors for NaN and infinity."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raises a ValueError that names the first tensor with NaN or infinity. Floating tensors of any shapes.

    All of them are checked before the host waits for the device, once. While a graph is recorded nothing is checked:
    there are no values yet.
    """
    if torch.compiler.is_compiling():
        return
    # The sum of a tensor with NaN or infinity is NaN or infinite, and needs no boolean tensor of the same size.
    totals = [t.detach().sum(dtype=torch.promote_types(t.dtype, torch.float32)) for t in tensors.values()]
    for (name, tensor), total in zip(tensors.items(), torch.stack(totals).tolist(), strict=True):
        if not math.isfinite(total):
            raise ValueError(f"{name}, of shape {tuple(tensor.shape)}, holds NaN or infinity")
