"""Random weights for any model of the registry, under which outputs are neither all alike nor saturated.

As freshly built, a model finds nothing: all its scores are about equal.
"""

import torch
from torch import Tensor, nn

#: Gains over what keeps the spread of a layer's inputs, by a part of the layer's name.
GAINS = {
    "rpn.head.cls_logits": 1.0,
    "rpn.head.bbox_pred": 0.06,
    "box_predictor.cls_score": 0.7,
    "box_predictor.bbox_pred": 0.2,
    "coarse_head.predictor": 1.0,
    "predictor": 2.0,
    "mask_head.head.10": 2.0,
    "inner_blocks": 0.5,
}
RELU_GAIN = 2**0.5
LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> None:
    """Draws all weights and statistics of a model anew, in place; the same for a seed on every machine."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, spread: float) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * spread)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))

    for name, module in model.named_modules():
        if isinstance(module, LAYERS):
            gain = next((gain for part, gain in GAINS.items() if part in name), RELU_GAIN)
            normal(module.weight, gain / module.weight[0].numel() ** 0.5)
            if module.bias is not None:
                normal(module.bias, 0.1)
            continue
        own = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
        if "running_var" in own:
            normal(own["running_mean"], 0.1)
            uniform(own["running_var"], 0.5, 1.5)
        if "weight" in own:  # a norm: the last one of a bottleneck adds little, so that deep stages do not grow
            last = 0.2 if name.endswith("bn3") else 1.0
            uniform(own["weight"], 0.8 * last, 1.2 * last)
            normal(own["bias"], 0.1)
