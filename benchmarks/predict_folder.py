"""`pointrend predict` on a folder of photographs, beside a plain loop over a predictor.

    python benchmarks/predict_folder.py --threads 2 --repeats 3 photos/
    python benchmarks/predict_folder.py --quick

The loop reads a photograph, resizes it, and calls the model: with Detectron2 (and its project PointRend) importable
from a source tree as its DefaultPredictor does, and otherwise with this library's model. It writes nothing. All sides
have the same random weights, input sizes and least score. `--quick` draws two small pictures instead,
with three objects in each.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import DETECTRON2, Measurement, measure, parser, report
from PIL import Image
from rcnn_pair import CONFIGS, random_picture, rcnn_pair

from pointrend.inputs import Input, find_inputs
from pointrend.pictures import read_picture
from pointrend.predict import Settings, Writer, class_infos, predict_files

SCORE = 0.05  # Detectron2's default
QUICK_OBJECTS = 3  # in each picture
OWN_LOOP = "a loop over the model"


def _arguments() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("folder", type=Path, nargs="?", help="of photographs")
    options.add_argument(
        "--quick", action="store_true", help="two small drawn pictures with three objects each, one run"
    )
    options.add_argument("--model", choices=sorted(CONFIGS), default="pointrend_rcnn_r50_fpn_coco")
    arguments = options.parse_args()
    if (arguments.folder is None) != arguments.quick:
        options.error("name a folder of photographs, or add --quick")
    return arguments


def _detectron2_loop(theirs: Any, images: list[Input], sizes: tuple[int, int]) -> int:
    """What DefaultPredictor does with each image; returns the number of objects."""
    from detectron2.data.transforms import ResizeShortestEdge

    resize, objects = ResizeShortestEdge([sizes[0], sizes[0]], sizes[1]), 0
    for source in images:
        bgr = np.asarray(Image.open(source.path).convert("RGB"))[:, :, ::-1]
        height, width = bgr.shape[:2]
        resized = resize.get_transform(bgr).apply_image(bgr)
        image = torch.as_tensor(resized.astype("float32").transpose(2, 0, 1))
        objects += len(theirs([{"image": image, "height": height, "width": width}])[0]["instances"])
    return objects


def _candidates(
    model: Any, theirs: Any | None, images: list[Input], out: Path, objects: dict[str, int]
) -> dict[str, Callable[[], None]]:
    classes = class_infos(model)
    settings = Settings(SCORE, tuple(range(len(classes))))

    def predict(*kinds: str) -> None:
        outcome = predict_files(model, images, settings, Writer(out, kinds, classes))
        if outcome.failed:
            raise RuntimeError("\n".join(outcome.failed))
        objects["predict, " + " and ".join(kinds)] = outcome.regions

    def loop() -> None:
        objects[OWN_LOOP] = sum(len(model([read_picture(source.path)])[0]["boxes"]) for source in images)

    def detectron2() -> None:
        sizes = (model.transform.min_size, model.transform.max_size)
        objects[DETECTRON2] = _detectron2_loop(theirs, images, sizes)

    return {
        **({OWN_LOOP: loop} if theirs is None else {DETECTRON2: detectron2}),
        "predict, json": lambda: predict("json"),
        "predict, overlays and json": lambda: predict("overlays", "json"),
    }


def _measured(arguments: argparse.Namespace, folder: Path, out: Path) -> tuple[list[Measurement], dict[str, int], int]:
    device = torch.device(arguments.device)
    model, theirs = rcnn_pair(arguments.model, device)
    model.eval()
    if arguments.quick:
        model.transform.min_size, model.transform.max_size = 96, 128
        model.roi_heads.detections_per_img = QUICK_OBJECTS
    if theirs is not None:
        theirs.eval()
        if arguments.quick:
            theirs.roi_heads.box_predictor.test_topk_per_image = QUICK_OBJECTS
    images, objects = find_inputs([str(folder)], []).images, dict[str, int]()
    with torch.inference_mode():
        candidates = _candidates(model, theirs, images, out, objects)
        measurements = measure(candidates, device, 1 if arguments.quick else arguments.repeats)
    return measurements, objects, len(images)


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder
        if arguments.quick:
            folder = Path(temporary, "in")
            folder.mkdir()
            for number, size in enumerate(((96, 128), (128, 96))):
                pixels = random_picture(size).permute(1, 2, 0).byte().numpy()
                Image.fromarray(pixels).save(folder / f"{number}.png")
        measurements, objects, count = _measured(arguments, folder, Path(temporary, "out"))
    figures = {one.name: {"images/s": count / one.seconds, "objects": float(objects[one.name])} for one in measurements}
    report(
        f"{arguments.model}: {count} images, {arguments.device}, {torch.get_num_threads()} threads",
        measurements,
        arguments.json,
        figures,
        DETECTRON2 if DETECTRON2 in objects else OWN_LOOP,
    )


if __name__ == "__main__":
    main()
