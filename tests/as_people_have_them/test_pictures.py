"""Pictures and names of files as cameras, microscopes, annotation tools and other systems write them.

A situation is a small dataset, made here, and what `prepare` says of it or what comes out. Each is one row.
"""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from pipeline.data.dataset import EvaluationImages
from pipeline.data.discover import Source, discover
from pipeline.data.manifest import PreparedDataset, read_prepared
from pipeline.data.prepare import prepare
from pipeline.data.storage import Storage
from pipeline.errors import UserError
from pipeline.evaluation.outputs import prediction_names
from pipeline.progress import progress

COUNT, HEIGHT, WIDTH = 4, 40, 60


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def colours(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def ramp(low: float, high: float, kind: type) -> np.ndarray:
    """Rows that rise from the lowest to the highest value."""
    return np.tile(np.linspace(low, high, WIDTH).astype(kind), (HEIGHT, 1))


def save(path: Path, pixels: np.ndarray | bytes, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(pixels, bytes):
        path.write_bytes(pixels)
    else:
        Image.fromarray(pixels).save(path, **options)


def tiff_of_bands(bands: int) -> bytes:
    """A TIFF of 16 bits with more bands than Pillow knows."""
    pixels = np.zeros((HEIGHT, WIDTH, bands), "<u2").tobytes()
    tags = {256: WIDTH, 257: HEIGHT, 258: None, 259: 1, 262: 1, 273: None, 277: bands, 278: HEIGHT, 279: len(pixels)}
    end = 8 + 2 + 12 * len(tags) + 4
    content = b"II*\0" + struct.pack("<IH", 8, len(tags))
    for tag, value in tags.items():
        place = {258: end, 273: end + 2 * bands}.get(tag)
        kind, count = (4, 1) if tag in (273, 279) else (3, bands if tag == 258 else 1)
        content += struct.pack("<HHII", tag, kind, count, place if value is None else value)
    return content + bytes(4) + struct.pack(f"<{bands}H", *[16] * bands) + pixels


def instances(
    root: Path,
    pixels: np.ndarray | bytes,
    name: str = "{}.png",
    written: str = "",
    size: tuple[int, int] = (HEIGHT, WIDTH),
    annotations: str = "all.json",
    **options: Any,
) -> Source:
    """A dataset of instances, all of whose pictures are the same, under ``images/``."""
    for number in range(COUNT):
        save(root / "images" / name.format(number), pixels, **options)
    outline = [5, 5, 25, 5, 25, 15, 5, 15]
    content = {
        "images": [
            {"id": n, "file_name": (written or name).format(n), "height": size[0], "width": size[1]}
            for n in range(COUNT)
        ],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [5, 5, 20, 10], "area": 200, "segmentation": [outline]}
            for n in range(COUNT)
        ],
        "categories": [{"id": 1, "name": "bolt"}],
    }
    file = root / annotations
    file.write_text(json.dumps(content))
    return Source(file, images=root / "images")


def labelled(
    root: Path, image: str = "images/{}.jpg", labels: str = "labels/{}.png", size: tuple[int, int] = (HEIGHT, WIDTH)
) -> Source:
    """A dataset of label PNGs with the ids 0 and 1."""
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids[:, 20:] = 1
    for number in range(COUNT):
        save(root / image.format(number), colours(*size), exif=turned(6) if size != (HEIGHT, WIDTH) else b"")
        path = root / labels.format(number)
        save(path.with_suffix(".png"), ids)
        path.with_suffix(".png").rename(path)
    return Source(root)


def with_files_of_a_mac(root: Path) -> Source:
    for folder, suffix in (("images", "jpg"), ("labels", "png")):
        for number in range(COUNT):
            save(root / folder / f"._{number}.{suffix}", b"\0\5\x16\7" + bytes(50))
        save(root / folder / ".DS_Store", b"x")
        save(root / folder / "Thumbs.db", b"x")
        save(root / "images" / "__MACOSX" / "0.jpg", b"x")
    return labelled(root)


def one_broken(content: bytes) -> Callable[[Path], Source]:
    def make(root: Path) -> Source:
        source = instances(root, colours())
        save(root / "images" / "2.png", content)
        return source

    return make


def one_of(pixels: np.ndarray, other: np.ndarray) -> Callable[[Path], Source]:
    """A dataset whose last picture has other pixels."""

    def make(root: Path) -> Source:
        source = instances(root, pixels, "{}.tif")
        save(root / "images" / "3.tif", other)
        return source

    return make


class Row(NamedTuple):
    """A situation, and what must be said of it: as a note of the prepared dataset, or as an error."""

    name: str
    make: Callable[[Path], Source]
    note: str = ""
    error: str = ""
    darkest: int | None = None  # of the pixels that the network is given
    brightest: int | None = None


NOISE = colours()
ROWS = [
    # The values of pixels.
    Row("12 bits", lambda r: instances(r, ramp(0, 4095, np.uint16)), "0 is black and 4095 white", "", 0, 255),
    Row("14 bits", lambda r: instances(r, ramp(0, 16383, np.uint16)), "0 is black and 16383 white", "", 0, 255),
    Row("16 bits", lambda r: instances(r, ramp(0, 65535, np.uint16)), "0 is black and 65535 white", "", 0, 255),
    Row("floats to 1", lambda r: instances(r, ramp(0, 1, np.float32), "{}.tif"), "0 is black and 1 white", "", 0, 255),
    Row("half of 1", lambda r: instances(r, ramp(0, 0.5, np.float32), "{}.tif"), "0 is black and 1 white", "", 0, 128),
    Row("floats", lambda r: instances(r, ramp(0, 900, np.float32), "{}.tif"), "0 is black and 900 white", "", 0, 255),
    Row("32 bits", lambda r: instances(r, ramp(0, 70000, np.int32), "{}.tif"), "0 is black and 131071", "", 0, 136),
    Row("CT", lambda r: instances(r, ramp(-1024, 3071, np.int32), "{}.tif"), "-1024 is black and 3071", "", 0, 255),
    Row(
        "the brightest picture decides",
        one_of(ramp(0, 300, np.uint16), ramp(0, 4000, np.uint16)),
        "4 pictures of 16-bit values, from 0 to 4000: 0 is black and 4095 white",
    ),
    Row(
        "floats beside 16 bits",
        one_of(ramp(0, 1, np.float32), ramp(0, 4000, np.uint16)),
        error="3 pictures of float, 1 picture of 16-bit values, from 0 to 4000: one range for all would be a guess",
    ),
    Row("nan", lambda r: instances(r, ramp(0, np.nan, np.float32), "{}.tif"), error="floats that are not all finite"),
    Row("8 bits", lambda r: instances(r, NOISE), darkest=int(NOISE.min()), brightest=int(NOISE.max())),
    Row(
        "several pages",
        lambda r: instances(r, NOISE, "{}.tif", save_all=True, append_images=[Image.fromarray(NOISE)]),
        "of 4 pictures only the first of 2 pages is read",
    ),
    # Files that are no readable pictures.
    Row(
        "five bands",
        lambda r: instances(r, tiff_of_bands(5), "{}.tif"),
        error="4 TIFFs with other bands than grey or RGB",
    ),
    Row("one of bands", one_broken(tiff_of_bands(7)), error="2.png: not a readable image (a TIFF with 7 bands"),
    Row("empty", one_broken(b""), error="2.png: not a readable image (the file is empty: save or download again)"),
    Row("Git LFS", one_broken(b"version https://git-lfs.github.com/spec/v1\n"), error="run `git lfs pull`"),
    Row("HEIC", one_broken(b"\0\0\0\x18ftypheic" + bytes(99)), error="a HEIC photograph, which cannot be read here"),
    Row("a web page", one_broken(b"<!DOCTYPE html><title>404"), error="a web page or XML: download the image again"),
    Row("text", one_broken(b"hello"), error="no image of a known format: save it as PNG, JPEG or TIFF"),
    # EXIF.
    Row(
        "annotated upright",
        lambda r: instances(r, colours(WIDTH, HEIGHT), "{}.jpg", exif=turned(6)),
        "4 pictures turned as EXIF data say (orientation: exif)",
    ),
    Row("annotated as stored", lambda r: instances(r, colours(), "{}.jpg", exif=turned(6))),
    Row(
        "turned by 180 degrees",
        lambda r: instances(r, colours(), "{}.jpg", exif=turned(3)),
        "4 pictures square or turned by 180 degrees in EXIF data",
    ),
    Row(
        "square",
        lambda r: instances(r, colours(50, 50), "{}.jpg", size=(50, 50), exif=turned(8)),
        "4 pictures square or turned by 180 degrees in EXIF data",
    ),
    Row("an upright note", lambda r: instances(r, colours(), "{}.jpg", exif=turned(1))),
    Row(
        "told to be as stored",
        lambda r: replace(instances(r, colours(WIDTH, HEIGHT), "{}.jpg", exif=turned(6)), orientation="stored"),
        error="4 pictures that EXIF data turn, annotated in the other orientation",
    ),
    Row(
        "labels of upright pictures",
        lambda r: labelled(r, size=(WIDTH, HEIGHT)),
        "4 pictures turned as EXIF data say (orientation: exif)",
    ),
    # Names.
    Row("backslashes", lambda r: instances(r, NOISE, "a/{}.png", "a\\{}.png"), "a\\0.png is a/0.png"),
    Row("a path of Windows", lambda r: instances(r, NOISE, written="C:\\export\\{}.png"), "\\0.png is 0.png"),
    Row("percent", lambda r: instances(r, NOISE, "my {}.png", "my%20{}.png"), "my%200.png is my 0.png"),
    Row("a folder twice", lambda r: instances(r, NOISE, written="images/{}.png"), "images/0.png is 0.png"),
    Row("another case", lambda r: instances(r, NOISE, written="{}.PNG"), "4 file names written as on another system"),
    Row("capitals here", lambda r: instances(r, NOISE, "{}.PNG", written="{}.png"), "4 file names written as on"),
    Row("a percent sign of its own", lambda r: instances(r, NOISE, "100%20{}.png")),
    Row("labels in capitals", lambda r: labelled(r, labels="labels/{}.PNG")),
    Row("labels with a suffix", lambda r: labelled(r, labels="labels/{}_label.png")),
    Row("with a suffix in capitals", lambda r: labelled(r, labels="labels/{}_label.PNG")),
    Row("files of a Mac and of Windows", with_files_of_a_mac),
    Row(
        "suffixes on both sides",
        lambda r: labelled(r, "images/a_{}_sat.jpg", "labels/a_{}_mask.png"),
        error="images end in '_sat', labels in '_mask'",
    ),
    Row(
        "prefixes",
        lambda r: labelled(r, "images/img_{}.jpg", "labels/mask_{}.png"),
        error="images begin with 'img' and labels with 'mask'",
    ),
]  # fmt: skip


def prepared(source: Source, folder: Path, **settings: Any) -> tuple[PreparedDataset, Storage]:
    dataset = discover(source).model_copy(update=settings)
    prepare(dataset, "", folder / "prepared", folder / "known.parquet", progress("check", None))
    return read_prepared(folder / "prepared"), Storage(dataset.root)


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_what_is_said_or_comes_out(row: Row, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    if row.error:
        with pytest.raises(UserError) as caught:
            prepared(row.make(raw), tmp_path)
        error = caught.value
        assert row.error in str(error)
        return
    dataset, storage = prepared(row.make(raw), tmp_path)
    assert len(dataset.picture_notes) == bool(row.note)
    assert row.note in "".join(dataset.picture_notes)
    _, image = EvaluationImages(dataset, storage)[0]
    image_row = dataset.manifest("val").to_pylist()[0]
    assert image.shape == (3, image_row["height"], image_row["width"])
    if row.brightest is not None:
        assert (image.min(), image.max()) == (row.darkest, row.brightest)
    if dataset.task == "semantic":
        assert len(prediction_names(dataset)) == 1


def test_a_range_of_ones_own_clips(tmp_path: Path) -> None:
    source = instances(tmp_path / "raw", ramp(-1024, 3071, np.int32), "{}.tif")
    dataset, storage = prepared(source, tmp_path, pixel_range=[-160.0, 240.0])
    assert "-160 is black and 240 white, values outside are clipped" in dataset.picture_notes[0]
    _, image = EvaluationImages(dataset, storage)[0]
    values = ramp(-1024, 3071, np.int32)
    expected = ((values.clip(-160, 240) + 160) / 400 * 255).round().astype(np.uint8)
    assert np.array_equal(image[0].numpy(), expected)


def test_turned_pictures_are_turned_for_training(tmp_path: Path) -> None:
    pixels = colours(WIDTH, HEIGHT)
    dataset, storage = prepared(instances(tmp_path / "raw", pixels, exif=turned(6)), tmp_path)
    _, image = EvaluationImages(dataset, storage)[0]
    assert np.array_equal(image.permute(1, 2, 0).numpy(), np.rot90(pixels, -1))


def test_plain_pictures_leave_no_trace_in_what_trainings_depend_on(tmp_path: Path) -> None:
    dataset, _ = prepared(instances(tmp_path / "raw", NOISE), tmp_path)
    assert "pictures" not in json.loads((dataset.folder / "dataset.json").read_text())


def test_a_suffix_that_the_configuration_lacks_is_named(tmp_path: Path) -> None:
    source = labelled(tmp_path / "raw", labels="labels/{}_label.png")
    with pytest.raises(UserError, match=r"images/0\.jpg, labels/0_label\.png; set suffix: _label"):
        prepared(source, tmp_path, suffix="")
