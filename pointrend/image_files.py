"""Reads image files of any kind as people see them: upright, 8-bit RGB. Never guesses what numbers mean.

Training reads its images with :mod:`pointrend.pictures`, in the orientation that annotations refer to.

Shape letters: H W rows and columns.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps

from pointrend.files import atomic_output

#: What transparent pixels are shown on.
BACKDROP = (255, 255, 255)
#: The number of a TIFF's tag that says what its values mean.
PHOTOMETRIC_INTERPRETATION = 262
#: The longest side that the JPEG format has room for, in Pillow's encoder.
JPEG_SIDE = 65_500
#: The rows of an image that are converted at a time.
STRIP = 512


@dataclass(frozen=True)
class ImageFile:
    """An image's pixels, uint8 (H, W, 3) RGB, and remarks about what was left out."""

    pixels: np.ndarray
    remarks: tuple[str, ...] = ()


def read_image(path: Path, *, bits: int | None = None, max_pixels: int | None = None) -> ImageFile:
    """:func:`decode_image` of a file."""
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise OSError(f"{path}: not a file, but a folder, a pipe or a device")
    return decode_image(path, str(path), bits=bits, max_pixels=max_pixels)


def decode_image(
    file: Path | IO[bytes], name: str, *, bits: int | None = None, max_pixels: int | None = None
) -> ImageFile:
    """Reads an image from a file or from an open one.

    It is turned as its EXIF data say. Transparent pixels are blended with white. Grey images become RGB with three
    equal channels. Of an animation or a file with several pages the first is read, and a remark says so. Values of 16
    bits are scaled to 8. Floats are taken as from 0 to 1.

    Args:
        file: the file.
        name: what errors call it.
        bits: how many bits of 16-bit values are in use, such as 12 for many cameras and microscopes. None for 16, in
            which case an image that does not use the upper four bits is refused, because it is likely to be one of 12.
        max_pixels: the most pixels that the image may have.

    Raises:
        OSError: naming the file, if it is missing, truncated or not an image.
        ValueError: naming the file, if what its values mean is not certain, or it is too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels is the limit here
            with Image.open(file) as opened:
                width, height = opened.size
                if max_pixels is not None and width * height > max_pixels:
                    raise ValueError(
                        f"{name}: has {width} x {height} = {width * height / 1e6:.0f} million pixels, the limit is "
                        f"{max_pixels / 1e6:.0f} million; make it smaller, or cut it into tiles"
                    )
                remarks = _remarks(opened)
                deep = any(isinstance(part, str) and ";16" in part for tile in opened.tile for part in _rawmode(tile))
                if _white_is_0(opened):
                    raise ValueError(f"{name}: has 16-bit values in which 0 is white; convert it to 8 bits first")
                opened.load()
                ImageOps.exif_transpose(opened, in_place=True)
                return ImageFile(_rgb(opened, name, bits, opened.format == "PNG", deep), remarks)
    except ValueError as error:
        if str(error).startswith(name):
            raise
        raise OSError(f"{name}: not a readable image ({error})") from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name}: no such file") from error
    except (OSError, SyntaxError, EOFError, KeyError, Image.DecompressionBombError) as error:
        reason = str(error).replace(repr(file), "this file").replace(name, Path(name).name)
        raise OSError(f"{name}: not a readable image ({reason})") from error


def _white_is_0(opened: Image.Image) -> bool:
    """Whether a file is a TIFF with 16-bit values of which 0 is white; Pillow would read a negative."""
    tags = getattr(opened, "tag_v2", {})
    return opened.mode.startswith("I;16") and tags.get(PHOTOMETRIC_INTERPRETATION) == 0


def _rawmode(tile: tuple[Any, ...]) -> tuple[Any, ...]:
    """The names by which Pillow's decoder knows the pixels of a file."""
    arguments = tile[3] if len(tile) > 3 else ()
    return arguments if isinstance(arguments, tuple) else (arguments,)


def _remarks(opened: Image.Image) -> tuple[str, ...]:
    frames = getattr(opened, "n_frames", 1)
    # MPO files are photographs with previews and depth maps behind them.
    if frames == 1 or opened.format == "MPO":
        return ()
    return (f"the first of {frames} {'pages' if opened.format == 'TIFF' else 'frames'}",)


def _rgb(image: Image.Image, path: str, bits: int | None, png: bool, deep: bool) -> np.ndarray:
    """The pixels of an upright image; ``deep`` if the file has 16-bit colours."""
    # Some versions of Pillow read 16-bit PNGs as 32-bit integers.
    if image.mode.startswith("I;16") or (image.mode == "I" and png):
        return _grey(_scaled(np.asarray(image).astype(np.int64), path, bits))
    if image.mode == "I":
        raise ValueError(f"{path}: has 32-bit values or signed ones; convert it to 8 or 16 bits")
    if image.mode == "F":
        values = np.asarray(image)
        low, high = float(values.min()), float(values.max())
        if not np.isfinite(values).all():
            raise ValueError(f"{path}: has floats that are not finite; expected 0 to 1")
        if low < 0 or high > 1:
            raise ValueError(
                f"{path}: has floats from {low:g} to {high:g}, expected 0 to 1; scale them, or convert the image to 8 "
                "or 16 bits"
            )
        return _grey((values * 255).round().astype(np.uint8))
    if deep:
        # Pillow keeps the upper 8 of 16 bits of colours.
        pixels = np.asarray(image)
        if (bits or 16) != 16 or (bits is None and pixels.size and pixels[..., :3].max() < 16):
            raise ValueError(
                f"{path}: has 16-bit colours of which no more than 12 bits are in use; only the upper 8 bits can be "
                "read. Convert it to 8 bits first"
            )
    width, height = image.size
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


def _scaled(values: np.ndarray, path: str, bits: int | None) -> np.ndarray:
    """16-bit values (H, W) to uint8."""
    highest = int(values.max(initial=0))
    if bits is None and highest < 2**12:
        raise ValueError(
            f"{path}: has 16-bit values up to {highest}, so perhaps only 12 bits are in use, or fewer; say how many "
            "with --bits (--bits 16 for a dark image)"
        )
    limit = 2 ** (bits or 16) - 1
    if highest > limit:
        raise ValueError(f"{path}: has values up to {highest}, which need more than {bits} bits; give another --bits")
    return (values * (255 / limit)).round().astype(np.uint8)


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def write_image(pixels: np.ndarray, path: Path) -> None:
    """Writes uint8 (H, W), (H, W, 3) or (H, W, 4), or uint16 (H, W), in the suffix's format, whole or not at all.

    Raises:
        ValueError: naming the file, for another suffix or if it is too long for a JPEG.
    """
    if path.suffix == ".jpg" and max(pixels.shape) > JPEG_SIDE:
        height, width = pixels.shape[:2]
        raise ValueError(
            f"{path}: {width} x {height} pixels; a JPEG has at most {JPEG_SIDE} a side, so write other files"
        )
    options: dict[str, dict[str, Any]] = {".jpg": {"quality": 95, "subsampling": 0}, ".png": {"compress_level": 3}}
    if path.suffix not in options:
        raise ValueError(f"{path}: expected a name that ends in {' or '.join(options)}")
    with atomic_output(path) as fresh:
        Image.fromarray(pixels).save(fresh, **options[path.suffix])
