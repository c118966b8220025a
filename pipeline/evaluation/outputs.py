"""The files and folders of a run's predictions, which evaluation writes and scoring and the report read."""

from pathlib import Path, PurePosixPath

from pipeline.data.coco import DatasetError
from pipeline.data.manifest import PreparedDataset
from pipeline.errors import UserError


class IncompletePredictionsError(UserError):
    """An image has no prediction, or more than one."""


def predictions_file(folder: Path, setting: str) -> Path:
    """The file of COCO results of one setting."""
    return folder / f"predictions_{setting}.json"


def labels_folder(folder: Path, setting: str) -> Path:
    """The folder of label PNGs of one setting."""
    return folder / f"labels_{setting}"


def prediction_names(prepared: PreparedDataset) -> dict[str, str]:
    """The name of each val image's prediction, by its label file in the dataset.

    The name is the path of the image's ground truth below ``truth/``, without the suffix of Cityscapes' label files.

    Raises:
        DatasetError: if the ground truth is not that of the val split.
    """
    labels = prepared.manifest("val")["label_file"].to_pylist()
    truths = {path.relative_to(prepared.truth).as_posix() for path in prepared.truth.rglob("*.png")}
    suffix = prepared.labels.truth_suffix
    # The dataset's label folder is the one below which the label files have the same paths as the files in truth/.
    for folder in PurePosixPath(labels[0]).parents if labels else ():
        prefix = "" if folder == PurePosixPath() else f"{folder}/"
        names = {name: str(PurePosixPath(name.removeprefix(prefix)).with_suffix(".png")) for name in labels}
        if set(names.values()) == truths:
            return {name: f"{truth.removesuffix(suffix)}.png" if suffix else truth for name, truth in names.items()}
    raise DatasetError(prepared.truth, ["not the ground truth of the val split; run `dvc repro` to prepare it again"])
