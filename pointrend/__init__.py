"""PointRend: image segmentation as rendering (Kirillov, Wu, He, Girshick, CVPR 2020).

Names are imported on first use, so that importing the package does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pointrend.specs import PointSampling, Rendering, list_models

if TYPE_CHECKING:
    from pointrend.export import export_model
    from pointrend.in_torchvision import deeplabv3_with_pointrend, mask_rcnn_with_pointrend
    from pointrend.instance import MaskRCNN
    from pointrend.registry import build_model
    from pointrend.semantic import SemanticSegmenter
    from pointrend.weights import load_backbone, load_detectron2, load_model, load_weights, save_weights

__version__ = "0.1.0"

__all__ = [
    "MaskRCNN",
    "PointSampling",
    "Rendering",
    "SemanticSegmenter",
    "build_model",
    "deeplabv3_with_pointrend",
    "export_model",
    "list_models",
    "load_backbone",
    "load_detectron2",
    "load_model",
    "load_weights",
    "mask_rcnn_with_pointrend",
    "save_weights",
]

_LAZY = {
    "MaskRCNN": "pointrend.instance",
    "SemanticSegmenter": "pointrend.semantic",
    "build_model": "pointrend.registry",
    "deeplabv3_with_pointrend": "pointrend.in_torchvision",
    "export_model": "pointrend.export",
    "load_backbone": "pointrend.weights",
    "load_detectron2": "pointrend.weights",
    "load_model": "pointrend.weights",
    "load_weights": "pointrend.weights",
    "mask_rcnn_with_pointrend": "pointrend.in_torchvision",
    "save_weights": "pointrend.weights",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'pointrend' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
