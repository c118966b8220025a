"""A guard against numbers that are none."""

import torch
from torch import Tensor


def check_finite(name: str, tensor: Tensor) -> None:
    """Raises a ValueError that names the tensor if it holds NaN or infinity. Any floating shape.

    Nothing is checked while a graph is recorded: its values are not known then.
    """
    if torch.compiler.is_compiling():
        return
    # One sum reads the tensor once and makes no mask of its size: NaN and infinity survive it.
    total = tensor.detach().sum(dtype=torch.promote_types(tensor.dtype, torch.float32))
    if not total.isfinite():
        raise ValueError(f"{name}, of shape {tuple(tensor.shape)}, holds NaN or infinity")
