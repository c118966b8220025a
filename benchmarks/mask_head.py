"""The mask heads alone: boxes and features in, mask probabilities out.

    python benchmarks/mask_head.py --threads 2

With Detectron2 (and its project PointRend) importable, its heads run on the same weights, boxes and features.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from measure import DETECTRON2, has_detectron2, measure, parser, positive, report, with_bfloat16
from torch import Tensor, nn

from pointrend import Rendering
from pointrend.agreement import mask_ious
from pointrend.heads import PointHead
from pointrend.instance import FourConvMaskHead, PointRendMaskHead, class_indices
from pointrend.points import Size
from pointrend.specs import PAPER_SAMPLING

POINTREND = "PointRend"
CHANNELS = 256
STRIDE = 4


def random_boxes(regions: int, size: Size) -> Tensor:
    """Boxes (R, 4) of 20 to 250 pixels a side within an image."""
    extent = torch.tensor([size[1], size[0]]).repeat(2)
    centres, sides = torch.rand(regions, 2) * extent[:2], torch.exp(torch.rand(regions, 2) * 2.5 + 3)
    return torch.cat((centres - sides / 2, centres + sides / 2), dim=1).clamp(min=torch.zeros(4), max=extent)


def blobs(boxes: Tensor, size: Size) -> Tensor:
    """The degree in [0, 1] to which each cell of P2 is inside an ellipse of a box: (1, 1, H / 4, W / 4)."""
    x = (torch.arange(size[1] // STRIDE) + 0.5) * STRIDE
    y = (torch.arange(size[0] // STRIDE) + 0.5) * STRIDE
    inside = torch.zeros(len(y), len(x))
    for x0, y0, x1, y1 in boxes.tolist():
        radius = (((x - (x0 + x1) / 2) / (x1 - x0)) ** 2 + ((y - (y0 + y1) / 2) / (y1 - y0))[:, None] ** 2).sqrt()
        inside = torch.maximum(inside, torch.sigmoid((0.4 - radius) * 30))
    return inside[None, None]


@torch.no_grad()
def teach(head: PointHead, inside: Tensor, outside: Tensor, num_classes: int) -> None:
    """Sets the last layer to separate two fine features (C,), so that masks have an inside and an edge, not noise."""
    hidden = torch.stack((inside, outside))[:, :, None]
    for layer in head.layers:
        hidden = layer(torch.cat((hidden, hidden.new_zeros(2, num_classes, 1)), dim=1)).relu()
    first, second = hidden[:, :, 0]
    direction = 12 * (first - second) / (first - second).square().sum()
    head.predictor.weight[:, :CHANNELS] = direction[:, None]
    head.predictor.bias.fill_(-float(direction @ (first + second)) / 2)


def scene(arguments: Any) -> tuple[PointRendMaskHead, dict[str, Tensor], list[Tensor], list[Tensor]]:
    """A PointRend head that sees blobs, features, boxes and labels."""
    torch.manual_seed(0)
    size, regions, num_classes = (arguments.height, arguments.width), arguments.regions, arguments.classes
    rendering = Rendering(arguments.resolution, arguments.points)
    head = PointRendMaskHead(CHANNELS, num_classes, sampling=PAPER_SAMPLING, rendering=rendering).eval()
    nn.init.normal_(head.coarse_head.predictor.weight, std=0.02)
    nn.init.normal_(head.point_head.predictor.weight, std=0.02)
    boxes = random_boxes(regions, size)
    inside, outside = torch.randn(2, CHANNELS)
    share = blobs(boxes, size)
    noise = F.avg_pool2d(torch.randn(1, CHANNELS, *share.shape[-2:]), 5, 1, 2) * 2
    features = share * inside[:, None, None] + (1 - share) * outside[:, None, None] + noise
    teach(head.point_head, inside, outside, num_classes)
    return head, {"p2": features}, [boxes], [torch.randint(1, num_classes + 1, (regions,))]


def detectron2_heads(arguments: Any, own: PointRendMaskHead, own_four_conv: FourConvMaskHead) -> tuple[Any, Any]:
    """Detectron2's PointRend and 4xconv heads with the same weights."""
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
    from point_rend import add_pointrend_config
    from point_rend.mask_head import PointRendMaskHead as Theirs

    config = get_cfg()
    add_pointrend_config(config)
    model = config.MODEL
    model.ROI_HEADS.NUM_CLASSES = model.POINT_HEAD.NUM_CLASSES = arguments.classes
    model.ROI_MASK_HEAD.IN_FEATURES = model.POINT_HEAD.IN_FEATURES = ["p2"]
    model.ROI_MASK_HEAD.FC_DIM, model.ROI_MASK_HEAD.NUM_FC = 1024, 2
    model.ROI_MASK_HEAD.CONV_DIM, model.ROI_MASK_HEAD.OUTPUT_SIDE_RESOLUTION = CHANNELS, 7
    model.ROI_MASK_HEAD.POOLER_RESOLUTION = 14
    model.ROI_MASK_HEAD.POINT_HEAD_ON = True
    model.POINT_HEAD.SUBDIVISION_NUM_POINTS = arguments.points
    model.POINT_HEAD.SUBDIVISION_STEPS = (arguments.resolution // 7).bit_length() - 1
    theirs = Theirs(config, {"p2": ShapeSpec(channels=CHANNELS, stride=STRIDE)}).eval()
    names = {"reduce": "reduce_spatial_dim_conv", "fc1": "fc1", "fc2": "fc2", "predictor": "prediction"}
    for mine, name in names.items():
        getattr(theirs.coarse_head, name).load_state_dict(getattr(own.coarse_head, mine).state_dict())
    for index, layer in enumerate(own.point_head.layers, start=1):
        getattr(theirs.point_head, f"fc{index}").load_state_dict(layer.state_dict())
    theirs.point_head.predictor.load_state_dict(own.point_head.predictor.state_dict())

    four_conv = MaskRCNNConvUpsampleHead(
        ShapeSpec(channels=CHANNELS), num_classes=arguments.classes, conv_dims=[CHANNELS] * 5
    ).eval()
    layers = [layer for layer in own_four_conv.head if not isinstance(layer, nn.ReLU)]
    convs = [getattr(four_conv, f"mask_fcn{index}") for index in range(1, 5)]
    for layer, their_layer in zip(layers, [*convs, four_conv.deconv, four_conv.predictor], strict=True):
        their_layer.load_state_dict(layer.state_dict())
    return theirs, four_conv


def cases(
    arguments: Any, device: torch.device, layout: torch.memory_format = torch.contiguous_format
) -> dict[str, Callable[[], Tensor]]:
    """The mask heads by name, each a function that returns the masks' probabilities; Detectron2's where importable.

    Args:
        arguments: the sizes, as the options of this script have them.
        device: where they run.
        layout: of weights and features in memory.
    """
    head, features, boxes, labels = scene(arguments)
    four_conv = FourConvMaskHead(CHANNELS, arguments.classes).eval()
    theirs = detectron2_heads(arguments, head, four_conv) if has_detectron2() else None
    # The same weights at twice the resolution, which Section 4.1 compares in speed with PointRend at 224x224.
    pooled, larger = (
        torch.randn(arguments.regions, CHANNELS, side, side, device=device).contiguous(memory_format=layout)
        for side in (14, 28)
    )
    classes = class_indices(labels[0], arguments.classes).to(device)
    head, four_conv = (module.to(device, memory_format=layout) for module in (head, four_conv))
    features = {name: feature.to(device, memory_format=layout) for name, feature in features.items()}
    boxes, labels = [boxes[0].to(device)], [labels[0].to(device)]
    found = {
        POINTREND: lambda: head.logits(features, boxes, labels, None).float().sigmoid(),
        "4xconv 28x28": lambda: four_conv.head.forward_class(pooled, classes).sigmoid(),
        "4xconv 56x56": lambda: four_conv.head.forward_class(larger, classes).sigmoid(),
    }
    if theirs is None:
        return found
    from detectron2.modeling.roi_heads.mask_head import mask_rcnn_inference
    from detectron2.structures import Boxes, Instances

    their_head, their_four_conv = (module.to(device) for module in theirs)

    def detected() -> list[Any]:
        size = (arguments.height, arguments.width)
        return [Instances(size, pred_boxes=Boxes(boxes[0]), pred_classes=classes)]

    def detectron2_four_conv() -> Tensor:
        instances = detected()
        mask_rcnn_inference(their_four_conv.layers(pooled), instances)
        return instances[0].pred_masks

    return {
        DETECTRON2: lambda: their_head(features, detected())[0].pred_masks,
        **found,
        f"4xconv 28x28, {DETECTRON2}": detectron2_four_conv,
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--regions", type=positive, default=100)
    options.add_argument("--classes", type=positive, default=80)
    options.add_argument("--resolution", type=positive, default=224, help="of PointRend's masks")
    options.add_argument("--points", type=positive, default=28**2, help="of a subdivision step")
    options.add_argument("--height", type=positive, default=800, help="of the image, in pixels")
    options.add_argument("--width", type=positive, default=1216)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    candidates, masks = with_bfloat16(cases(arguments, device), device)
    with torch.inference_mode():
        measurements = measure(candidates, device, arguments.repeats)
    agreement: dict[str, dict[str, float]] = {}
    reference = DETECTRON2 if DETECTRON2 in masks else POINTREND
    for name in (DETECTRON2, POINTREND, f"{POINTREND}, bfloat16"):
        if name in masks:
            ious = mask_ious(masks[name] >= 0.5, masks[reference] >= 0.5)
            agreement[name] = {f"least IoU with {reference}": float(ious.min()), "mean IoU": float(ious.mean())}
    size = f"{arguments.regions} regions, {arguments.classes} classes, {arguments.resolution}x{arguments.resolution}"
    image = f"P2 of {arguments.height // STRIDE}x{arguments.width // STRIDE}"
    report(
        f"mask head: {size}, {image}, {device}, {torch.get_num_threads()} threads",
        measurements,
        arguments.json,
        agreement,
    )


if __name__ == "__main__":
    main()
