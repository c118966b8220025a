"""Seeded stand-ins for the datasets of the paper, drawn in seconds."""

from pipeline.data.synthetic.shapes import ShapesSpec, generate_shapes

__all__ = ["ShapesSpec", "generate_shapes"]
