"""Semantic segmentation: mIoU by cityscapesscripts' definition and trimap mIoU, from label PNGs alone."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from scipy.ndimage import distance_transform_edt

from pipeline.config.labels import LabelTable
from pipeline.data.cpus import usable_cpus
from pipeline.data.labels import CITYSCAPES, read_ids
from pipeline.metrics.bootstrap import RESAMPLES, resample_counts
from pipeline.metrics.choice import ImageList
from pipeline.metrics.errors import GroundTruthError, PredictionError
from pipeline.metrics.pairs import pairs_by_image, pairs_by_path

T = TypeVar("T")


def miou(
    truth: Path,
    predictions: Path,
    *,
    table: LabelTable = CITYSCAPES,
    trimap_widths: Sequence[int] = (),
    resamples: int = 0,
    seed: int = 0,
    predicted_table: LabelTable | None = None,
    images: ImageList | None = None,
) -> dict[str, Any]:
    """Mean intersection-over-union of the classes, over the whole images and near the ground truth's boundaries.

    mIoU: pixels are counted over all images together. A class's IoU is TP / (TP + FP + FN) over the pixels whose ground
    truth is not ignored; an ignored id predicted there is a miss. A class with none of the three has no IoU (NaN) and
    is left out of the mean; one that is predicted but has no ground truth has an IoU of 0 and counts. That is what
    cityscapesscripts does.

    Trimap mIoU of width w (Appendix C of the paper, which follows Kohli et al. 2009, Krähenbühl and Koltun 2011 and
    Chen et al. 2018, and gives no formula): the same over the pixels within w pixels of a ground-truth boundary.
    Boundary pixels are those with another class above, below, left or right of them, one on either side of the
    boundary; a pixel is within w pixels if its Euclidean distance to a boundary pixel, centre to centre, is less than
    w. On a straight boundary those are the w pixels next to it on each side. All ignored ids are one class here: an
    object's outline against an ignored region is a boundary (in Chen et al. all boundaries are of this kind), a change
    between two ignored ids is not, and ignored pixels are never counted. The image's edge is no
    boundary. So an image of a single class has no trimap, and with a width larger than the images the value is the
    mIoU of all the others.

    Args:
        truth: a folder of ground-truth PNGs at any depth: with the default table, Cityscapes' ``gtFine``, one of its
            splits, or another folder of the same layout.
        predictions: a folder of PNGs of label ids (not train ids), one for each ground truth, of its size; found by the
            image's name (see `pipeline.metrics.pairs`), or under the same relative path, as the table says.
        table: the meaning of the label ids; `pipeline.data.labels.plain` for other data than Cityscapes.
        trimap_widths: in pixels, from 1.
        resamples: how many bootstrap resamples of the images to compute the metrics on as well.
        seed: of the resamples.
        predicted_table: the ids in the predictions, where they are others; the same classes in the same order.
        images: the images to score, by default all.

    Returns:
        In percent: mIoU, IoU (by class), and for each width w, trimap{w}_mIoU and trimap{w}_IoU. With resamples,
        also each of those keys with _resamples: (resamples,), by class if the value is. And images, their number, and
        ignored_pixels_percent, the pixels whose ground truth is ignored.

    Raises:
        GroundTruthError: if there is no ground truth, or one cannot be read or has an id outside the table.
        PredictionError: for a prediction that is missing, there twice, unreadable, of another size, of several
            channels, or with an id outside the table.
        ValueError: for a width below 1.
    """
    if any(width < 1 for width in trimap_widths):
        raise ValueError(f"trimap widths are {list(trimap_widths)}; expected pixels from 1")

    def measure(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, int]:
        return _areas(truth, predicted, len(table.names), trimap_widths), truth.size

    found = map_label_pairs(truth, predictions, table, measure, predicted_table, images)
    areas, pixels = np.stack([areas for areas, _ in found]), sum(size for _, size in found)

    # (resamples, images) times (images, ...): sums over the resampled images.
    counts = resample_counts(len(areas), resamples, seed) if resamples else None
    # Every pixel that is not ignored is of one class.
    ignored = 100 * (1 - int(areas[:, 0, 1].sum()) / pixels)
    result: dict[str, Any] = {"images": len(areas), "ignored_pixels_percent": ignored}
    for index, prefix in enumerate(["", *(f"trimap{width}_" for width in trimap_widths)]):
        region = areas[:, index]
        values, mean = _iou(region.sum(axis=0))
        result[f"{prefix}mIoU"] = float(mean)
        result[f"{prefix}IoU"] = dict(zip(table.names, values.tolist(), strict=True))
        if counts is not None:
            values, mean = _iou(np.tensordot(counts, region, axes=1))
            result[f"{prefix}mIoU{RESAMPLES}"] = mean
            result[f"{prefix}IoU{RESAMPLES}"] = dict(zip(table.names, values.T, strict=True))
    return result


def map_label_pairs(
    truth: Path,
    predictions: Path,
    table: LabelTable,
    use: Callable[[np.ndarray, np.ndarray], T],
    predicted_table: LabelTable | None = None,
    images: ImageList | None = None,
) -> list[T]:
    """What a function returns for the classes of each image's ground truth and prediction, (H, W) each.

    Classes are numbers from 0 to K - 1, and K where the pixel is ignored.

    Raises:
        GroundTruthError, PredictionError: as :func:`miou`.
    """
    pairs = label_pairs(truth, predictions, table, images)
    # Each 1024x2048 image needs about 100 MB of memory, hence at most eight at once.
    with ThreadPoolExecutor(min(8, usable_cpus())) as pool:
        return list(pool.map(lambda pair: use(*_read_pair(pair[0], pair[1], table, predicted_table or table)), pairs))


def label_pairs(
    truth: Path, predictions: Path, table: LabelTable, images: ImageList | None = None
) -> list[tuple[Path, Path]]:
    """The files of each image, ground truth and prediction, paired as the table says."""
    if table.truth_suffix:
        return pairs_by_image(truth, predictions, table.truth_suffix, ".png", images)
    return pairs_by_path(truth, predictions, ".png", images)


def _read_pair(
    truth_path: Path, prediction_path: Path, table: LabelTable, predicted_table: LabelTable
) -> tuple[np.ndarray, np.ndarray]:
    try:
        truth = table.classes(read_ids(truth_path))
    except ValueError as error:
        raise GroundTruthError(f"{truth_path}: {error}") from error
    try:
        ids = read_ids(prediction_path)
        if ids.shape != truth.shape:
            size, expected = (f"{shape[1]}x{shape[0]}" for shape in (ids.shape, truth.shape))
            swapped = "; width and height look swapped" if ids.shape == truth.shape[::-1] else ""
            raise ValueError(f"the image is {size}, its ground truth {truth_path} is {expected}{swapped}")
        return truth, predicted_table.classes(ids)
    except ValueError as error:
        raise PredictionError(f"{prediction_path}: {error}") from error


def confusion_counts(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """How many pixels of each of K classes have each prediction: (K, K + 1), the last column for ignored ids.

    Args:
        truth: the pixels' classes, 0 to K; those with K, which are ignored, are not counted.
        predicted: as many predictions, 0 to K.
        classes: K.
    """
    valid = truth != classes
    cells = truth[valid].astype(np.int64) * (classes + 1) + predicted[valid]
    return np.bincount(cells, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def _areas(truth: np.ndarray, predicted: np.ndarray, classes: int, widths: Sequence[int]) -> np.ndarray:
    """TP, TP + FN and TP + FP in pixels, of the whole image and of each trimap: (1 + widths, 3, K), int64."""
    regions = [(truth, predicted)]
    if widths:
        distance = boundary_distance(truth)
        regions += [(truth[near], predicted[near]) for near in (distance < width for width in widths)]
    areas = []
    for region in regions:
        confusion = confusion_counts(*region, classes)
        areas.append([np.diagonal(confusion), confusion.sum(axis=1), confusion[:, :classes].sum(axis=0)])
    return np.array(areas)


def boundary_distance(classes: np.ndarray) -> np.ndarray:
    """Distance (H, W) of each pixel to the nearest boundary pixel in pixels, 0 on it; infinite where there is none.

    Boundary pixels are those with another class (H, W) above, below, left or right of them.
    """
    boundary = np.zeros(classes.shape, bool)
    rows, columns = classes[1:] != classes[:-1], classes[:, 1:] != classes[:, :-1]
    boundary[1:] |= rows
    boundary[:-1] |= rows
    boundary[:, 1:] |= columns
    boundary[:, :-1] |= columns
    if not boundary.any():
        return np.full(classes.shape, np.inf)
    return distance_transform_edt(~boundary)


def _iou(areas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU (..., K) and its mean (...) in percent from areas (..., 3, K), NaN where there is nothing to divide by."""
    intersection, truth, prediction = areas[..., 0, :], areas[..., 1, :], areas[..., 2, :]
    union = truth + prediction - intersection
    present = union > 0
    values = np.where(present, 100 * intersection / np.maximum(union, 1), np.nan)
    number = present.sum(axis=-1)
    mean = np.where(number > 0, np.nansum(values, axis=-1) / np.maximum(number, 1), np.nan)
    return values, mean
