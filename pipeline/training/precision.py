"""The ``precision`` of a schedule: the number formats that a GPU computes in.

========= ============================================= =====================================
precision on a GPU                                      on the CPU
========= ============================================= =====================================
float32   float32 everywhere, TF32 nowhere              float32
tf32      convolutions and matrix products round their  float32: the CPU has no TF32
          factors to TF32 (10 bits of mantissa); sums
          and everything else in float32
bfloat16  autocast: convolutions and matrix products in autocast to bfloat16 as well (slow on
          bfloat16; what autocast leaves in float32 is  most CPUs)
          strict float32
========= ============================================= =====================================

Weights, their gradients, the optimizer's state, boxes and RoIAlign are float32 in all three. Frozen batch norm computes
in the type of its features. Evaluation never uses autocast: a run in bfloat16 is evaluated in strict float32, a run in
tf32 in TF32.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def float32_math(precision: str) -> Iterator[None]:
    """Within the block, GPUs compute float32 convolutions and matrix products in TF32 if ``precision`` is "tf32".

    Otherwise they compute in strict float32. The setting applies to the whole process, and the end of the block
    restores the previous one. (torch's default is TF32 for convolutions only.)
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def autocast(device: torch.device, precision: str) -> torch.autocast | nullcontext[None]:
    """The autocast context of a precision; the forward pass and the losses run in it, the backward pass does not."""
    if precision != "bfloat16":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
