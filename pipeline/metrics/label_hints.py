"""What is probably wrong with label PNGs that agree badly, by how many pixels would agree if their ids were others."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pipeline.config.labels import LabelTable, ranges_text
from pipeline.data.cpus import usable_cpus
from pipeline.data.labels import CITYSCAPES, CITYSCAPES_TRAIN_IDS, read_ids
from pipeline.metrics.label_classes import same_classes

IDS = 256
#: How much larger the share of right pixels must be with other ids to be worth a hint.
GAIN = 0.1


def id_counts(pairs: Iterable[tuple[Path, Path]]) -> np.ndarray:
    """How many pixels of each id of the ground truth have each predicted id, (256, 256); larger ids are not counted.

    Images that cannot be read or differ in size are left out.
    """

    def of_pair(pair: tuple[Path, Path]) -> np.ndarray:
        try:
            truth, predicted = (read_ids(path).astype(np.int64) for path in pair)
        except ValueError:
            return np.zeros((IDS, IDS), np.int64)
        if truth.shape != predicted.shape:
            return np.zeros((IDS, IDS), np.int64)
        small = (truth >= 0) & (truth < IDS) & (predicted >= 0) & (predicted < IDS)
        return np.bincount(truth[small] * IDS + predicted[small], minlength=IDS**2).reshape(IDS, IDS)

    with ThreadPoolExecutor(min(8, usable_cpus())) as pool:
        return sum(pool.map(of_pair, pairs), np.zeros((IDS, IDS), np.int64))


def ids_text(counts: np.ndarray) -> str:
    """The ids that occur, most frequent first: "0 (71%), 2 (29%)"."""
    order = [int(id_) for id_ in np.argsort(-counts, kind="stable")[:8] if counts[id_]]
    more = ", ..." if np.count_nonzero(counts) > len(order) else ""
    return ", ".join(f"{id_} ({100 * counts[id_] / counts.sum():.0f}%)" for id_ in order) + more


def hint(counts: np.ndarray, truth: LabelTable, predicted: LabelTable) -> str | None:
    """A sentence about ids with which far more pixels would agree; None if there are none.

    Args:
        counts: as :func:`id_counts` gives them.
        truth: what the ids of the ground truth were taken for.
        predicted: what those of the predictions were taken for.
    """
    of_truth, given = _classes(truth), _classes(predicted)
    numbers = np.arange(IDS)
    found = np.flatnonzero(counts.sum(0))
    own = ranges_text(found.tolist())
    guesses = [
        (np.roll(given, shift), f"the predictions' ids ({own}) look one too {'high' if shift > 0 else 'low'}")
        for shift in (1, -1)
    ]
    if set(truth.names) <= set(CITYSCAPES.names):
        is_train = set(predicted.ids) <= set(CITYSCAPES_TRAIN_IDS.ids)
        text = "label ids: give --pred-ids label" if is_train else "train ids: give --pred-ids train"
        other = same_classes(truth, train=not is_train)
        guesses.append((_classes(other), f"the predictions' ids ({own}) look like {text}"))
    if set(found.tolist()) <= {0, 255}:
        text = "the predictions' ids are 0 and 255, as in a mask; 255 seems to stand for a class"
        guesses.append((np.where(numbers == 255, given[1] if given[1] >= 0 else 0, given), text))
    best, text = max(((_right(counts, of_truth, guess), text) for guess, text in guesses), key=lambda pair: pair[0])
    now = _right(counts, of_truth, given)
    if best < now + GAIN:
        return None
    return f"{text} ({100 * best:.0f}% of the pixels would be right instead of {100 * now:.0f}%)"


def _classes(table: LabelTable) -> np.ndarray:
    """The class of each id, (256,); -1 where it is none."""
    classes = np.full(IDS, -1)
    for number, id_ in enumerate(table.ids):
        if id_ < IDS:
            classes[id_] = number
    return classes


def _right(counts: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> float:
    """The share of right pixels among those whose ground truth is a class."""
    valid = counts[truth >= 0]
    same = truth[truth >= 0, None] == predicted[None]
    return float(valid[same].sum() / max(1, valid.sum()))
