"""Pairs predictions with ground truth by file name."""

from pathlib import Path

from pipeline.metrics.choice import ImageList, names_of_file
from pipeline.metrics.errors import GroundTruthError, PredictionError


def pairs_by_image(
    truth: Path, predictions: Path, truth_suffix: str, extension: str, images: ImageList | None = None
) -> list[tuple[Path, Path]]:
    """Pairs (ground truth, prediction) of files named as in Cityscapes, both found recursively.

    ``<image><truth_suffix>`` belongs with ``<image>*<extension>``, as in cityscapesscripts, where ``<image>`` is
    ``<city>_<sequence>_<frame>``. Numbers are compared whole: frame 1 is not frame 10. Predictions of other images are
    ignored. ``images`` are the ones to pair, by default all.

    Raises:
        GroundTruthError: without any ground truth, with two for one image, or where a listed image is missing.
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
    truths = _listed(truths, images, truth)
    if missing := [image for image in truths if image not in found]:
        expected = f"image {missing[0]} ({truths[missing[0]]}); expected a file {missing[0]}*{extension}"
        raise PredictionError(_missing(predictions, missing, truths, expected))
    return [(path, found[image]) for image, path in truths.items()]


def pairs_by_path(
    truth: Path, predictions: Path, extension: str, images: ImageList | None = None
) -> list[tuple[Path, Path]]:
    """Pairs (ground truth, prediction) of the files that have the same path in their folders, found recursively.

    ``images`` are the ones to pair, by default all.

    Raises:
        GroundTruthError: without any ground truth, or where a listed image is missing.
        PredictionError: for a ground truth without a prediction.
    """
    truths = {str(path.relative_to(truth)): path for path in _files(truth, f"*{extension}")}
    _check(truth, predictions, truths, f"*{extension}")
    truths = _listed(truths, images, truth)
    if missing := [name for name in truths if not (predictions / name).is_file()]:
        expected = f"{truths[missing[0]]}; expected a file {predictions / missing[0]}"
        raise PredictionError(_missing(predictions, missing, truths, expected))
    return [(path, predictions / name) for name, path in truths.items()]


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.rglob(pattern) if path.is_file())


def _listed(truths: dict[str, Path], images: ImageList | None, truth: Path) -> dict[str, Path]:
    if images is None:
        return truths
    chosen = images.choose({key: {*names_of_file(key), *names_of_file(p.name)} for key, p in truths.items()}, truth)
    return {key: truths[key] for key in chosen}


def _missing(predictions: Path, missing: list[str], truths: dict[str, Path], expected: str) -> str:
    number = f" ({len(missing)} of {len(truths)} images have none)" if len(missing) > 1 else ""
    return f"{predictions}: no prediction for {expected}{number}"


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
