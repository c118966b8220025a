"""Writes what was found in images: COCO's JSON with run-length encoded masks, label PNGs, and cut-outs.

Shape letters: H W rows and columns of the image, h w of a crop of it.
"""

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pointrend.files import atomic_output
from pointrend.image_files import write_image
from pointrend.metadata import ClassInfo
from pointrend.paste import crop_runs
from pointrend.points import Size
from pointrend.regions import Region, Segments, tight
from pointrend.specs import IGNORE_LABEL

#: How fast the alpha of a cut-out rises with the probability of its mask; it is at least 128 exactly inside the mask.
ALPHA_SLOPE = 4


def compress_runs(runs: np.ndarray) -> str:
    """COCO's text for the lengths of runs, (runs,) int64: six bits a character, from the fourth on differences."""
    values = runs.astype(np.int64)
    values[3:] = runs[3:] - runs[1:-2]
    groups, pending = [], np.ones(len(values), bool)
    while pending.any():
        low = values & 0x1F
        values = values >> 5
        # The last group's bit 4 is the sign.
        more = np.where(low & 0x10, values != -1, values != 0)
        groups.append(np.where(pending, low | (more << 5), -1))
        pending = pending & more
    characters = np.stack(groups, axis=1).ravel()
    return (characters[characters >= 0] + 48).astype(np.uint8).tobytes().decode("ascii")


def encode(mask: Tensor, top: int, left: int, size: Size) -> dict[str, Any]:
    """COCO's compressed RLE of a mask that is (h, w) bool in a crop of an image of size (H, W)."""
    return {"size": list(size), "counts": compress_runs(crop_runs(mask, top, left, size).numpy())}


def coco_result(image_id: int, region: Region, classes: Sequence[ClassInfo], size: Size) -> dict[str, Any]:
    """One entry of a COCO results file. Classes of pixels have no score."""
    x0, y0, x1, y1 = region.box
    entry: dict[str, Any] = {
        "image_id": image_id,
        "category_id": classes[region.class_index].id,
        "bbox": [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)],
        "segmentation": encode(region.mask, region.top, region.left, size),
    }
    return entry if region.score is None else {**entry, "score": round(region.score, 5)}


def write_json(content: object, path: Path) -> None:
    """Writes JSON, whole or not at all."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n"
    with atomic_output(path) as fresh:
        # Bytes of a file's name that are no UTF-8 become JSON's escapes, which Python's reader gives back as they were.
        fresh.write_text(text, encoding="utf-8", errors="backslashreplace")


class LabelImage:
    """A label PNG: of objects their numbers from 1 in order of scores, of classes their ids in the dataset.

    Objects leave 0 where nothing is. With classes, pixels of those that are not shown have the ignored label.
    """

    def __init__(self, size: Size, largest: int, ignored: int = 0) -> None:
        self.pixels = np.full(size, ignored, np.uint8 if max(largest, ignored) < 256 else np.uint16)

    def add(self, region: Region, value: int) -> None:
        """Gives a region its value, over those that were added before."""
        height, width = region.mask.shape
        view = self.pixels[region.top : region.top + height, region.left : region.left + width]
        view[region.mask.numpy()] = value


def label_image(found: Segments, classes: Sequence[ClassInfo]) -> LabelImage:
    """An empty label PNG for the ids of classes, whose ignored label is none of them."""
    ids = [known.id for known in classes]
    return LabelImage(found.size, max(ids), IGNORE_LABEL if IGNORE_LABEL not in ids else 0xFFFF)


class CutOuts:
    """Writes a PNG with alpha for each region of an image into one folder, which appears whole or not at all."""

    def __init__(self, pixels: np.ndarray, folder: Path) -> None:
        self.pixels, self.folder = pixels, folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._staging = tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.")
        self._fresh = Path(self._staging.name) / "cutouts"
        self._fresh.mkdir()

    def add(self, region: Region, classes: Sequence[ClassInfo]) -> None:
        """Writes one region, cropped to its mask; nothing for an empty mask."""
        rows, columns = tight(region.mask)
        if rows.start == rows.stop:
            return
        mask = region.mask[rows, columns]
        if region.probability is None:
            alpha = mask.numpy().astype(np.uint8) * 255
        else:
            soft = 0.5 + (region.probability[rows, columns] - 0.5) * ALPHA_SLOPE
            alpha = (soft.clamp(0, 1) * 255).round().byte().numpy()
            alpha = np.where(mask.numpy(), np.maximum(alpha, 128), np.minimum(alpha, 127)).astype(np.uint8)
        top, left = region.top + rows.start, region.left + columns.start
        height, width = alpha.shape
        colours = self.pixels[top : top + height, left : left + width]
        name = re.sub(r"[^\w.-]+", "-", classes[region.class_index].name).strip("-.") or "class"
        number = f"{region.index + 1:03d}-" if region.score is not None else ""
        score = f"-{region.score:.2f}" if region.score is not None else ""
        cut = np.dstack([colours * (alpha > 0)[..., None], alpha])
        write_image(cut, self._fresh / f"{number}{name}{score}.png")

    def close(self, keep: bool) -> None:
        """Moves the files to their folder, in place of earlier ones, or drops them."""
        if keep and self.folder.is_dir():
            # Cut-outs of another image, whose name begins with this one's, may be in folders inside.
            for earlier in self.folder.glob("*.png"):
                earlier.unlink()
            for fresh in self._fresh.iterdir():
                fresh.replace(self.folder / fresh.name)
        elif keep and any(self._fresh.iterdir()):
            self._fresh.rename(self.folder)
        self._staging.cleanup()
