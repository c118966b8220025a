"""The `prepare` step: raw dataset -> checked Parquet manifests, whole or not at all."""

from contextlib import AbstractContextManager
from pathlib import Path

from pipeline.config import CocoDataset
from pipeline.data.coco import CocoSplitData, DatasetError, read_coco
from pipeline.data.manifest import Split, write_prepared
from pipeline.files import atomic_folder
from pipeline.progress import Progress


def prepare(dataset: CocoDataset, root: Path, output: Path, progress: AbstractContextManager[Progress]) -> None:
    """Checks both splits of a dataset and writes their manifests.

    Args:
        dataset: the layout of the raw files.
        root: the folder they lie in.
        output: the folder to write; replaced only when all is well.
        progress: shows how many images have been checked.

    Raises:
        DatasetError: listing all that is wrong with the first split that has problems, or with the two together.
    """
    splits: dict[Split, CocoSplitData] = {}
    with progress as bar:
        for name, split in (("train", dataset.train), ("val", dataset.val)):
            splits[name] = read_coco(  # type: ignore[index]
                root / split.annotations,
                root,
                split.images,
                num_images=split.num_images,
                invalid=dataset.invalid_annotations,
                on_image=bar.advance,
            )
    if splits["train"].categories != splits["val"].categories:
        raise DatasetError(root, ["the train and the val split have different categories"])
    with atomic_folder(output) as temporary:
        write_prepared(temporary, splits)
