"""Access to the folder of raw data: on this machine, or behind any URI that pyarrow can open."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from pyarrow import ArrowException
from pyarrow import fs as arrow_fs

from pipeline.config.locations import is_remote, join
from pipeline.errors import UserError

COPIED_AT_ONCE = 1 << 26  # bytes


class StorageError(UserError, OSError):
    """A data root that cannot be opened or reached."""


class UnreadableFileError(StorageError):
    """One file that is missing or cannot be read, while the storage itself can be reached."""


class Storage:
    """Files below one folder, by their names relative to it.

    It can be pickled, and used after a fork, because each process opens its own connection. A process must not fork
    while another of its threads reads.

    Args:
        root: a path, or a URI such as ``s3://bucket/folder``, with options of pyarrow's after a "?" (``region``,
            ``endpoint_override``, ``scheme``); ``fsspec+<protocol>://`` reaches what fsspec knows. Credentials are
            those that the service's own tools use: for S3 from the environment (``AWS_ACCESS_KEY_ID``, ...),
            ``~/.aws`` or the machine's role.

    Raises:
        StorageError: for a URI with credentials, which would be written to files and messages.
    """

    def __init__(self, root: str) -> None:
        if is_remote(root) and "@" in urlsplit(root).netloc:
            raise StorageError(
                "the data root's URI holds credentials; leave them out and set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or whatever the service's own tools read"
            )
        self.root = root if is_remote(root) else str(Path(root).resolve())
        self._opened: tuple[int, arrow_fs.FileSystem, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "_opened": None}

    def __repr__(self) -> str:
        return f"Storage({self.root!r})"

    def where(self, name: str = "") -> str:
        """The name of a file, or of the storage itself, for messages."""
        return join(self.root, name).partition("?")[0].rstrip("/") if is_remote(self.root) else join(self.root, name)

    def read(self, name: str) -> bytes:
        """A file's bytes.

        Raises:
            UnreadableFileError: naming the file.
            StorageError: if the storage cannot be reached.
        """
        return b"".join(self._chunks(name))

    def copy(self, name: str, target: Path) -> None:
        """Copies a file to this machine.

        Raises:
            StorageError: as :meth:`read`.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            for chunk in self._chunks(name, COPIED_AT_ONCE):
                file.write(chunk)

    def beside(self, name: str) -> tuple["Storage", str]:
        """The storage of a file that may be outside this one, by an absolute path or a URI, and its name in it."""
        if not name.startswith("/") and not is_remote(name):
            return self, name
        folder, _, file = name.rpartition("/")
        return Storage(folder or "/"), file

    def local(self, name: str, folder: Path) -> Path:
        """The path of a file on this machine: the file itself, or a copy in ``folder`` if the storage is remote.

        Raises:
            StorageError: as :meth:`read`.
        """
        if not is_remote(self.root):
            return Path(self.root, name)
        target = folder / PurePosixPath(name).name
        self.copy(name, target)
        return target

    def files(self, folder: str) -> Iterator[str]:
        """The names of all files below a folder, at any depth, in order; none where there is no such folder.

        Raises:
            StorageError: if the storage cannot be reached.
        """
        filesystem, root = self._filesystem()
        selector = arrow_fs.FileSelector(f"{root}/{folder}", recursive=True, allow_not_found=True)
        try:
            found = filesystem.get_file_info(selector)
        except (OSError, ArrowException) as error:
            raise StorageError(f"{self.where(folder)}: cannot be listed ({error})") from error
        names = (info.path[len(root) + 1 :] for info in found if info.type == arrow_fs.FileType.File)
        return iter(sorted(names))

    def _chunks(self, name: str, size: int | None = None) -> Iterator[bytes]:
        """A file's bytes in chunks of ``size``, by default in one."""
        filesystem, folder = self._filesystem()
        try:
            with filesystem.open_input_stream(f"{folder}/{name}") as stream:
                while chunk := stream.read(size):
                    yield chunk
        except FileNotFoundError as error:
            raise UnreadableFileError(f"{self.where(name)}: no such file") from error
        except (OSError, ValueError, ArrowException) as error:
            # A local error concerns this file; a remote one most likely concerns all files.
            kind = StorageError if is_remote(self.root) else UnreadableFileError
            raise kind(f"{self.where(name)}: cannot be read ({error})") from error

    def _filesystem(self) -> tuple[arrow_fs.FileSystem, str]:
        # A connection does not survive a fork: each process opens its own.
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                if is_remote(self.root):
                    filesystem, folder = arrow_fs.FileSystem.from_uri(self.root)
                else:
                    filesystem, folder = arrow_fs.LocalFileSystem(), self.root
            except (OSError, ValueError, ImportError, ArrowException) as error:
                raise StorageError(f"{self.where()}: no data root that can be opened ({error})") from error
            self._opened = os.getpid(), filesystem, folder.rstrip("/")
        return self._opened[1:]
