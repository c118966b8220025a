"""Machines as people have them, and what Ray and MLflow ask of them: a row for each situation."""

import errno
import fcntl
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from requests.exceptions import ConnectionError as NoAnswer

from pipeline import full_disks
from pipeline.cluster import jobs as jobs_module
from pipeline.cluster.jobs import Job, Jobs, RayUnreachableError
from pipeline.cluster.machine import (
    LONGEST_FOLDER,
    MachineError,
    adapt_to_machine,
    explain_failure,
    make_token,
    socket_folder,
    use_token,
)
from pipeline.data.dataset import Example
from pipeline.files import locked
from pipeline.stage import errors_as_messages
from pipeline.tracking.client import Tracker, TrackingError
from pipeline.training import loading

TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests and the code set is forgotten after each."""
    for name in ("RAY_TMPDIR", "TMPDIR", *TOKENS):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize("length", [LONGEST_FOLDER - 10, LONGEST_FOLDER + 1, 150])
def test_a_folder_for_temporary_files_that_is_too_long_for_sockets_is_not_used(
    monkeypatch: pytest.MonkeyPatch, variable: str, length: int
) -> None:
    folder = Path("/tmp") / "x".ljust(length - len("/tmp/"), "x")
    folder.mkdir(exist_ok=True)
    try:
        monkeypatch.setenv(variable, str(folder))
        fits = length <= LONGEST_FOLDER
        assert socket_folder() == (folder if fits else Path("/tmp"))
        adapt_to_machine()
        assert os.environ["RAY_TMPDIR"] == str(folder if fits else "/tmp")
        # Python's own sockets are shorter than Ray's.
        kept = variable == "TMPDIR" and length < 75
        assert tempfile.gettempdir() == (str(folder) if kept else "/tmp")
    finally:
        folder.rmdir()


def test_without_any_folder_for_sockets_the_message_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    with pytest.raises(MachineError, match=f"set RAY_TMPDIR to a folder .* at most {LONGEST_FOLDER} bytes"):
        socket_folder()


@pytest.mark.parametrize("home", ["read-only", "missing", "not there"])
def test_without_a_home_to_write_to_the_token_lies_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    if home == "missing":

        def no_home(cls: type[Path]) -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", classmethod(no_home))
    elif home == "not there":
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
    else:
        monkeypatch.setenv("HOME", "/proc/1")  # not even root can write there
    make_token(tmp_path)
    token = tmp_path / "auth_token"
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(token)
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    before = token.read_text()
    assert len(before) == 64
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    make_token(tmp_path)  # as the next process of the project
    use_token(tmp_path)
    assert (os.environ["RAY_AUTH_TOKEN_PATH"], token.read_text()) == (str(token), before)


def test_with_a_home_the_token_is_ray_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    make_token(tmp_path / "project")
    assert not set(TOKENS) & os.environ.keys()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_flock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    flock, held = fcntl.flock, []

    def refuse(stream, operation: int) -> None:
        if (
            Path(stream.name if isinstance(stream.name, str) else f"/proc/self/fd/{stream.name}")
            .resolve()
            .is_relative_to(tmp_path)
        ):
            raise OSError(number, os.strerror(number))
        held.append(stream.fileno())
        flock(stream, operation)

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setenv("TMPDIR", "/tmp")
    with locked(tmp_path / "lock"):
        target = Path(f"/proc/self/fd/{held[0]}").resolve()
        assert target.parent == Path("/tmp")
        program = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        other = subprocess.run(
            [sys.executable, "-c", program, str(target)], capture_output=True, text=True, check=False
        )
        assert "BlockingIOError" in other.stderr
    target.unlink()


@pytest.mark.parametrize(
    ("last", "remedy"),
    [
        ("OSError: validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /x", "set RAY_TMPDIR"),
        ("OSError: [Errno 28] No space left on device: '/dev/shm/x'", "--shm-size"),
        ("OSError: [Errno 28] No space left on device: '/tmp/ray/x'", "df -h /tmp /dev/shm"),
        ("ValueError: The configured object store size (12 GB) exceeds /dev/shm size (0 GB).", "--shm-size"),
        ("OSError: [Errno 30] Read-only file system: '/home/x/.ray'", "HOME"),
        ("Exception: The current node timed out during startup.", "too busy"),
        ("OSError: [Errno 24] Too many open files", "ulimit -n"),
        ("RuntimeError: can't start new thread", "ulimit -u"),
    ],
)
def test_a_start_that_fails_is_one_line_with_the_remedy(last: str, remedy: str) -> None:
    log = f'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\n    raise\n{last}\n'
    line = explain_failure(log)
    assert line.startswith(f"{last}; ")
    assert remedy in line
    assert "\n" not in line


def test_an_error_without_a_file_names_what_is_full(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Locks between processes lie in /dev/shm; where it is full, the system's message does not say so."""

    def full_shared_memory(folder: Path) -> SimpleNamespace:
        return SimpleNamespace(free=0 if folder == Path("/dev/shm") else 1 << 40)

    monkeypatch.setattr(full_disks.shutil, "disk_usage", full_shared_memory)
    with pytest.raises(SystemExit), errors_as_messages():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    said = capsys.readouterr().err
    assert said.startswith("error: [Errno 28] No space left on device; /dev/shm has 0.0 MB left: make room in /dev/shm")
    assert "--shm-size" in explain_failure("OSError: [Errno 28] No space left on device")


class _Images(torch.utils.data.Dataset[Example]):
    def __getitem__(self, draw: object) -> Example:
        return Example(1, torch.full((3, 4, 4), 7, dtype=torch.uint8), {"boxes": torch.ones(1, 4)})


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("a loading process", RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_3>: No space")),
        ("the lock of a queue", OSError(errno.ENOSPC, "No space left on device")),
    ],
)
def test_image_loading_without_shared_memory_ends_and_says_so(
    monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    def refuse(*arguments: object) -> None:
        raise error

    if where == "a loading process":
        monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    else:
        monkeypatch.setattr(loading.multiprocessing, "Lock", refuse)
    with pytest.raises(loading.SharedMemoryError, match=r"too little shared memory .*--shm-size.*loader_processes: 0"):
        list(loading.load_batches(_Images(), [[0, 1]], 1, torch.device("cpu")))  # type: ignore[arg-type]


def test_of_an_unknown_failure_the_error_itself_is_shown() -> None:
    assert (
        explain_failure('Traceback:\n  File "x.py"\nray.exceptions.OddError: odd\n') == "ray.exceptions.OddError: odd"
    )
    assert explain_failure("") == "it wrote nothing"


def test_what_is_waited_for_is_said_while_one_call_hangs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jobs_module, "SILENT_SECONDS", 0.05)
    jobs, said = object.__new__(Jobs), threading.Event()
    jobs.address = "http://head:8265"
    report = jobs._report_waiting
    monkeypatch.setattr(jobs, "_report_waiting", lambda problem: (report(problem), said.set()))

    def hangs() -> str:
        assert said.wait(60)
        return "answer"

    assert jobs._retry(hangs) == "answer"
    assert capsys.readouterr().out == "Ray at http://head:8265 does not answer; waiting up to 120 s\n"


@pytest.mark.parametrize(
    "error",
    [
        NoAnswer("HTTPConnectionPool(host='h', port=1): Max retries exceeded (Caused by NewConnectionError('"
                 "HTTPConnection(host=h, port=1): No connection: [Errno 111] Connection refused'))"),
        RuntimeError("Request failed with status code 500: [Errno 111] Connection refused"),
    ],
    ids=["no answer", "no agent"],
)  # fmt: skip
def test_a_head_that_dies_before_a_job_is_submitted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    monkeypatch.setattr(jobs_module, "SILENT_SECONDS", 0.05)
    monkeypatch.setattr(jobs_module, "PATIENCE_SECONDS", 1.0)

    class DeadHead:
        def list_jobs(self) -> list[object]:
            return []

        def submit_job(self, **job: object) -> None:
            raise error

    jobs = object.__new__(Jobs)
    jobs.address, jobs._client, jobs._prefix, jobs._environment = "http://head:8265", DeadHead(), [], {}  # type: ignore[assignment]
    with pytest.raises(RayUnreachableError) as caught:
        jobs.submit(Job("run", ["true"], Path("/")))
    reason = "([Errno 111] Connection refused)"
    assert str(caught.value) == f"http://head:8265: job run was not accepted within 1 s {reason}"
    assert capsys.readouterr().out == "Ray at http://head:8265 has not accepted job run yet; waiting up to 1 s\n"


def test_an_answer_in_time_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    jobs, answers = object.__new__(Jobs), iter([NoAnswer("no"), "answer"])
    jobs.address = "http://head:8265"

    def call() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert jobs._retry(call) == "answer"
    assert capsys.readouterr().out == ""


@pytest.fixture
def refusing_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that answers every request with the status of the parameter."""

    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"You are not authenticated."
            self.send_response(request.param)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refuse) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("refusing_server", "user", "said"),
    [
        (401, None, "it asks for a name and a password: set MLFLOW_TRACKING_USERNAME"),
        (401, "ada", "it refuses the password of ada"),
        (403, "ada", "its user may not do this"),
    ],
    indirect=["refusing_server"],
)
def test_a_server_that_refuses_the_user_is_not_called_dead(
    monkeypatch: pytest.MonkeyPatch, refusing_server: str, user: str | None, said: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    if user:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    with pytest.raises(TrackingError) as caught:
        Tracker(refusing_server, "x", patience=60)  # it does not wait
    assert said in str(caught.value)
    assert "start it" not in str(caught.value)


def test_a_dashboard_that_never_answers_a_request_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.cluster.jobs.REQUEST_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # Should the limit not work, the connection is closed instead, with another message.
        closing = threading.Timer(20, silent.shutdown, [socket.SHUT_RDWR])
        closing.daemon = True
        closing.start()
        with pytest.raises(RayUnreachableError, match=r"no Ray answers.*timed out"):
            Jobs(f"http://127.0.0.1:{silent.getsockname()[1]}")
        closing.cancel()
