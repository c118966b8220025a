"""Runs a module as the program of a job: in a fork of the fork server if there is one, otherwise in this process.

It is the process that Ray knows: it passes signals on to the fork, ends as the fork ends, and takes it with it.
"""

import os
import runpy
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

from pipeline.cluster.fork_server import ADDRESS, receive, send

FORWARDED = (signal.SIGINT, signal.SIGTERM)


class _Signals:
    """Keeps the signals that this process gets until there is a process to pass them on to."""

    def __init__(self) -> None:
        self._process: int | None = None
        self._waiting: list[int] = []
        self._previous = {number: signal.signal(number, self._pass_on) for number in FORWARDED}

    def _pass_on(self, number: int, frame: FrameType | None = None) -> None:
        if self._process is None:
            self._waiting.append(number)
        else:
            with suppress(ProcessLookupError):
                os.kill(self._process, number)

    def send_to(self, process: int) -> None:
        """Passes signals on to ``process``, beginning with those that have arrived."""
        self._process = process
        while self._waiting:
            self._pass_on(self._waiting.pop(0))

    def restore(self) -> None:
        """Leaves signals to this process again."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self.send_to(os.getpid())


def run_forked(address: str, module: str, arguments: list[str]) -> int | None:
    """Runs a module in a fork of the server at ``address``.

    Returns:
        the exit code, minus the number of the signal that has ended the fork; None if there is no server, or if the
        module needs a process of its own.
    """
    signals = _Signals()
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(address)
            request: dict[str, object] = {"module": module, "arguments": arguments, "folder": str(Path.cwd())}
            request["environment"] = dict(os.environ)
            send(connection, request, (0, 1, 2))
            process = receive(connection)[0]["process"]
        except (OSError, EOFError):
            signals.restore()
            return None
        signals.send_to(process)
        try:
            return os.waitstatus_to_exitcode(receive(connection)[0]["status"])
        except (OSError, EOFError):  # the server has been killed
            with suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
            return -signal.SIGKILL


def main() -> None:
    module, *arguments = sys.argv[1:]
    address = os.environ.get(ADDRESS)
    code = run_forked(address, module, arguments) if address else None
    if code is None:
        sys.argv[1:] = arguments
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    elif code < 0:
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    else:
        sys.exit(code)


if __name__ == "__main__":
    main()
