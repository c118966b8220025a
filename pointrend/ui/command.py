"""``pointrend ui``: from the command line's options to a server on the loopback interface."""

import errno
import importlib
import socket
import webbrowser
from pathlib import Path
from typing import Any

from rich.console import Console

from pointrend.predict_command import choose_device
from pointrend.runs import find_checkout, find_weights
from pointrend.ui.session import Session, Weights, best, offered_weights
from pointrend.weights import load_model
from pointrend.wording import counted

HOST = "127.0.0.1"


def check_installed() -> None:
    """Raises ValueError if the packages of the extra are missing."""
    for name in ("starlette", "uvicorn"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ValueError(f"the page needs {name}, which is not installed: pip install 'pointrend[ui]'") from error


def listen(port: int) -> socket.socket:
    """A socket on a port of 127.0.0.1; of any free one for 0.

    Raises:
        OSError: if the port cannot be had.
    """
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise OSError(f"port {port} {reason}; choose another one with --port, or --port 0 for any") from error


def given_weights(source: str, model: str | None, options: dict[str, Any]) -> Weights:
    """The weights of ``--weights``, which are loaded once to know what they are."""
    found, scores = find_weights(source)
    metadata = load_model(found, model, **options).metadata
    assert metadata is not None
    return Weights(source, found, metadata, {"name": model, **options}, scores)


def run_ui(
    weights: str | None,
    model: str | None,
    options: dict[str, Any],
    *,
    port: int,
    open_browser: bool,
    device: str,
    bits: int | None,
) -> None:
    """Serves the page until Ctrl-C.

    Raises:
        OSError, ValueError: if it cannot start: packages, weights, the device or the port.
    """
    check_installed()
    from pointrend.ui.server import serve

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    chosen = choose_device(device)
    root = find_checkout(Path.cwd()) or Path.cwd()
    offered, problems = offered_weights(root)
    for problem in problems:
        console.print(problem, markup=False)
    start = None
    if weights is not None:
        start = next((index for index, known in enumerate(offered) if known.name == weights), None)
        if start is None or model is not None or any(value is not None for value in options.values()):
            offered.insert(0, given_weights(weights, model, options))
            start = 0
    if not offered:
        raise ValueError(
            f"there are no runs in {root / 'outputs'}/<scale>/train; name weights with --weights, or start "
            "this in the folder of a project"
        )
    session = Session(offered, best(offered) if start is None else start, chosen, bits)
    with listen(port) as listener:
        url = f"http://{HOST}:{listener.getsockname()[1]}"
        print(f"{url}   ({counted(len(offered), 'network')}, on {chosen}; Ctrl-C ends it)", flush=True)
        if open_browser:
            webbrowser.open(url)
        serve(session, listener)
