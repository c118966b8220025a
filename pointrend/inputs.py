"""Finds the image files that a user means by paths, folders, globs, and a list on standard input."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

#: The argument that stands for a list of paths on standard input.
STDIN = "-"


@dataclass(frozen=True)
class Input:
    """An image file, and the name of everything that is written about it: a relative path without a suffix."""

    path: Path
    name: str


@dataclass(frozen=True)
class Inputs:
    """The images to read, and the files of the folders that are no images by their names."""

    images: list[Input]
    others: list[Path]


def find_inputs(arguments: Sequence[str], lines: Iterable[str]) -> Inputs:
    """The images that arguments name, each once, in the order of the arguments; those of a folder by name.

    Args:
        arguments: files; folders, which stand for the images directly in them; patterns such as ``photos/**/*.jpg``; or
            ``-`` for a list of files, one a line.
        lines: the lines of standard input, read only for ``-``.

    Raises:
        ValueError: if an argument stands for no file.
    """
    expanded = [name for argument in arguments for name in (_lines(lines) if argument == STDIN else [argument])]
    paths, others = [], []
    for name in expanded:
        path = Path(name)
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if not file.is_dir() and not file.name.startswith("."))
            images = [file for file in inside if is_image_name(file)]
            others += [file for file in inside if not is_image_name(file)]
            if not images:
                raise ValueError(
                    f"{name}: a folder without images; name other files, or a pattern such as '{name}/**/*'"
                )
            paths += images
        elif path.exists() or path.is_symlink() or not glob.has_magic(name):
            paths.append(path)  # if it does not exist, reading it says so
        else:
            matches = sorted(Path(match) for match in glob.glob(name, recursive=True))  # noqa: PTH207 (absolute patterns)
            files = [match for match in matches if not match.is_dir()]
            if not files:
                raise ValueError(f"{name}: the pattern matches no file")
            paths += [file for file in files if is_image_name(file)]
            others += [file for file in files if not is_image_name(file)]
    if not paths:
        raise ValueError("no image to read: name files, folders or patterns, or - for a list on standard input")
    unique = list({os.path.abspath(path): path for path in paths}.values())  # noqa: PTH100 (links stay what they are)
    return Inputs([Input(path, name) for path, name in zip(unique, _names(unique), strict=True)], others)


def is_image_name(path: Path) -> bool:
    """Whether a file's suffix is that of an image format that Pillow knows."""
    return path.suffix.lower() in Image.registered_extensions()


def _lines(lines: Iterable[str]) -> list[str]:
    return [stripped for line in lines if (stripped := line.rstrip("\r\n"))]


def _names(paths: Sequence[Path]) -> list[str]:
    """Different names for different files: their paths below the folder that they share, without suffixes.

    Files that differ in their suffix only keep it: ``a.png`` and ``a.jpg`` are ``a_png`` and ``a_jpg``.
    """
    absolute = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100
    shared = Path(os.path.commonpath([path.parent for path in absolute]))
    relative = [path.relative_to(shared) for path in absolute]
    plain = [path.with_suffix("").as_posix() for path in relative]
    counts = Counter(name.casefold() for name in plain)
    taken = set(counts)
    names = []
    for name, path in zip(plain, relative, strict=True):
        if counts[name.casefold()] > 1:
            name = f"{name}_{path.suffix.removeprefix('.')}"
            while name.casefold() in taken:
                name += "_"
            taken.add(name.casefold())
        names.append(name)
    return names
