"""The scores of each class in a run's evaluation record."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from pipeline.evaluation.record import EvaluationRecord

#: The metrics of all classes together that are worth a line.
SHOWN_METRICS = ("AP", "AP50", "AP75", "boundary_AP", "AP_star", "mIoU")
AP_BY_CLASS, AP_STAR_BY_CLASS = "AP_by_class", "AP_star_by_class"  # the keys of COCO's in a record


class ClassScores(NamedTuple):
    """The metric, and its value in percent by class; undefined ones are left out. Of ``finer_val``, AP* by class."""

    metric: str
    values_by_class: Mapping[str, float]
    star_by_class: Mapping[str, float] = MappingProxyType({})


def class_scores(record: EvaluationRecord, setting: str) -> ClassScores:
    """The scores by class of an evaluation setting: AP of instances, IoU of semantic labels."""
    return entry_class_scores(record.evaluations[setting])


def entry_class_scores(entry: Mapping[str, Any]) -> ClassScores:
    """The same, from the metrics and details of a setting."""
    if AP_BY_CLASS in entry:
        return ClassScores("AP", entry[AP_BY_CLASS], entry.get(AP_STAR_BY_CLASS, {}))
    if isinstance(by_class := entry.get("IoU"), dict):
        return ClassScores("IoU", by_class)
    cityscapes = {key.removeprefix("AP-"): value for key, value in entry.items() if key.startswith("AP-")}
    return ClassScores("AP", cityscapes)
