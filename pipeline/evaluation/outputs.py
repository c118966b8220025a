"""Where the predictions of a run lie: what evaluation writes and scoring and the report read."""

from pathlib import Path, PurePosixPath

from pipeline.data.coco import DatasetError
from pipeline.data.manifest import PreparedDataset
from pipeline.errors import UserError


class IncompletePredictionsError(UserError):
    """Predictions lack an image or have one twice."""


def predictions_file(folder: Path, setting: str) -> Path:
    """The COCO results of one setting."""
    return folder / f"predictions_{setting}.json"


def labels_folder(folder: Path, setting: str) -> Path:
    """The label PNGs of one setting."""
    return folder / f"labels_{setting}"


def prediction_names(prepared: PreparedDataset) -> dict[str, str]:
    """The name of each val image's prediction, by the file of its labels in the dataset.

    It is the path of the image's ground truth below ``truth/``; in Cityscapes' naming, with the image's name alone.

    Raises:
        DatasetError: if the ground truth is not that of the val split.
    """
    labels = prepared.manifest("val")["label_file"].to_pylist()
    truths = {path.relative_to(prepared.truth).as_posix() for path in prepared.truth.rglob("*.png")}
    suffix = prepared.labels.truth_suffix
    # The folder of labels in the dataset is the one that leaves the names in truth/.
    for folder in PurePosixPath(labels[0]).parents if labels else ():
        prefix = "" if folder == PurePosixPath() else f"{folder}/"
        names = {name: name.removeprefix(prefix) for name in labels}
        if set(names.values()) == truths:
            return {name: f"{truth.removesuffix(suffix)}.png" if suffix else truth for name, truth in names.items()}
    raise DatasetError(prepared.truth, ["not the ground truth of the val split; run `dvc repro` to prepare it again"])
