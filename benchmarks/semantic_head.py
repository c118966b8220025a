"""The semantic head alone: from a coarse prediction and fine features to the logits of every pixel.

    python benchmarks/semantic_head.py --threads 2

With Detectron2 (and its project PointRend) importable, its head runs on the same weights and inputs.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from measure import DETECTRON2, has_detectron2, measure, parser, positive, report, with_bfloat16
from torch import Tensor, nn

from pointrend.semantic import SemanticPointRend
from pointrend.semantic_inference import render_coarse
from pointrend.specs import PAPER_SEMANTIC_SAMPLING

POINTREND = "PointRend"
CHANNELS = 256
FINE_STRIDE = 4


def detectron2_head(arguments: Any, own: SemanticPointRend, coarse: Tensor) -> Any:
    """Detectron2's head with the same weights, over a semantic model that always predicts ``coarse``."""
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from point_rend import add_pointrend_config
    from point_rend.semantic_seg import PointRendSemSegHead

    config = get_cfg()
    add_pointrend_config(config)
    config.MODEL.SEM_SEG_HEAD.NUM_CLASSES = config.MODEL.POINT_HEAD.NUM_CLASSES = arguments.classes
    config.MODEL.POINT_HEAD.IN_FEATURES = ["p2"]
    config.MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS = arguments.points
    config.MODEL.POINT_HEAD.SUBDIVISION_STEPS = arguments.stride.bit_length() - 1
    config.MODEL.POINT_HEAD.COARSE_PRED_EACH_LAYER = own.point_head.coarse_each_layer
    shapes = {f"p{level}": ShapeSpec(channels=CHANNELS, stride=2**level) for level in range(2, 6)}
    head = PointRendSemSegHead(config, shapes).eval()
    for index, layer in enumerate(own.point_head.layers, start=1):
        getattr(head.point_head, f"fc{index}").load_state_dict(layer.state_dict())
    head.point_head.predictor.load_state_dict(own.point_head.predictor.state_dict())
    head.coarse_sem_seg_head.layers = lambda features: coarse
    return head


def cases(
    arguments: Any, device: torch.device, layout: torch.memory_format = torch.contiguous_format
) -> dict[str, Callable[[], Tensor]]:
    """The semantic head by name, as a function that returns the logits; Detectron2's where importable.

    Args:
        arguments: the sizes, as the options of this script have them.
        device: where it runs.
        layout: of weights and features in memory.
    """
    torch.manual_seed(0)
    height, width, stride = arguments.height, arguments.width, arguments.stride
    head = SemanticPointRend(
        "p2",
        CHANNELS,
        arguments.classes,
        sampling=PAPER_SEMANTIC_SAMPLING,
        points_per_step=arguments.points,
        coarse_each_layer=False,
    ).eval()
    nn.init.normal_(head.point_head.predictor.weight, std=0.05)
    # Large regions with edges between them, as real labels have. Noise would be uncertain at every pixel.
    plan = torch.randn(1, arguments.classes, height // 64, width // 64) * 4
    coarse = F.interpolate(plan, size=(height // stride, width // stride), mode="bilinear").to(device)
    feature = torch.randn(1, CHANNELS, height // FINE_STRIDE, width // FINE_STRIDE, device=device)
    features = {"p2": feature.contiguous(memory_format=layout)}
    found: dict[str, Callable[[], Tensor]] = {}
    if has_detectron2():
        theirs = detectron2_head(arguments, head, coarse).to(device)
        found[DETECTRON2] = lambda: theirs(features)[0]
    head = head.to(device, memory_format=layout)
    return {**found, POINTREND: lambda: render_coarse(head, features, coarse, stride, arguments.points)}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--classes", type=positive, default=19)
    options.add_argument("--points", type=positive, default=8096, help="of a subdivision step")
    options.add_argument("--stride", type=positive, default=4, help="of the coarse prediction, a power of two")
    options.add_argument("--height", type=positive, default=1024, help="of the image, in pixels")
    options.add_argument("--width", type=positive, default=2048)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    candidates, logits = with_bfloat16(cases(arguments, device), device)
    with torch.inference_mode():
        measurements = measure(candidates, device, arguments.repeats)
    reference = DETECTRON2 if DETECTRON2 in logits else POINTREND
    agreement = {
        name: {f"labels equal to {reference}": float((own.argmax(1) == logits[reference].argmax(1)).float().mean())}
        for name, own in logits.items()
    }
    size = (arguments.height, arguments.width)
    of = f"stride {arguments.stride} to {size[0]}x{size[1]}, {arguments.classes} classes"
    report(
        f"semantic head: {of}, {arguments.points} points per step, {device}, {torch.get_num_threads()} threads",
        measurements,
        arguments.json,
        agreement,
    )


if __name__ == "__main__":
    main()
