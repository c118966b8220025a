"""Label tables (which class a value of a label PNG stands for) and the reading of label PNGs."""

from pathlib import Path
from typing import IO

import numpy as np
from cityscapesscripts.helpers.labels import labels as cityscapes_labels

from pipeline.config.labels import LabelTable
from pointrend.pixels import read_values

#: Cityscapes' 19 evaluated classes by label id (not train id), and the ids that its benchmark ignores.
CITYSCAPES = LabelTable(
    names=tuple(label.name for label in cityscapes_labels if not label.ignoreInEval),
    ids=tuple(label.id for label in cityscapes_labels if not label.ignoreInEval),
    # The licence plate's id, -1, is in no PNG.
    ignored=tuple(label.id for label in cityscapes_labels if label.ignoreInEval and label.id >= 0),
    truth_suffix="_gtFine_labelIds.png",
)

#: The same classes by train id, as networks number them; files are named as by cityscapesscripts.
CITYSCAPES_TRAIN_IDS = LabelTable(
    names=CITYSCAPES.names,
    ids=tuple(label.trainId for label in cityscapes_labels if not label.ignoreInEval),
    ignored=(255,),
    truth_suffix="_gtFine_labelTrainIds.png",
)


def plain(num_classes: int) -> LabelTable:
    """The table of a dataset whose PNGs hold the classes 0 to K - 1, and 255 for ignored pixels.

    Raises:
        ValueError: unless there are 1 to 255 classes.
    """
    if not 1 <= num_classes <= 255:
        raise ValueError(f"{num_classes} classes; expected 1 to 255, since 255 is the ignored id")
    return LabelTable(names=tuple(map(str, range(num_classes))), ids=tuple(range(num_classes)), ignored=(255,))


def _is_jpeg(path: Path | IO[bytes]) -> bool:
    if isinstance(path, Path):
        with path.open("rb") as stream:
            return _is_jpeg(stream)
    start = path.read(3)
    path.seek(0)
    return start == b"\xff\xd8\xff"


def read_ids(path: Path | IO[bytes]) -> np.ndarray:
    """The ids (H, W) in a PNG of one channel; a palette's indices as they are.

    Raises:
        ValueError: saying what is wrong with the file.
    """
    try:
        if _is_jpeg(path):
            raise ValueError("it is a JPEG, which does not keep ids exactly; expected a PNG")
        ids, mode = read_values(path)
    except OSError as error:
        raise ValueError(str(error)) from error
    if ids.ndim != 2 or ids.dtype.kind == "f":
        raise ValueError(f"its pixels are {mode}; expected one channel of ids")
    return ids
