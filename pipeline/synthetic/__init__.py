"""Seeded synthetic datasets in place of COCO, LVIS and Cityscapes, drawn in seconds."""

from pipeline.synthetic.shapes import ShapesSpec, generate_shapes
from pipeline.synthetic.streets import StreetsSpec, generate_streets

__all__ = ["ShapesSpec", "StreetsSpec", "generate_shapes", "generate_streets"]
