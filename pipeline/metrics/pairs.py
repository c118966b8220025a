"""Pairs predictions with ground truth by file name."""

from pathlib import Path

from pipeline.metrics.errors import GroundTruthError, PredictionError


def pairs_by_image(truth: Path, predictions: Path, truth_suffix: str, extension: str) -> list[tuple[Path, Path]]:
    """Pairs (ground truth, prediction) of files named as in Cityscapes, both found recursively.

    ``<image><truth_suffix>`` belongs with ``<image>*<extension>``, as in cityscapesscripts, where ``<image>`` is
    ``<city>_<sequence>_<frame>``. Numbers are compared whole: frame 1 is not frame 10. Predictions of other images are
    ignored.

    Raises:
        GroundTruthError: without any ground truth, or with two for one image.
        PredictionError: for an image without a prediction, or with two.
    """
    truths: dict[str, Path] = {}
    for path in _files(truth, f"*{truth_suffix}"):
        image = path.name.removesuffix(truth_suffix)
        if image in truths:
            raise GroundTruthError(f"image {image}: two ground truths, {truths[image]} and {path}; expected one")
        truths[image] = path
    found: dict[str, Path] = {}
    for path in _files(predictions, f"*{extension}"):
        if (owner := _image(path.name, truths)) is None:
            continue
        if owner in found:
            raise PredictionError(f"image {owner}: two predictions, {found[owner]} and {path}; expected one")
        found[owner] = path
    _check(truth, predictions, truths, f"*{truth_suffix}")
    for image, path in truths.items():
        if image not in found:
            raise PredictionError(
                f"{predictions}: no prediction for image {image} ({path}); expected a file {image}*{extension}"
            )
    return [(path, found[image]) for image, path in truths.items()]


def pairs_by_path(truth: Path, predictions: Path, extension: str) -> list[tuple[Path, Path]]:
    """Pairs (ground truth, prediction) of the files that have the same path in their folders, found recursively.

    Raises:
        GroundTruthError: without any ground truth.
        PredictionError: for a ground truth without a prediction.
    """
    truths = {str(path.relative_to(truth)): path for path in _files(truth, f"*{extension}")}
    _check(truth, predictions, truths, f"*{extension}")
    for name, path in truths.items():
        if not (predictions / name).is_file():
            raise PredictionError(f"{predictions}: no prediction for {path}; expected a file {predictions / name}")
    return [(path, predictions / name) for name, path in truths.items()]


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.rglob(pattern) if path.is_file())


def _check(truth: Path, predictions: Path, truths: dict[str, Path], pattern: str) -> None:
    if not truths:
        raise GroundTruthError(f"{truth}: no ground truth found; expected a folder with files {pattern} at any depth")
    if not predictions.is_dir():
        raise PredictionError(f"{predictions}: no such folder of predictions")


def _image(name: str, images: dict[str, Path]) -> str | None:
    """The name of the image at the beginning of a file name."""
    for end in range(len(name), 0, -1):
        if name[:end] in images and not name[end : end + 1].isdigit():
            return name[:end]
    return None
