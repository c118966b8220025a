"""Whole instance models at inference: an image in, boxes and masks on its pixels out.

    python benchmarks/inference.py --threads 2 --height 800 --width 1216

With Detectron2 (and its project PointRend) importable from a source tree, its model runs on the same weights and
image. It pastes binary masks; this library pastes probabilities.
"""

from typing import Any

import torch
from measure import DETECTRON2, measure, parser, report
from rcnn_pair import CONFIGS, random_picture, rcnn_pair

from pointrend.agreement import mask_ious


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", choices=sorted(CONFIGS), default="pointrend_rcnn_r50_fpn_coco")
    options.add_argument("--height", type=int, default=800, help="of the image, in pixels; it is not resized")
    options.add_argument("--width", type=int, default=1216)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    model, theirs = rcnn_pair(arguments.model, device)
    model.eval()
    height, width = arguments.height, arguments.width
    model.transform.min_size, model.transform.max_size = min(height, width), max(height, width)
    picture = random_picture((height, width)).to(device)
    found: dict[str, Any] = {}

    def own() -> None:
        found["float32"] = model([picture / 255])[0]

    def own_half() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            found["bfloat16"] = model([picture / 255])[0]

    candidates = {"float32": own, "bfloat16": own_half}
    if theirs is not None:
        theirs.eval()

        def detectron2() -> None:
            instances = theirs([{"image": picture.flip(0), "height": height, "width": width}])[0]["instances"]
            found[DETECTRON2] = {"boxes": instances.pred_boxes.tensor, "masks": instances.pred_masks[:, None].float()}

        candidates = {DETECTRON2: detectron2, **candidates}
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
