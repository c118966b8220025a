"""One instance model twice, with the same random weights: this library's, and Detectron2's where it is importable."""

from pathlib import Path
from typing import Any

import checkout  # noqa: F401 - before pointrend
import torch
from detectron2_weights import random_detectron2, random_picture
from measure import has_detectron2
from torch import nn

from pointrend import build_model
from pointrend.backbones import freeze_stem_and_res2
from pointrend.detectron2 import detectron2_options, from_detectron2

__all__ = ["CONFIGS", "random_picture", "rcnn_pair"]

#: The configurations in Detectron2's source tree, from its project PointRend's folder.
CONFIGS = {
    "maskrcnn_r50_fpn_coco": "../../configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml",
    "pointrend_rcnn_r50_fpn_coco": "configs/InstanceSegmentation/pointrend_rcnn_R_50_FPN_3x_coco.yaml",
}


def rcnn_pair(name: str, device: torch.device) -> tuple[nn.Module, Any | None]:
    """This library's model and Detectron2's, or None if it cannot be imported; stem and res2 of both are frozen."""
    state = random_detectron2(name, 0)
    model = build_model(name, **detectron2_options(name))
    own, problems = from_detectron2(state, model.state_dict())
    if problems:
        raise ValueError(f"{name}: {problems}")
    model.load_state_dict(own)
    freeze_stem_and_res2(model.backbone.get_submodule("body"))
    return model.to(device), _detectron2(name, state, device) if has_detectron2() else None


def _detectron2(name: str, state: dict[str, torch.Tensor], device: torch.device) -> Any:
    import point_rend
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model as build_theirs

    config = get_cfg()
    point_rend.add_pointrend_config(config)
    config.merge_from_file(str(Path(point_rend.__file__).parents[1] / CONFIGS[name]))
    config.MODEL.DEVICE = str(device)
    model = build_theirs(config)
    model.load_state_dict(state)
    return model
