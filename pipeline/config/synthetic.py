"""The schema of ``configs/synthetic``: drawn datasets that stand in for COCO, LVIS and Cityscapes."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, TypeAdapter

from pipeline.config.reader import Strict, read, validate


class ShapesConfig(Strict):
    """Shapes drawn by :mod:`pipeline.synthetic`, as a COCO-instances dataset."""

    draws: Literal["shapes"]
    train_images: PositiveInt
    val_images: PositiveInt
    image_size: PositiveInt
    max_objects: PositiveInt
    polygon_tolerance: NonNegativeFloat
    seed: NonNegativeInt


class StreetsConfig(Strict):
    """Street scenes drawn by :mod:`pipeline.synthetic`, as a Cityscapes tree."""

    draws: Literal["streets"]
    train_images: PositiveInt
    val_images: PositiveInt
    height: PositiveInt
    width: PositiveInt
    seed: NonNegativeInt


SyntheticConfig = Annotated[ShapesConfig | StreetsConfig, Field(discriminator="draws")]


def load_synthetic(path: Path) -> SyntheticConfig:
    """Reads a file of ``configs/synthetic``, see :func:`pipeline.config.reader.load`."""
    return validate(TypeAdapter(SyntheticConfig), [(path, read(path))])
