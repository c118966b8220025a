"""Checks tensors for NaN and infinity."""

import torch
from torch import Tensor


def check_finite(name: str, tensor: Tensor) -> None:
    """Raises a ValueError that names the tensor if it holds NaN or infinity. Any floating shape.

    While a graph is recorded nothing is checked: there are no values yet.
    """
    if torch.compiler.is_compiling():
        return
    # The sum of a tensor with NaN or infinity is NaN or infinite, and needs no boolean tensor of the same size.
    total = tensor.detach().sum(dtype=torch.promote_types(tensor.dtype, torch.float32))
    if not total.isfinite():
        raise ValueError(f"{name}, of shape {tuple(tensor.shape)}, holds NaN or infinity")
