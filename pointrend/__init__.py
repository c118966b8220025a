"""PointRend: image segmentation as rendering (Kirillov, Wu, He, Girshick, CVPR 2020)."""

from pointrend.instance import MaskRCNN, Rendering
from pointrend.points import PointSampling
from pointrend.registry import build_model, list_models
from pointrend.weights import load_weights, save_weights

__all__ = [
    "MaskRCNN",
    "PointSampling",
    "Rendering",
    "build_model",
    "list_models",
    "load_weights",
    "save_weights",
]
