"""What a Ray on this machine needs of it: short paths for sockets, a place for its token, shared memory.

Where the usual places do not do, others are taken. Needs no Ray, because Ray reads its settings as it is imported.
"""

import os
import re
import secrets
import tempfile
from pathlib import Path

from pipeline.errors import UserError
from pipeline.full_disks import MORE_SHARED_MEMORY, full_folders

#: The kernel's limit on the path of a socket.
SOCKET_BYTES = 107
#: What Ray appends to its folder, at most.
RAY_SOCKET = "/ray/session_2026-01-31_12-00-00_123456_4194304/sockets/plasma_store"
LONGEST_FOLDER = SOCKET_BYTES - len(RAY_SOCKET)
#: What Python's multiprocessing appends to the folder for temporary files; Ray's dashboard and image loaders use it.
PYTHON_SOCKET = "/pymp-12345678/listener-12345678"
TOKEN = "auth_token"

#: Of the last lines of a failed start: a pattern, and what to do.
REMEDIES = (
    (r"AF_UNIX path", f"set RAY_TMPDIR to a folder of this machine whose path has at most {LONGEST_FOLDER} bytes"),
    (r"/dev/shm", MORE_SHARED_MEMORY),
    (r"No space left on device|Errno 28", "make room: `df -h /tmp /dev/shm` shows what is full"),
    (r"Read-only file system|Permission denied", "RAY_TMPDIR and HOME must name folders that can be written"),
    (
        r"timed out during startup|GCS cannot find|Failed to connect to GCS",
        "the machine is too busy or short of memory, or a firewall keeps its processes from 127.0.0.1; try again",
    ),
    (r"Too many open files", "raise the limit: `ulimit -n 65536`"),
    (r"Resource temporarily unavailable|can't start new thread", "raise the limit on processes: `ulimit -u`"),
)


class MachineError(UserError):
    """This machine has no place for what Ray needs."""


def socket_folder() -> Path:
    """The folder for temporary files, or another one if its path is too long for Ray's sockets.

    Raises:
        MachineError: if there is none that can be written.
    """
    usual = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    for folder in (usual, "/tmp", "/var/tmp", os.environ.get("XDG_RUNTIME_DIR")):
        if folder and len(os.fsencode(folder)) <= LONGEST_FOLDER and os.access(folder, os.W_OK | os.X_OK):
            return Path(folder)
    raise MachineError(
        f"{usual}: too long for the sockets of Ray, or it cannot be written, and neither /tmp nor /var/tmp can; set "
        f"RAY_TMPDIR to a folder of this machine whose path has at most {LONGEST_FOLDER} bytes"
    )


def adapt_to_machine() -> None:
    """Sets the environment variables by which a Ray that starts in this process finds a folder for its sockets.

    Raises:
        MachineError: see :func:`socket_folder`.
    """
    folder = str(socket_folder())
    os.environ["RAY_TMPDIR"] = folder
    if len(os.fsencode(tempfile.gettempdir()) + PYTHON_SOCKET.encode()) > SOCKET_BYTES:
        os.environ["TMPDIR"] = tempfile.tempdir = folder


def make_token(folder: Path) -> None:
    """Makes the token of a project's Ray in ``folder``, if it cannot be in the user's home, and uses it."""
    file = folder / TOKEN
    if _home_has_token() or file.is_file():
        return
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(secrets.token_hex(32))
    use_token(folder)


def use_token(folder: Path) -> None:
    """Lets this process and its children use the token in ``folder``, if one had to be made there."""
    if (folder / TOKEN).is_file() and not _home_has_token():
        os.environ["RAY_AUTH_TOKEN_PATH"] = str((folder / TOKEN).absolute())


def _home_has_token() -> bool:
    """Whether Ray has a token, or can write one to its usual place, ``~/.ray/auth_token``."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return True
    try:
        home = Path.home()
        usual = home / ".ray" / TOKEN
        if usual.is_file():
            return os.access(usual, os.R_OK)
        folder = usual.parent if usual.parent.exists() else home
        # A home that does not exist is not made, even where this user could.
        return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    except (OSError, RuntimeError):  # no access, or a user without a home
        return False


def explain_failure(log: str) -> str:
    """Why Ray did not start, in a line, and what to do where that is known.

    Args:
        log: the output of the process that should have started it.
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    reason = (errors or lines or ["it wrote nothing"])[-1][:300]
    if re.search("No space left on device|Errno 28", reason) and "/dev/shm" not in reason and (full := full_folders()):
        return f"{reason}; {full}"
    for pattern, remedy in REMEDIES:
        if re.search(pattern, reason):
            return f"{reason}; {remedy}"
    return reason
