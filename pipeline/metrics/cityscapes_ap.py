"""Cityscapes instance AP by cityscapesscripts, from files alone."""

import importlib.util
import math
import os
import warnings
from argparse import Namespace
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
from cityscapesscripts.helpers.labels import id2label

from pipeline.data.cityscapes import INSTANCE_SUFFIX, check_instance_ids
from pipeline.data.cpus import usable_cpus
from pipeline.data.labels import read_ids
from pipeline.metrics.bootstrap import RESAMPLES, resample_counts
from pipeline.metrics.choice import Choice
from pipeline.metrics.cityscapes_resamples import Ranked, average_precision, ranked_predictions
from pipeline.metrics.errors import GroundTruthError, PredictionError
from pipeline.metrics.pairs import pairs_by_image
from pointrend.pixels import read_values


def cityscapes_ap(
    truth: Path,
    predictions: Path,
    *,
    resamples: int = 0,
    seed: int = 0,
    choice: Choice | None = None,
    with_counts: bool = False,
) -> dict[str, Any]:
    """Instance AP in percent, averaged over IoU thresholds 0.50 to 0.95 and over Cityscapes' eight object classes.

    Args:
        truth: a folder of ``*_gtFine_instanceIds.png`` at any depth: Cityscapes' ``gtFine``, one of its splits, or
            another folder of the same layout.
        predictions: a folder with one text file for each image, ``<image>*.txt`` at any depth. Its lines are
            ``mask.png label_id confidence``, separated by one space: the mask's path relative to the text file,
            non-zero inside the instance and of the image's size; the label id (not the train id). An empty file means
            that nothing was found. Label ids that the benchmark does not evaluate are ignored.
        resamples: how many bootstrap resamples of the images to compute AP on as well.
        seed: of the resampling.
        choice: the images and classes to score, by default all.
        with_counts: whether to say what was scored as well.

    Returns:
        AP, AP50, and AP-<class>, AP50-<class> for person, rider, car, truck, bus, train, motorcycle and bicycle; NaN
        where there is no ground truth of at least 100 pixels. With resamples also ``AP_resamples``: (resamples,), the
        values of AP on them. With counts also images, images_without_predictions (their text file is empty), objects
        (to be found: of at least 100 pixels and no groups), predictions, predictions_left_out (of classes that
        are not scored) and ignored_predictions_percent: of the others those that are neither right nor wrong at
        an IoU of 0.50, NaN without any.

    Raises:
        GroundTruthError: if there is no ground truth, one cannot be read or has an unknown id, or the choice does not
            fit it.
        PredictionError: for an image without a text file or with two, or a line that is malformed or names a missing,
            unreadable or twice-used mask, one of another size or outside the folder, an unknown label id, or a
            confidence that is not finite.
    """
    predictions = predictions.resolve()  # cityscapesscripts compares the masks' paths with it
    pairs = pairs_by_image(truth, predictions, INSTANCE_SUFFIX, ".txt", choice.images if choice else None)
    with ThreadPoolExecutor(min(8, usable_cpus())) as pool:
        list(pool.map(lambda pair: _check(pair[0], pair[1], predictions), pairs))

    tool = _private_tool()
    tool.args.predictionPath = str(predictions)
    tool.args.quiet = True
    tool.setInstanceLabels(tool.args)
    if choice:
        tool.args.instLabels = choice.names(tool.args.instLabels, truth)
    truths = [str(path) for path, _ in pairs]
    matches = tool.matchGtWithPreds(
        [str(path) for _, path in pairs], truths, tool.instances2dict(truths, False), tool.args
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        averages = tool.computeAverages(_precisions(tool, matches), tool.args)
    result = {"AP": averages["allAp"], "AP50": averages["allAp50%"]}
    for name, values in averages["classes"].items():
        result[f"AP-{name}"], result[f"AP50-{name}"] = values["ap"], values["ap50%"]
    scores: dict[str, Any] = {name: 100 * float(value) for name, value in result.items()}
    if resamples or with_counts:
        ranked = ranked_predictions(list(matches.values()), tool.args.instLabels, tool.args.overlaps)
    if with_counts:
        scores |= _counts([path for _, path in pairs], tool.args.instLabels, ranked)
    if resamples:
        scores[f"AP{RESAMPLES}"] = average_precision(ranked, resample_counts(len(pairs), resamples, seed))
    return scores


def _counts(predictions: Sequence[Path], labels: Sequence[str], ranked: Sequence[Ranked]) -> dict[str, Any]:
    """What was scored; see :func:`cityscapes_ap`."""
    ids = [[line.split(" ")[1] for line in path.read_text(encoding="utf-8").splitlines()] for path in predictions]
    names = [id2label[int(_number(id_))].name for of_image in ids for id_ in of_image]
    scored = sum(name in labels for name in names)
    # An object's further predictions are wrong, so each of them is counted once.
    counted = sum(found.scores[0].size for found in ranked)
    return {
        "images": len(predictions),
        "images_without_predictions": sum(not of_image for of_image in ids),
        "objects": sum(int(found.objects.sum()) for found in ranked),
        "predictions": scored,
        "predictions_left_out": len(names) - scored,
        "ignored_predictions_percent": 100 * (1 - counted / scored) if scored else math.nan,
    }


def _private_tool() -> ModuleType:
    """A fresh copy of cityscapesscripts' evaluation module, whose settings are module globals."""
    spec = importlib.util.find_spec("cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling")
    assert spec is not None
    assert spec.loader is not None
    tool: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    # It calls np.in1d, which NumPy 2.4 removed, and reshapes the result.
    tool.np = ModuleType("numpy")
    vars(tool.np).update(vars(np), in1d=np.isin)
    tool.printError = _refuse  # the original exits the process
    return tool


def _refuse(message: str) -> NoReturn:
    raise PredictionError(message)


def _precisions(tool: Any, matches: dict[str, Any]) -> np.ndarray:
    """AP by class and IoU threshold, (1, 8, 10)."""
    labels, overlaps = tool.args.instLabels, tool.args.overlaps
    precisions = np.zeros((1, len(labels), len(overlaps)))
    for i, label in enumerate(labels):
        for j, overlap in enumerate(overlaps):
            setting = Namespace(**{**vars(tool.args), "instLabels": [label], "overlaps": np.array([overlap])})
            try:
                precisions[0, i, j] = tool.evaluateMatches(matches, setting).item()
            except IndexError:
                # Where all predictions lie on ignored regions and no object is found, the tool indexes an empty list.
                precisions[0, i, j] = 0
    return precisions


def _check(truth: Path, prediction: Path, root: Path) -> None:
    try:
        ids = read_ids(truth)
        check_instance_ids(np.unique(ids).tolist())
    except ValueError as error:
        raise GroundTruthError(f"{truth}: {error}") from error
    try:
        lines = prediction.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise PredictionError(f"{prediction}: not a readable text file ({error})") from error
    used: dict[Path, int] = {}
    for number, line in enumerate(lines, start=1):
        try:
            mask = _check_line(line, prediction.parent, root, ids.shape)
            # The tool would keep the last of them only.
            if mask in used:
                raise ValueError(f"mask {mask} is that of line {used[mask]} too; expected one file for each instance")
        except ValueError as error:
            raise PredictionError(f"{prediction}: line {number}: {error}") from error
        used[mask] = number


def _check_line(line: str, folder: Path, root: Path, shape: tuple[int, ...]) -> Path:
    """The mask that a line names."""
    fields = line.split(" ")
    if len(fields) != 3:
        raise ValueError(f"{line!r}; expected 'mask.png label_id confidence', separated by one space")
    name, label, score = fields
    label_id, confidence = _number(label), _number(score)
    if not label_id.is_integer() or int(label_id) not in id2label:
        raise ValueError(f"label id is {label}; expected one of Cityscapes' label ids, up to {max(id2label)}")
    if not math.isfinite(confidence):
        raise ValueError(f"confidence is {score}; expected a finite number")
    mask = Path(os.path.normpath(folder / name))
    if Path(name).is_absolute() or not mask.is_relative_to(root):
        raise ValueError(f"mask {name} lies outside {root}; expected a relative path to inside")
    if not mask.is_file():
        raise ValueError(f"mask {mask}: no such file")
    try:
        height, width = read_values(mask)[0].shape[:2]
    except OSError as error:
        raise ValueError(f"mask {mask}: {error}") from error
    if (height, width) != shape:
        raise ValueError(f"mask {mask} is {width}x{height}, its ground truth {shape[1]}x{shape[0]}")
    return mask


def _number(text: str) -> float:
    """The value as a float, NaN if it is not a number."""
    try:
        return float(text)
    except ValueError:
        return math.nan
