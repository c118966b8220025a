"""Writes files and folders that appear whole or not at all: under a temporary name first, then renamed."""

import errno
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pipeline.errors import UserError


class FolderExistsError(UserError, FileExistsError):
    """A folder to write holds files already."""


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A new folder to fill, which is moved to ``path`` when the block ends without an error.

    Args:
        path: where the folder goes. An empty folder there is replaced.
        replace: also replace a folder that holds files. For folders that only this project writes, such as those
            below ``outputs``: whatever is in them is lost.

    Raises:
        FolderExistsError: if ``path`` holds files and is not to be replaced.
        NotADirectoryError: if ``path`` is a file.
    """
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file; expected a folder or a new path")
    if not replace:
        _check_empty(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as staging:
        fresh, previous = Path(staging) / "fresh", Path(staging) / "previous"
        fresh.mkdir()
        yield fresh
        if not replace:
            _check_empty(path)  # files may have come while the block ran
        if path.exists():
            path.rename(previous)
        try:
            fresh.rename(path)
        except BaseException:
            if previous.exists():
                previous.rename(path)
            raise


def _check_empty(path: Path) -> None:
    if path.is_dir() and any(path.iterdir()):
        raise FolderExistsError(
            f"{path}: holds files already; expected a new or empty folder. Move it away, or delete it if nothing in it "
            "is needed"
        )


@contextmanager
def atomic_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A new file to write, which takes the place of ``path`` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


#: What a file system without `flock` answers, such as a Lustre that is mounted without it.
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds the lock of a file during the block; it is released if this process dies.

    Where the file's own file system has no locks, a file in this machine's temporary folder is locked instead: then
    other machines are not kept out.

    Raises:
        BlockingIOError: if another process holds it and this one does not wait.
    """
    kind = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, kind)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        else:
            yield
            return
    name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]
    local = Path(tempfile.gettempdir()) / f"pointrend-{os.getuid()}-{name}.lock"
    with os.fdopen(os.open(local, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)) as stream:
        fcntl.flock(stream, kind)
        yield


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON with keys in order, so that equal values are equal files."""
    with atomic_file(path) as stream:
        json.dump(value, stream, indent=1, sort_keys=True)
        stream.write("\n")
