"""Compares the outputs of this library's whole models with Detectron2's, on the same random weights and pictures.

Needs ``detectron2`` with its projects PointRend and DeepLab importable (its C extension is not needed) and its source
tree for the configurations:

    python benchmarks/compare_detectron2.py --source DETECTRON2 PICTURE... [--seeds 3] [--model NAME...] [--json FILE]

Both get the same network input: a picture is resized to 8-bit values first, and neither model resizes it again. The
libraries' own resizing is not compared: Detectron2 resizes 8-bit pictures with Pillow, this library float images.

``--store FOLDER`` writes Detectron2's outputs, with which ``tests/pointrend/test_detectron2.py`` compares this library
where Detectron2 is not installed.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import checkout  # noqa: F401 - before pointrend
import numpy as np
import torch
from detectron2_weights import CASES, random_detectron2, random_picture, summary
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import pointrend
from pointrend.agreement import compare_instances, compare_semantics
from pointrend.points import Size

_CONFIGS = {
    "maskrcnn_r50_fpn_coco": "configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml",
    **{
        f"pointrend_rcnn_{ours}_fpn_coco": (
            f"projects/PointRend/configs/InstanceSegmentation/pointrend_rcnn_{theirs}_FPN_3x_coco.yaml"
        )
        for ours, theirs in (("r50", "R_50"), ("r101", "R_101"), ("x101", "X_101_32x8d"))
    },
    "pointrend_semantic_fpn_r101_cityscapes": (
        "projects/PointRend/configs/SemanticSegmentation/pointrend_semantic_R_101_FPN_1x_cityscapes.yaml"
    ),
    "deeplabv3_r103_cityscapes": (
        "projects/DeepLab/configs/Cityscapes-SemanticSegmentation/deeplab_v3_R_103_os16_mg124_poly_90k_bs16.yaml"
    ),
}


def detectron2_model(name: str, state: dict[str, Tensor], source: Path, crop: Size | None = None) -> nn.Module:
    """Detectron2's model with these weights, in evaluation mode, as if trained on crops of another size."""
    from deeplab import add_deeplab_config
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model
    from point_rend import add_pointrend_config

    config = get_cfg()
    add_pointrend_config(config)
    add_deeplab_config(config)
    config.merge_from_file(str(source / _CONFIGS[name]))
    config.MODEL.DEVICE = "cpu"
    if "deeplab" in name:  # synchronised batch norm needs a GPU; in evaluation mode the two are equal
        config.MODEL.RESNETS.NORM = config.MODEL.SEM_SEG_HEAD.NORM = "BN"
    if crop is not None:
        config.INPUT.CROP.SIZE = crop
    model = build_model(config).eval()
    model.load_state_dict({**model.state_dict(), **state})  # Detectron2's counts of batches are not among them
    return model


def detectron2_output(name: str, model: Any, picture: Tensor) -> Any:
    """What Detectron2 returns for a picture (3, H, W), RGB in [0, 255], in this library's form."""
    from detectron2.modeling.postprocessing import detector_postprocess

    height, width = picture.shape[1:]
    image = picture if "deeplab" in name else picture.flip(0)
    inputs = [{"image": image, "height": height, "width": width}]
    if "semantic" in name or "deeplab" in name:
        return model(inputs)[0]["sem_seg"]
    found = model.inference(inputs, do_postprocess=False)[0]
    region_masks = found.pred_masks.clone()
    pasted = detector_postprocess(found, height, width)
    if len(pasted) != len(region_masks):
        raise ValueError("Detectron2 dropped a box without area, so its outputs do not match the region masks")
    return {
        "boxes": pasted.pred_boxes.tensor,
        "labels": pasted.pred_classes + 1,
        "scores": pasted.scores,
        "region_masks": region_masks,
        "masks": pasted.pred_masks[:, None].float(),
    }


def own_model(name: str, state: dict[str, Tensor]) -> nn.Module:
    """This library's model with the same weights, which are written to a file and loaded."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model_final.pth"
        torch.save({"model": state}, path)
        return pointrend.load_detectron2(name, path)


def own_output(model: Any, picture: Tensor) -> Any:
    """What this library returns for the same picture (3, H, W), without resizing it."""
    if hasattr(model, "roi_heads"):
        model.transform.min_size, model.transform.max_size = min(picture.shape[1:]), max(picture.shape[1:])
    return model([picture / 255])[0]


def read_picture(path: Path, name: str, shorter: int) -> Tensor:
    """A picture (3, H, W) in [0, 255] at the size it is compared at."""
    with Image.open(path) as file:
        picture = file.convert("RGB")
    width, height = picture.size
    scale = shorter / min(width, height)
    size = (round(width * scale), round(height * scale))
    # Detectron2's DeepLabV3 needs a multiple of its training crop.
    picture = picture.resize((1024, 1024) if "deeplab" in name else size, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()


def store(folder: Path, source: Path) -> None:
    """Writes the outputs that the tests compare with."""
    for name, case in CASES.items():
        model = detectron2_model(name, random_detectron2(name, case.seed), source, case.options.get("pool_window"))
        output = detectron2_output(name, model, random_picture(case.size))
        np.savez_compressed(folder / f"{name}.npz", **summary(output))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pictures", nargs="*", type=Path)
    parser.add_argument("--source", type=Path, required=True, help="Detectron2's source tree")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--shorter", type=int, default=320, help="shorter edge of the network's input")
    parser.add_argument("--model", nargs="*", choices=sorted(_CONFIGS), default=list(_CONFIGS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--store", type=Path)
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    if arguments.store:
        store(arguments.store, arguments.source)
        return
    rows = []
    for name in arguments.model:
        for seed in range(arguments.seeds):
            state = random_detectron2(name, seed)
            theirs, ours = detectron2_model(name, state, arguments.source), own_model(name, state)
            for path in arguments.pictures:
                picture = read_picture(path, name, arguments.shorter)
                found = detectron2_output(name, theirs, picture), own_output(ours, picture)
                compare = compare_semantics if isinstance(found[0], Tensor) else compare_instances
                rows.append({"model": name, "seed": seed, "picture": path.name, **compare(*found)})
                print(rows[-1], file=sys.stderr)
    columns = (
        "model",
        "seed",
        "picture",
        "detections",
        "other_detections",
        "box",
        "score",
        "region_mask_iou",
        "mask_iou",
    )
    columns += ("logit", "labels_equal")
    table = Table(*columns)
    for row in rows:
        table.add_row(*(f"{row[c]:.6g}" if isinstance(row.get(c), float) else str(row.get(c, "")) for c in columns))
    Console(width=220).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
