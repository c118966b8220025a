"""Runs the programs of jobs in forks of a process that has the large libraries imported already.

Importing torch, Ray and MLflow takes a job six seconds of CPU time. The Ray of a project on this machine therefore has
a server beside it that imports them once; :mod:`pipeline.cluster.launch` asks it for a process. Such a process is like
one of ``python -m MODULE``: it has the caller's environment, folder and output, it imports the project's own modules
anew, and if it dies nothing else does.

The server never runs anything of these libraries itself, and makes no thread, so that it may fork. On macOS, whose own
libraries do not survive a fork, programs start without it.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cluster.machine import socket_folder

#: The environment variable with the path of the server's socket.
ADDRESS = "POINTREND_FORK_SERVER"
#: What the server imports: the large libraries of jobs, and no module of the project.
LIBRARIES = (
    "torch",
    "torchvision.ops",
    "ray.train.collective",
    "ray.train.torch",
    "ray.tune",
    "ray.job_submission",
    "ray.util.state",
    "mlflow.pyfunc",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.system_metrics.system_metrics_monitor",
    "mlflow.tracking",
    "sqlalchemy.orm",
    "safetensors.torch",
    "pandas",
    "pycocotools.mask",
    "scipy.ndimage",
)
PROJECT = ("pipeline", "pointrend", "stages")
#: Libraries read these when they are loaded, so a program with other values needs a process of its own.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
LENGTH = struct.Struct("!I")
REQUEST_SECONDS = 10.0


@dataclass(frozen=True)
class Program:
    """A program to run, and where.

    Attributes:
        module: the module to run as ``__main__``.
        arguments: its arguments.
        folder: the working directory, from which the project's modules are imported.
        environment: all environment variables.
    """

    module: str
    arguments: list[str]
    folder: str
    environment: dict[str, str]


def send(connection: socket.socket, message: dict[str, Any], streams: Sequence[int] = ()) -> None:
    """Sends a message, and file descriptors for its receiver to use."""
    body = json.dumps(message).encode()
    socket.send_fds(connection, [LENGTH.pack(len(body))], list(streams))
    connection.sendall(body)


def receive(connection: socket.socket, streams: int = 0) -> tuple[dict[str, Any], list[int]]:
    """The next message and its file descriptors, ``streams`` at most.

    Raises:
        EOFError: if the connection is closed.
    """
    head, descriptors, _, _ = socket.recv_fds(connection, LENGTH.size, streams)
    if len(head) < LENGTH.size:
        raise EOFError
    (length,), body = LENGTH.unpack(head), b""
    while len(body) < length:
        part = connection.recv(length - len(body))
        if not part:
            raise EOFError
        body += part
    return json.loads(body), descriptors


@contextmanager
def fork_server() -> Iterator[Path | None]:
    """Runs a fork server during the block and yields the path of its socket; None where processes cannot be forked.

    The server ends with the process that started it, and its forks with the server, even if that process is killed.
    """
    if sys.platform != "linux":
        yield None
        return
    path = Path(tempfile.mkdtemp(prefix="pointrend-", dir=socket_folder())) / "fork"
    server = subprocess.Popen([sys.executable, "-m", "pipeline.cluster.fork_server", str(path)], stdin=subprocess.PIPE)
    try:
        yield path
    finally:
        assert server.stdin is not None
        server.stdin.close()
        server.wait()


class ForkServer:
    """The server.

    Args:
        path: where to make the socket.
        owner: a file descriptor that is at its end once the process that started the server has ended.
    """

    def __init__(self, path: Path, owner: int) -> None:
        for name in LIBRARIES:
            importlib.import_module(name)
        self._installed = _installed_at()
        self._threads = {name: os.environ.get(name) for name in THREADS}
        self._owner = owner
        self._clients: dict[int, socket.socket] = {}  # by the process of their program
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the stage, not for the jobs
        self._wakeup, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        # Renamed into place, so that nobody connects before somebody listens.
        draft = path.with_suffix(".new")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(draft))
        self._listener.listen(64)
        draft.rename(path)
        self._selector = selectors.DefaultSelector()
        for source in (self._listener, self._wakeup, owner):
            self._selector.register(source, selectors.EVENT_READ)
        # A collection would write to, and so copy, the memory that the forks share.
        gc.collect()
        gc.freeze()

    def serve(self) -> Program | None:
        """Serves until the owner has ended, then returns None. Returns in each fork as well, with its program."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    if (program := self._accept()) is not None:
                        return program
                elif key.fileobj is self._wakeup:
                    self._wakeup.recv(4096)
                    self._report_ended()
                elif key.fileobj != self._owner:  # a client has nothing more to say, so it has ended
                    self._selector.unregister(key.fileobj)
                    _kill(key.data)
                elif not os.read(self._owner, 4096):
                    for process in self._clients:
                        _kill(process)
                    return None

    def _accept(self) -> Program | None:
        """Forks for a client that has connected. Returns the program in the fork, None in the server."""
        connection, _ = self._listener.accept()
        connection.settimeout(REQUEST_SECONDS)
        try:
            request, streams = receive(connection, 3)
            program = Program(**request)
        except (OSError, EOFError, ValueError, TypeError):
            connection.close()
            return None
        process = os.fork() if self._suits(program) else None
        if process == 0:
            self._leave(connection)
            _enter(program, streams)
            return program
        for stream in streams:
            os.close(stream)
        if process is None:
            connection.close()
            return None
        self._clients[process] = connection
        self._selector.register(connection, selectors.EVENT_READ, process)
        with suppress(OSError):
            send(connection, {"process": process})
        return None

    def _suits(self, program: Program) -> bool:
        """Whether the libraries in this process are those that the program would import."""
        threads = {name: program.environment.get(name) for name in THREADS}
        return threads == self._threads and _installed_at() == self._installed

    def _report_ended(self) -> None:
        """Tells the clients of programs that have ended how they ended."""
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                process, status = found
                if (connection := self._clients.pop(process, None)) is not None:
                    with suppress(OSError):
                        send(connection, {"status": status})
                    with suppress(KeyError):  # the client has ended before
                        self._selector.unregister(connection)
                    connection.close()

    def _leave(self, connection: socket.socket) -> None:
        """Lets go, in a fork, of what belongs to the server."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._selector.close()
        for each in (connection, self._listener, self._wakeup, self._waker, *self._clients.values()):
            each.close()


def _installed_at() -> int:
    """When a library was last installed or removed beside torch, in nanoseconds."""
    folder = Path(str(sys.modules["torch"].__file__)).parents[1]
    return folder.stat().st_mtime_ns


def _kill(process: int) -> None:
    """Kills a program and the processes that it has started."""
    for kill in (os.kill, os.killpg):
        with suppress(ProcessLookupError, PermissionError):
            kill(process, signal.SIGKILL)


def _enter(program: Program, streams: Sequence[int]) -> None:
    """Makes this fork the process of a program that is about to start."""
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(program.environment)
    os.chdir(program.folder)
    sys.path[0] = program.folder
    importlib.invalidate_caches()
    for name in [name for name in sys.modules if name.partition(".")[0] in PROJECT]:
        del sys.modules[name]
    sys.modules["numpy"].random.seed()  # numpy's global generator is the same in all forks


def _run(program: Program) -> None:
    """Runs a program in its fork and ends the process.

    It ends as the forks of `multiprocessing` do: what is registered runs, but the libraries' objects are not freed one
    by one, which would take a second.
    """
    code: object = 0
    try:
        sys.argv[1:] = program.arguments
        runpy.run_module(program.module, run_name="__main__", alter_sys=True)
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    if not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


def main() -> None:
    path = Path(sys.argv[1])
    program = ForkServer(path, sys.stdin.fileno()).serve()
    if program is not None:
        _run(program)
    shutil.rmtree(path.parent, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main()
