"""Decodes image files to 8-bit RGB: the one reader of preparation, training, evaluation, prediction and the page.

Shape letters: H W rows and columns.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from pointrend.specs import Orientation

#: What transparent pixels are shown on.
BACKDROP = (255, 255, 255)
#: Numbers of TIFF's tags: what values mean, and how many a pixel has of how many bits.
PHOTOMETRIC_INTERPRETATION, SAMPLES_PER_PIXEL, BITS_PER_SAMPLE = 262, 277, 258
#: EXIF's number of the orientation.
ORIENTATION = 274
#: The rows of an image that are converted at a time.
STRIP = 512
#: What files that are no images begin with, what they are, and what to do.
SIGNATURES = (
    (rb"version https://git-lfs", "a Git LFS pointer, not the image itself: run `git lfs pull`"),
    (rb"\s*<", "a web page or XML: download the image again"),
    (rb"\x00\x05\x16\x07", "a Mac's companion of another file: delete it"),
    (rb"....ftyp(?:hei|hev|mif|msf)", "a HEIC photograph, which cannot be read here: convert it to JPEG or PNG"),
    (rb"\x93NUMPY", "a NumPy array: write it as PNG or TIFF"),
    (rb"\x89HDF", "an HDF5 file: write its image as PNG or TIFF"),
    (rb"%PDF", "a PDF: write its pages as PNG"),
)
EMPTY = "the file is empty: save or download again"

#: What the values of an image are. Of 16-bit colours Pillow reads the upper 8 bits.
Values = Literal["8-bit", "16-bit", "16-bit colours", "32-bit", "float"]


@dataclass(frozen=True)
class Reading:
    """How image files are read.

    Attributes:
        orientation: "exif" turns images as their EXIF data say, as viewers do; "stored" leaves them as they are
            stored. TIFFs are turned either way, by Pillow.
        pixel_range: the values that are black and white in images of more than 8 bits, others are clipped. None takes
            16 bits as from 0 to 65535 and floats as from 0 to 1, and refuses images that are likely to be others.
    """

    orientation: Orientation = "exif"
    pixel_range: tuple[float, float] | None = None


UPRIGHT, STORED = Reading("exif"), Reading("stored")


@dataclass(frozen=True)
class ImageFile:
    """An image's pixels, uint8 (H, W, 3) RGB, and remarks about what was left out."""

    pixels: np.ndarray
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What a complete image file is.

    Attributes:
        height: of its stored pixels.
        width: of its stored pixels.
        turn: its orientation as EXIF numbers them, 1 for none or an upright one.
        values: what its values are.
        low: the lowest of them; 0 for 8 bits.
        high: the highest of them; 255 for 8 bits.
        remark: what a reader leaves out; empty for nothing.
    """

    height: int
    width: int
    turn: int = 1
    values: Values = "8-bit"
    low: float = 0.0
    high: float = 255.0
    remark: str = ""

    def size(self, orientation: Orientation) -> tuple[int, int]:
        """(H, W) in an orientation."""
        sideways = orientation == "exif" and self.turn > 4
        return (self.width, self.height) if sideways else (self.height, self.width)


def decode_image(
    file: Path | IO[bytes],
    name: str,
    reading: Reading = UPRIGHT,
    *,
    bits: int | None = None,
    max_pixels: int | None = None,
) -> ImageFile:
    """Decodes an image from a file or from an open one.

    Transparent pixels are blended with white. Grey images become RGB with three equal channels. Of an animation or a
    file with several pages the first is read, and a remark says so. Values of more than 8 bits are scaled to 8.

    Args:
        file: the file.
        name: what errors call it.
        reading: its orientation, and the range of values of more than 8 bits.
        bits: how many bits of 16-bit values are in use, such as 12 for many cameras and microscopes. None for 16, in
            which case an image that does not use the upper four bits is refused, because it is likely to be one of 12.
        max_pixels: the most pixels that the image may have.

    Raises:
        OSError: naming the file, if it is missing, truncated or not an image.
        ValueError: naming the file, if what its values mean is not certain, or it is too large.
    """
    with _opened(file, name, max_pixels) as image:
        remark = _load(image, name)
        if reading.orientation == "exif":
            ImageOps.exif_transpose(image, in_place=True)
        pixels = _rgb(image, name, reading.pixel_range, bits)
    return ImageFile(pixels, (remark,) if remark else ())


def examine(file: Path | IO[bytes], name: str) -> Facts:
    """Decodes an image file completely, and says what it is.

    Raises:
        OSError, ValueError: as :func:`decode_image`.
    """
    with _opened(file, name, None) as image:
        remark = _load(image, name)
        turn = Image.Image.getexif(image).get(ORIENTATION, 1)  # that of PNGs would load them once more
        kind = _values(image)
        low, high = 0.0, 255.0
        if kind != "8-bit":
            pixels = np.asarray(image)[..., :3] if kind == "16-bit colours" else np.asarray(image)
            low, high = float(pixels.min()), float(pixels.max())
        if not np.isfinite([low, high]).all():
            raise ValueError(f"{name}: has floats that are not finite, such as nan: replace them")
        return Facts(image.height, image.width, turn if turn in range(1, 9) else 1, kind, low, high, remark)


def read_values(file: Path | IO[bytes]) -> tuple[np.ndarray, str]:
    """The values of an image file as they are stored, (H, W) or (H, W, C), a palette's indices, and Pillow's mode.

    Raises:
        OSError: saying what is wrong with the file.
    """
    with _opened(file, "", None) as image:
        image.load()
        return np.array(image), image.mode


@contextmanager
def _opened(file: Path | IO[bytes], name: str, max_pixels: int | None) -> Iterator[Image.Image]:
    """Opens an image; errors in the block name it."""
    prefix = f"{name}: " if name else ""
    try:
        with _open(file, max_pixels) as image:
            width, height = image.size
            if max_pixels is not None and width * height > max_pixels:
                raise ValueError(
                    f"{name}: has {width} x {height} = {width * height / 1e6:.0f} million pixels, the limit is "
                    f"{max_pixels / 1e6:.0f} million; make it smaller, or cut it into tiles"
                )
            yield image
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{prefix}no such file") from error
    except (OSError, SyntaxError, EOFError, KeyError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, ValueError) and str(error).startswith(prefix):
            raise
        raise OSError(f"{prefix}not a readable image ({_reason(file, error)})") from error


def _open(file: Path | IO[bytes], max_pixels: int | None) -> Image.Image:
    if max_pixels is None:
        return Image.open(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels is the limit here
        return Image.open(file)


def _reason(file: Path | IO[bytes], error: Exception) -> str:
    """Why a file is no readable image, and what to do."""
    if isinstance(error, Image.DecompressionBombError):
        pixels, limit = (int(number) / 1e6 for number in re.findall(r"\d+", str(error))[:2])
        return f"has {pixels:.0f} million pixels, the limit is {limit:.0f} million: make smaller, or cut into tiles"
    if isinstance(error, UnidentifiedImageError):
        head, bands = _head(file)
        if not head:
            return EMPTY
        known = next((what for signature, what in SIGNATURES if re.match(signature, head, re.DOTALL)), None)
        return known or bands or "no image of a known format: save it as PNG, JPEG or TIFF"
    text = str(error) if str(error) else type(error).__name__
    return f"truncated or damaged, {text.replace(repr(file), 'this file')}: save or download again"


def _head(file: Path | IO[bytes]) -> tuple[bytes, str]:
    """The first bytes of a file, and what its bands are if it is a TIFF that Pillow does not know."""
    if isinstance(file, Path):
        if not file.is_file():
            return b"?", ""
        with file.open("rb") as stream:
            return _head(stream)
    file.seek(0)
    head = file.read(64)
    if head[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return head, ""
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(head[:16] if head[2:3] == b"+" or head[3:4] == b"+" else head[:8])
        file.seek(tags.next)
        tags.load(file)
        count, depth = tags.get(SAMPLES_PER_PIXEL, 1), tags.get(BITS_PER_SAMPLE, (1,))[0]
    except (OSError, SyntaxError, ValueError, TypeError, KeyError):
        return head, "a damaged TIFF: save it again"
    return head, (
        f"a TIFF with {count} band{'' if count == 1 else 's'} of {depth} bits: write one or three bands of 8 bits, as "
        "in `gdal_translate -b 3 -b 2 -b 1 -ot Byte -scale in.tif out.tif`"
    )


def _load(image: Image.Image, name: str) -> str:
    """Decodes an opened image; returns what is left out."""
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16") and tags.get(PHOTOMETRIC_INTERPRETATION) == 0:  # Pillow would read a negative
        raise ValueError(f"{name}: has 16-bit values in which 0 is white; convert it to 8 bits first")
    frames = getattr(image, "n_frames", 1)
    # MPO files are photographs with previews and depth maps behind them.
    remark = "" if frames == 1 or image.format == "MPO" else f"the first of {frames} "
    if remark:
        remark += "pages" if image.format == "TIFF" else "frames"
    elif (bands := tags.get(SAMPLES_PER_PIXEL, 1)) > len(image.getbands()):
        remark = f"the first {len(image.getbands())} of {bands} bands"
    # Pillow keeps the upper 8 of 16 bits of colours, and no trace of it once the image is decoded.
    image.info["deep"] = any(isinstance(part, str) and ";16" in part for tile in _tiles(image) for part in tile)
    image.load()
    return remark


def _tiles(image: Image.Image) -> Iterator[tuple[Any, ...]]:
    """The names by which Pillow's decoder knows the pixels of a file."""
    for tile in getattr(image, "tile", ()):
        arguments = tile[3] if len(tile) > 3 else ()
        yield arguments if isinstance(arguments, tuple) else (arguments,)


def _values(image: Image.Image) -> Values:
    # Some versions of Pillow read 16-bit PNGs as 32-bit integers.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return "16-bit"
    if image.mode in "IF":
        return "32-bit" if image.mode == "I" else "float"
    return "16-bit colours" if image.info.get("deep") else "8-bit"


def _rgb(image: Image.Image, name: str, pixel_range: tuple[float, float] | None, bits: int | None) -> np.ndarray:
    """The pixels of a decoded image, uint8 (H, W, 3)."""
    kind = _values(image)
    if kind in ("16-bit", "32-bit", "float"):
        values = np.asarray(image)
        low, high = pixel_range or _range(values, kind, name, bits)
        scaled = (np.clip(values.astype(np.float64), low, high) - low) * (255 / (high - low))
        return np.repeat(scaled.round().astype(np.uint8)[..., None], 3, axis=2)
    if kind == "16-bit colours" and pixel_range is None:
        dark = bits is None and np.asarray(image)[..., :3].max(initial=0) < 16
        if dark or (bits or 16) != 16:
            raise ValueError(
                f"{name}: has 16-bit colours of which no more than 12 bits are in use; only the upper 8 bits can be "
                "read. Convert it to 8 bits first"
            )
    if image.mode == "RGB" and "transparency" not in image.info:
        return np.array(image)
    width, height = image.size
    if image.mode == "L" and height <= 4 * STRIP and "transparency" not in image.info:
        return np.array(image.convert("RGB"))
    rgb = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, STRIP):  # Pillow's RGB has four bytes a pixel, and each conversion is a copy
        rgb[top : top + STRIP] = np.asarray(_opaque(image.crop((0, top, width, min(top + STRIP, height)))))
    return rgb


def _opaque(image: Image.Image) -> Image.Image:
    """An image as RGB, its transparent pixels blended with the backdrop."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (*BACKDROP, 255)), layer)
    return image.convert("RGB")


def _range(values: np.ndarray, kind: Values, name: str, bits: int | None) -> tuple[float, float]:
    """The values that are black and white in an image on its own, (H, W)."""
    if kind == "32-bit":
        raise ValueError(f"{name}: has 32-bit values or signed ones; convert it to 8 or 16 bits")
    low, high = float(values.min()), float(values.max())
    if kind == "float":
        if not np.isfinite([low, high]).all():
            raise ValueError(f"{name}: has floats that are not finite; expected 0 to 1")
        if low < 0 or high > 1:
            raise ValueError(
                f"{name}: has floats from {low:g} to {high:g}, expected 0 to 1; scale them, or convert the image to 8 "
                "or 16 bits"
            )
        return 0.0, 1.0
    if bits is None and high < 2**12:
        raise ValueError(
            f"{name}: has 16-bit values up to {high:.0f}, so perhaps only 12 bits are in use, or fewer; say how many "
            "with --bits (--bits 16 for a dark image)"
        )
    limit = 2 ** (bits or 16) - 1
    if high > limit:
        raise ValueError(f"{name}: has values up to {high:.0f}, which need more than {bits} bits; give another --bits")
    return 0.0, float(limit)
