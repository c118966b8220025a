"""Checks that picture files are complete, and reads their sizes."""

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.locations import is_remote
from pipeline.data.cpus import usable_cpus
from pipeline.data.labels import read_picture
from pipeline.data.storage import Storage, UnreadableFileError
from pipeline.errors import UserError
from pipeline.files import atomic_file

T = TypeVar("T")
Size = tuple[int, int]  # height and width in pixels

# Remote reads spend their time waiting, so many run at once.
REMOTE_THREADS = 32

_SCHEMA = pa.schema([("digest", pa.binary(16)), ("height", pa.int32()), ("width", pa.int32())])


class KnownPictures:
    """Sizes of pictures that were decoded completely before, by a hash of their bytes."""

    def __init__(self, sizes: dict[bytes, Size]) -> None:
        self._sizes = sizes

    def size(self, content: bytes) -> Size:
        """The (height, width) of a picture file's content; decodes the picture unless it was decoded before.

        Raises:
            ValueError: saying what is wrong with it.
        """
        digest = hashlib.blake2b(content, digest_size=16).digest()
        if (known := self._sizes.get(digest)) is not None:
            return known
        width, height = read_picture(io.BytesIO(content)).size
        self._sizes[digest] = height, width
        return height, width

    def table(self) -> pa.Table:
        rows = [{"digest": d, "height": h, "width": w} for d, (h, w) in self._sizes.items()]
        return pa.Table.from_pylist(rows, schema=_SCHEMA)


@contextmanager
def known_pictures(path: Path) -> Iterator[KnownPictures]:
    """Loads known pictures from a file, and writes back those that the block adds, even if the block fails.

    Raises:
        UserError: if the file is not one of these.
    """
    sizes: dict[bytes, Size] = {}
    if path.exists():
        try:
            if not pq.read_schema(path).equals(_SCHEMA):
                raise pa.ArrowInvalid("it has other columns")
            columns = pq.read_table(path).to_pydict()
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{path}: not a readable list of checked pictures; delete it ({error})") from error
        sizes = dict(zip(columns["digest"], zip(columns["height"], columns["width"], strict=True), strict=True))
    known, before = KnownPictures(sizes), len(sizes)
    try:
        yield known
    finally:
        if len(sizes) > before:
            with atomic_file(path, "wb") as stream:
                pq.write_table(known.table(), stream, compression="zstd")


class Checked(NamedTuple):
    """The result of checking a picture."""

    size: Size
    problem: str  # an error message that names the file; empty for a complete picture


def check_picture(storage: Storage, name: str, known: KnownPictures) -> Checked:
    """Reads and checks one picture file; see :func:`check_pictures`."""
    try:
        return Checked(known.size(storage.read(name)), "")
    except UnreadableFileError as error:
        return Checked((0, 0), str(error))
    except ValueError as error:
        return Checked((0, 0), f"{storage.where(name)}: {error}")


def check_pictures(
    storage: Storage, names: Iterable[str], known: KnownPictures, on_picture: Callable[[], None] | None = None
) -> dict[str, Checked]:
    """Reads and checks picture files in parallel.

    Args:
        storage: the folder of the files.
        names: the files.
        known: pictures decoded in earlier runs, which are not decoded again.
        on_picture: called once for each.

    Returns:
        The result of each file, by its name.

    Raises:
        StorageError: if the storage cannot be reached.
    """
    names = list(names)
    checked = in_parallel(storage, lambda name: check_picture(storage, name, known), names, on_done=on_picture)
    return dict(zip(names, checked, strict=True))


def in_parallel(
    storage: Storage, read: Callable[..., T], *arguments: Iterable[Any], on_done: Callable[[], None] | None = None
) -> Iterator[T]:
    """Yields ``read(...)`` for each of the arguments, in order; as many run at once as suit the storage."""
    with ThreadPoolExecutor(REMOTE_THREADS if is_remote(storage.root) else min(32, usable_cpus() + 4)) as pool:
        for result in pool.map(read, *arguments):
            if on_done is not None:
                on_done()
            yield result
