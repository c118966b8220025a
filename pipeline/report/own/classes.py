"""Scores by class and by size of objects, with what is counted behind each."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.data.manifest import PreparedDataset
from pipeline.data.survey import LARGE, MEDIUM, Survey
from pipeline.metrics.confusion import Confusion
from pipeline.metrics.precision_recall import Curves
from pipeline.report.own.comparison import Row
from pointrend.wording import counted

SIZES = {"APs": f"small, below {MEDIUM**0.5:g}² pixels", "APm": "medium", "APl": f"large, from {LARGE**0.5:g}² pixels"}
AREAS = {"APs": (0, MEDIUM), "APm": (MEDIUM, LARGE), "APl": (LARGE, float("inf"))}


@dataclass(frozen=True)
class ScoreTable:
    """Scores of a class, or of a size of objects, in a row each.

    Attributes:
        first: what a row is of.
        counts: the heads of the columns of counts.
        scores: the heads of the columns of scores.
        rows: name, counts as text, and scores in percent or None.
    """

    first: str
    counts: list[str]
    scores: list[str]
    rows: list[tuple[str, list[str], list[float | None]]]


def class_table(
    rows: Sequence[Row], found: Survey, absent: Sequence[str], predictions: Curves | Confusion, score: float
) -> ScoreTable:
    """The scores of each class by experiment, and precision and recall of the best one's predictions.

    Classes that are not measured come last.

    Args:
        rows: the row of each experiment, the best one first.
        found: what is in the dataset.
        absent: the classes that no image has, which get no row.
        predictions: the curves of the best experiment, or for semantic labels its confusion matrix.
        score: the least score of its objects that count.
    """
    classes = [row.run.evaluations[row.setting].classes for row in rows]
    metric = next((of.metric for of in classes if of.metric), "AP")
    heads = list(dict.fromkeys(key for of in found.classes.values() for key in of if key not in SIZE_COUNTS))
    scores = [metric if len(rows) == 1 else f"{metric}, {row.experiment}" for row in rows]
    starred = any(of.star_by_class for of in classes)
    if starred:
        scores += ["AP*" if len(rows) == 1 else f"AP*, {row.experiment}" for row in rows]
    of_best = "" if len(rows) == 1 else f", {rows[0].experiment}"
    scores += [f"precision{of_best}", f"recall{of_best}"]
    lines = []
    for name, counts in found.classes.items():
        if name in absent:
            continue
        values: list[float | None] = [of.values_by_class.get(name) for of in classes]
        if starred:
            values += [of.star_by_class.get(name) for of in classes]
        if isinstance(predictions, Confusion):
            values += _of_pixels(predictions, name)
        else:
            curve = predictions.by_class[name]
            precision, recall, _ = curve.at(score)
            predicted = bool((curve.scores >= score).any())
            values += [100 * precision if predicted else None, 100 * recall if curve.objects else None]
        lines.append((name, [counts.get(head, "") for head in heads], values))
    lines.sort(key=lambda line: all(value is None for value in line[2]))
    return ScoreTable("class", heads, scores, lines)


def _of_pixels(confusion: Confusion, name: str) -> list[float | None]:
    """Precision and recall of a class's pixels, in percent."""
    number = confusion.classes.index(name)
    right = int(confusion.counts[number, number])
    wholes = int(confusion.counts[:, number].sum()), int(confusion.counts[number].sum())
    return [100 * right / whole if whole else None for whole in wholes]


SIZE_COUNTS = ("small", "medium", "large")  # a survey's, of both splits together


def size_table(rows: Sequence[Row], prepared: PreparedDataset) -> ScoreTable | None:
    """AP by the size of objects, with how many objects of the val split have it; None if it was not measured."""
    shown = [key for key in SIZES if any(key in row.run.evaluations[row.setting].metrics for row in rows)]
    if not shown or prepared.task == "semantic":
        return None
    numbers: Counter[str] = Counter()
    for image in prepared.manifest("val").to_pylist():
        for annotation in image["annotations"]:
            if not annotation["iscrowd"]:
                area = annotation["area"]
                numbers[next(key for key, (low, high) in AREAS.items() if low <= area < high)] += 1
    lines = [
        (SIZES[key], [str(numbers[key])], [row.run.evaluations[row.setting].metrics.get(key) for row in rows])
        for key in SIZES
    ]
    scores = ["AP" if len(rows) == 1 else f"AP, {row.experiment}" for row in rows]
    return ScoreTable("size of the objects", ["val objects"], scores, lines)


def untrained_text(classes: Sequence[str]) -> str:
    """What to annotate where val images have classes that no image to train on has."""
    return f"{', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''} (in no image to train on)"


def weakest(row: Row, found: Survey, sizes: ScoreTable | None) -> str:
    """What an experiment is worst at, in words: a class, or of a single class a size; empty if there is one of both.

    Args:
        row: of the experiment, which is the first one in ``sizes``.
        found: what is in the dataset.
        sizes: of :func:`size_table`.
    """
    metric, by_class, _ = row.run.evaluations[row.setting].classes
    scores = {name: by_class[name] for name in found.classes if name in by_class}
    if len(scores) > 1:
        # Among equal ones, that with least to train on.
        name = min(scores, key=lambda name: (scores[name], _to_train_on(found.classes[name])))
        of = found.classes[name]
        amount = (
            f"{counted(int(of['train']), 'object')} to train on"
            if "train" in of
            else f"{of['train pixels']} of the train pixels"
        )
        return f"{name}, whose {metric} is lowest ({scores[name]:.1f}, with {amount})"
    of_sizes = sizes.rows if sizes else []
    sized = [(values[0], name, counts[0]) for name, counts, values in of_sizes if values[0] is not None]
    if len(sized) > 1:
        value, name, number = min(sized)
        amount = counted(int(number), "val object")
        return f"{name.partition(',')[0]} objects, whose AP is lowest ({value:.1f}, on {amount})"
    return ""


def _to_train_on(counts: Mapping[str, str]) -> float:
    """How many objects, or what percentage of the pixels to train on, a class has."""
    return float(counts.get("train", counts.get("train pixels", "0")).rstrip("%"))
