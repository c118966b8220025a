"""Checks that picture files are complete, and reads their sizes."""

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.locations import is_remote
from pipeline.data.cpus import usable_cpus
from pipeline.data.file_names import resolved_names
from pipeline.data.storage import Storage, UnreadableFileError
from pipeline.errors import UserError
from pipeline.files import atomic_file
from pointrend.pixels import Facts, examine
from pointrend.specs import Orientation

T = TypeVar("T")
#: Ends the message about a picture that fits its annotations in the other orientation.
EXIF_HINT = ", which it is in the other orientation of its EXIF data"
Size = tuple[int, int]  # height and width in pixels

# Remote reads spend their time waiting, so many run at once.
REMOTE_THREADS = 32

_SCHEMA = pa.schema(
    [
        ("digest", pa.binary(16)),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("turn", pa.int8()),
        ("values", pa.string()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("remark", pa.string()),
    ]
)
#: What lists of earlier versions say, which is too little: their pictures are decoded once more.
_EARLIER_SCHEMA = pa.schema([_SCHEMA.field(name) for name in ("digest", "height", "width")])


class KnownPictures:
    """What pictures are that were decoded completely before, by a hash of their bytes.

    Attributes:
        orientation: of the dataset whose pictures are looked at.
        looked_at: what the pictures are that were looked at, in any order.
        other_names: the files that were taken for names of the annotations which differ from theirs.
    """

    def __init__(self, facts: dict[bytes, Facts], orientation: Orientation = "stored") -> None:
        self._facts, self.orientation = facts, orientation
        self.looked_at: list[Facts] = []
        self.other_names: dict[str, str] = {}

    def resolve(self, storage: Storage, folder: str, names: Sequence[str]) -> dict[str, str]:
        """:func:`pipeline.data.file_names.resolved_names`, which are remembered in ``other_names``."""
        found = resolved_names(storage, folder, names)
        self.other_names |= found
        return found

    def look(self, content: bytes) -> Facts:
        """What a picture file's content is; decodes the picture unless it was decoded before.

        Raises:
            ValueError, OSError: saying what is wrong with it.
        """
        digest = hashlib.blake2b(content, digest_size=16).digest()
        if (facts := self._facts.get(digest)) is None:
            facts = self._facts[digest] = examine(io.BytesIO(content), "")
        self.looked_at.append(facts)
        return facts

    def table(self) -> pa.Table:
        rows = [{"digest": digest, **asdict(facts)} for digest, facts in self._facts.items()]
        return pa.Table.from_pylist(rows, schema=_SCHEMA)


@contextmanager
def known_pictures(path: Path, orientation: Orientation = "stored") -> Iterator[KnownPictures]:
    """Loads known pictures from a file, and writes back those that the block adds, even if the block fails.

    Raises:
        UserError: if the file is not one of these.
    """
    facts: dict[bytes, Facts] = {}
    if path.exists():
        try:
            schema = pq.read_schema(path)
            if not schema.equals(_SCHEMA) and not schema.equals(_EARLIER_SCHEMA):
                raise pa.ArrowInvalid("it has other columns")
            rows = zip(*pq.read_table(path).to_pydict().values(), strict=True) if schema.equals(_SCHEMA) else ()
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{path}: not a readable list of checked pictures; delete it ({error})") from error
        facts = {digest: Facts(*values) for digest, *values in rows}
    known, before = KnownPictures(facts, orientation), len(facts)
    try:
        yield known
    finally:
        if len(facts) > before:
            with atomic_file(path, "wb") as stream:
                pq.write_table(known.table(), stream, compression="zstd")


class Checked(NamedTuple):
    """The result of checking a picture."""

    size: Size  # in the dataset's orientation
    problem: str  # an error message that names the file; empty for a complete picture
    other_size: Size = (0, 0)  # in the other orientation

    def exif_hint(self, annotated: Size) -> str:
        """Says that annotations fit the picture in the other orientation; empty if they do not, or fit as it is."""
        return EXIF_HINT if self.size != annotated == self.other_size else ""


def check_picture(storage: Storage, name: str, known: KnownPictures) -> Checked:
    """Reads and checks one picture file; see :func:`check_pictures`."""
    try:
        content = storage.read(name)
    except UnreadableFileError as error:
        return Checked((0, 0), str(error))
    try:
        facts = known.look(content)
    except (OSError, ValueError) as error:
        return Checked((0, 0), f"{storage.where(name)}: {str(error).removeprefix(': ')}")
    other: Orientation = "exif" if known.orientation == "stored" else "stored"
    return Checked(facts.size(known.orientation), "", facts.size(other))


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
