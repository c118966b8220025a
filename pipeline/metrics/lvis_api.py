"""Works around the ``lvis`` package 0.5.3: it configures logging on import and uses names that NumPy has removed."""

import logging
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np

_handlers = logging.root.handlers[:]
import lvis.eval  # noqa: E402 - between the two looks at the handlers
from lvis import LVIS, LVISEval, LVISResults  # noqa: E402

# The handler that lvis installs would print this process's warnings in lvis's format.
logging.root.handlers[:] = _handlers

MAX_DETECTIONS = 300  # that count in one image


class Truth(LVIS):
    """An LVIS dataset from memory instead of from a file."""

    def __init__(self, dataset: dict[str, Any]) -> None:
        self.logger = logging.getLogger(__name__)
        self.dataset = dataset
        self._create_index()


class Detections(LVISResults):
    """Detections (with id and area), cut to the :data:`MAX_DETECTIONS` of highest score in each image.

    The package's own constructor copies the ground truth, warns, and fails on an empty list.
    """

    def __init__(self, truth: Truth, detections: list[dict[str, Any]]) -> None:
        self.logger = truth.logger
        self.dataset = {**truth.dataset, "annotations": self.limit_dets_per_image(detections, MAX_DETECTIONS)}
        self._create_index()


class Evaluation(LVISEval):
    """LVIS's evaluation of masks."""

    def __init__(self, truth: Truth, detections: Detections) -> None:
        super().__init__(truth, detections, "segm")
        self.logger = truth.logger

    # The same function with a NumPy that has `np.float`; NumPy itself stays as it is.
    accumulate = FunctionType(
        LVISEval.accumulate.__code__,
        {**vars(lvis.eval), "np": SimpleNamespace(**{**vars(np), "float": float})},
        "accumulate",
    )

    def average_precision(self, iou: float | None = None, area: str = "all") -> float:
        """As a fraction, at one IoU threshold or over all of them; -1 where there is nothing to average."""
        return float(self._summarize("ap", iou_thr=iou, area_rng=area))

    def by_category(self) -> dict[int, float]:
        """AP of each category over all IoU thresholds and sizes, as a fraction; -1 where there is no object."""
        precision = self.eval["precision"][:, :, :, self.params.area_rng_lbl.index("all")]
        columns = [precision[:, :, k] for k in range(len(self.params.cat_ids))]
        return {
            id_: float(own[own > -1].mean()) if (own > -1).any() else -1.0
            for id_, own in zip(self.params.cat_ids, columns, strict=True)
        }
