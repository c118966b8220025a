"""Whole instance models at inference: an image in, boxes and masks on its pixels out.

    python benchmarks/inference.py --threads 2 --height 800 --width 1216

With Detectron2 (and its project PointRend) importable from a source tree, its model runs on the same weights and
image. It pastes binary masks; this library pastes probabilities.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measure import DETECTRON2, measure, parser, positive, report
from rcnn_pair import CONFIGS, random_picture, rcnn_pair
from torch import Tensor

from pointrend.agreement import mask_ious


def own(model: Any, picture: Tensor) -> Callable[[], dict[str, Tensor]]:
    """What finds the objects of a picture (3, H, W) in [0, 255] with this library's model, without resizing it."""
    model.eval()
    model.transform.min_size, model.transform.max_size = min(picture.shape[1:]), max(picture.shape[1:])
    return lambda: model([picture / 255])[0]


def detectron2(model: Any, picture: Tensor) -> Callable[[], dict[str, Tensor]]:
    """The same with Detectron2's model."""
    model.eval()
    height, width = picture.shape[1:]

    def run() -> dict[str, Tensor]:
        instances = model([{"image": picture.flip(0), "height": height, "width": width}])[0]["instances"]
        return {"boxes": instances.pred_boxes.tensor, "masks": instances.pred_masks[:, None].float()}

    return run


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", choices=sorted(CONFIGS), default="pointrend_rcnn_r50_fpn_coco")
    options.add_argument("--height", type=positive, default=800, help="of the image, in pixels; it is not resized")
    options.add_argument("--width", type=positive, default=1216)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    model, theirs = rcnn_pair(arguments.model, device)
    height, width = arguments.height, arguments.width
    picture = random_picture((height, width)).to(device)
    found: dict[str, Any] = {}

    def keep(name: str, run: Callable[[], dict[str, Tensor]]) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=name == "bfloat16"):
            found[name] = run()

    runs = {"float32": own(model, picture), "bfloat16": own(model, picture)}
    if theirs is not None:
        runs = {DETECTRON2: detectron2(theirs, picture), **runs}
    candidates = {name: partial(keep, name, run) for name, run in runs.items()}
    with torch.inference_mode():
        measurements = measure(candidates, device, arguments.repeats)
    reference = DETECTRON2 if DETECTRON2 in found else "float32"
    agreement = {name: {"detections": float(len(output["boxes"]))} for name, output in found.items()}
    if len(found["float32"]["boxes"]) == len(found[reference]["boxes"]):
        ious = mask_ious(found["float32"]["masks"] >= 0.5, found[reference]["masks"] >= 0.5)
        agreement["float32"][f"least IoU with {reference}"] = float(ious.min())
    report(
        f"{arguments.model}: one image of {height}x{width}, {device}, {torch.get_num_threads()} threads",
        measurements,
        arguments.json,
        agreement,
    )


if __name__ == "__main__":
    main()
