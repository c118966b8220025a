"""Says which file system is full: the system's own message, "No space left on device", often names no file."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
MORE_SHARED_MEMORY = "make room in /dev/shm, or start the container with a larger --shm-size"
#: A file system with less room than this, in bytes, is called full.
LITTLE = 16 * 1024**2


def full_folders(folders: Sequence[Path] | None = None) -> str:
    """Names the folders whose file systems have hardly any room, and says what to do; empty if there are none.

    Args:
        folders: by default shared memory, the folder for temporary files and the working directory.
    """
    found = []
    for folder in folders or (SHARED_MEMORY, Path(tempfile.gettempdir()), Path.cwd()):
        try:
            room = shutil.disk_usage(folder).free
        except OSError:  # there is no such folder on this system
            continue
        if room < LITTLE:
            remedy = MORE_SHARED_MEMORY if folder == SHARED_MEMORY else "make room there"
            found.append(f"{os.fspath(folder)} has {room / 1024**2:.1f} MB left: {remedy}")
    return "; ".join(found)
