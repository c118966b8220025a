"""`dvc repro` as a child process, and as the parent of a stage, which ends when its DVC is gone."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

#: How often a stage looks whether its DVC is still there.
LOOK_SECONDS = 1.0
#: How long a stage may take to end before it is cut off.
GRACE_SECONDS = 30.0
STATUS = 128 + signal.SIGTERM


def parent_dvcs() -> Iterator[tuple[psutil.Process, list[str]]]:
    """The DVC commands among the parent processes, nearest first, and their arguments."""
    for process in psutil.Process().parents():
        try:
            words = process.cmdline()
        except psutil.Error:  # the process has ended, or belongs to another user
            return
        for at, word in enumerate(words[:4]):
            if Path(word).name in ("dvc", "dvc.exe") or Path(word).parts[-2:] == ("dvc", "__main__.py"):
                yield process, words[at + 1 :]


def repro() -> int:
    """Runs `dvc repro` until it ends, also on Ctrl-C; on SIGTERM tells it to. Returns its status, as a shell does."""
    with subprocess.Popen([sys.executable, "-m", "dvc", "repro"]) as dvc:
        before = signal.signal(signal.SIGTERM, lambda *_: dvc.terminate())
        try:
            status = dvc.wait()
        except KeyboardInterrupt:  # DVC has it as well
            status = dvc.wait()
        finally:
            signal.signal(signal.SIGTERM, before)
    return status if status >= 0 else 128 - status


def end_with_dvc() -> None:
    """From now on ends this process, without a message and with status 143, once the DVC that runs it is gone.

    A killed DVC does not stop its stage, which would wait on for its job and then collect a result that the next
    `dvc repro` has collected already. Jobs go on, and the next `dvc repro` waits for them. Nothing happens in a process
    that no DVC runs. A job is such a process: the Ray that a stage starts has a session of its own.
    """
    session = os.getsid(0)
    dvc = next((process for process, _ in parent_dvcs() if _session(process) == session), None)
    if dvc is None:
        return
    # A signal also wakes a main thread that sleeps, and an exception there removes what is half written.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(STATUS))
    threading.Thread(target=_watch, args=(dvc,), name="watches DVC", daemon=True).start()


def _session(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except OSError:  # it has ended
        return None


def _watch(dvc: psutil.Process) -> None:
    while _is_alive(dvc):
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(STATUS)  # the main thread waits in a library that does not return


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
