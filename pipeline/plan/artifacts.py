"""Estimates the bytes of MLflow's artifacts, beside those of the weights."""

from pathlib import Path

import pointrend
from pipeline.config.tracking import TrackingConfig

#: A photograph with masks over it, as PNG of at most 512 pixels a side with a small preview.
PICTURE_BYTES = 500_000
#: The configuration; of a model its input example, twice, and its description.
RUN_BYTES, MODEL_BYTES = 5_000, 100_000


def artifact_bytes(settings: TrackingConfig, evaluated: bool) -> int:
    """Bytes of a run's artifacts without its weights: configuration, pictures, and the model's copy of the library.

    Args:
        settings: what MLflow gets of each run.
        evaluated: whether the run is evaluated; others have no pictures.
    """
    pictures = settings.overlays * PICTURE_BYTES if evaluated else 0
    model = MODEL_BYTES + _library_bytes() if settings.models else 0
    return RUN_BYTES + pictures + model


def _library_bytes() -> int:
    folder = Path(pointrend.__file__).parent
    return sum(file.stat().st_size for file in folder.glob("*.py"))
