"""A small semantic dataset in Cityscapes' layout or in folders of one's own, prepared."""

from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.config.labels import LabelTable
from pipeline.data.label_files import LabelledImage
from pipeline.data.labels import CITYSCAPES
from pipeline.data.manifest import PreparedDataset, SplitManifest, read_prepared, write_prepared
from pipeline.data.storage import Storage

OWN = LabelTable(("sand", "sea"), (3, 7), (0,))


def label_ids(seed: int, table: LabelTable, height: int = 30, width: int = 44) -> np.ndarray:
    """A left half of the first class, a right one of another; an ignored corner."""
    ids = np.full((height, width), table.ids[0], np.uint8)
    ids[:, width // 2 + seed :] = table.ids[1 + seed % (len(table.ids) - 1)]
    ids[:4, :5] = table.ignored[0]
    return ids


def prepared_labels(root: Path, table: LabelTable = CITYSCAPES, images: int = 3) -> tuple[PreparedDataset, Storage]:
    """Writes raw files and their prepared dataset; each image shows its ids. Both splits are the same images."""
    raw, folder = root / "raw", root / "prepared"
    records = []
    for number in range(images):
        if table.truth_suffix:
            file, truth = f"images/val/town/town_{number}_leftImg8bit.png", f"town/town_{number}{table.truth_suffix}"
        else:
            file, truth = f"images/val/deep/{number}.png", f"deep/{number}.png"
        ids = label_ids(number, table)
        for path, pixels in (
            (raw / file, np.stack([ids * 9] * 3, axis=-1)),
            (raw / "labels" / "val" / truth, ids),
            (folder / "truth" / truth, ids),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        records.append(LabelledImage(number + 1, file, *ids.shape, f"labels/val/{truth}"))
    split = SplitManifest(records)
    write_prepared(folder, table, {"train": split, "val": split})
    return read_prepared(folder), Storage(str(raw))
