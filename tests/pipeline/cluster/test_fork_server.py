"""Programs in forks of the fork server are like programs of their own, and die with whoever asked for them."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pipeline.cluster.fork_server import ADDRESS, LIBRARIES, fork_server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def ready_server() -> Iterator[Path]:
    with fork_server() as path:
        assert path is not None
        wait_until(path.exists)
        yield path


@pytest.fixture(scope="module")
def address() -> Iterator[Path]:
    with ready_server() as path:
        yield path


class Programs:
    """Starts programs in a folder of their own, in forks of a server or, without one, in their own process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, source: str) -> None:
        (self.folder / "program.py").write_text("import os, sys, time\n" + textwrap.dedent(source))

    def start(self, address: Path | None, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        environment = {**os.environ, **variables} | ({ADDRESS: str(address)} if address else {})
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline.cluster.launch", "program", *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, address: Path | None, *arguments: str, **variables: str) -> tuple[int, str, str]:
        process = self.start(address, *arguments, **variables)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors

    def pids(self, count: int) -> list[psutil.Process]:
        """The processes whose ids the program has written to the file `pids`."""
        path = self.folder / "pids"
        wait_until(lambda: path.exists() and len(path.read_text().splitlines()) == count)
        return [psutil.Process(int(line)) for line in path.read_text().splitlines()]


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


#: Writes its own process id and that of a child, says that it is ready, and waits.
WAITS = """
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open("pids", "w") as file:
    file.write(f"{os.getpid()}\\n{child.pid}\\n")
time.sleep(600)
"""


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_fork_is_like_a_process_of_its_own(address: Path, programs: Programs) -> None:
    programs.write("""
        import atexit, hashlib, torch
        atexit.register(print, "registered")
        torch.manual_seed(7)
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 1, 3))
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(2, 3, 40, 40)).square().mean().backward()
            optimizer.step()
        weights = torch.cat([value.detach().flatten() for value in model.parameters()])
        print(hashlib.sha256(weights.numpy().tobytes()).hexdigest(), torch.get_num_threads())
        print(__name__, sys.argv[1:], os.getcwd(), os.environ["A_VARIABLE"], "OTHER" in os.environ)
        print("an error", file=sys.stderr)
        sys.exit(3)
    """)
    forked = programs.run(address, "a", "b c", A_VARIABLE="x y")
    assert forked == programs.run(None, "a", "b c", A_VARIABLE="x y")
    assert forked[0] == 3
    assert f"__main__ ['a', 'b c'] {programs.folder} x y False" in forked[1]
    assert forked[1].endswith("registered\n")


def test_the_libraries_are_there_and_the_project_is_imported_anew(address: Path, programs: Programs) -> None:
    programs.write(f"""
        before = set(sys.modules)
        import stages.run_job
        libraries = {{name.partition(".")[0] for name in {LIBRARIES!r}}}
        new = {{name.partition(".")[0] for name in set(sys.modules) - before}}
        print("pipeline.files" in before, new & libraries, {{"pipeline", "stages"}} <= new)
    """)
    assert programs.run(address)[1] == "False set() True\n"


def test_a_program_that_is_killed(address: Path, programs: Programs) -> None:
    programs.write("import signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert programs.run(address)[0] == -signal.SIGKILL
    programs.write("print('others go on')")
    assert programs.run(address)[:2] == (0, "others go on\n")


def test_an_error_has_its_traceback(address: Path, programs: Programs) -> None:
    programs.write("raise ValueError('what is wrong')")
    code, _, errors = programs.run(address)
    assert code == 1
    assert errors.endswith("ValueError: what is wrong\n")


def test_a_request_to_stop_is_passed_on(address: Path, programs: Programs) -> None:
    programs.write("""
        import signal
        def stop(number, frame):
            print("writes its checkpoint", flush=True)
            sys.exit(5)
        signal.signal(signal.SIGTERM, stop)
        print("ready", flush=True)
        time.sleep(600)
    """)
    process = programs.start(address)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.communicate(timeout=60)[0] == "writes its checkpoint\n"
    assert process.returncode == 5


def test_a_program_ends_with_its_launcher(address: Path, programs: Programs) -> None:
    programs.write(WAITS)
    process = programs.start(address)
    started = programs.pids(2)
    process.kill()
    process.communicate()
    wait_until(lambda: all(map(has_ended, started)))


@pytest.mark.parametrize("end", ["the server is killed", "the owner closes it"])
def test_programs_end_with_the_server(programs: Programs, end: str) -> None:
    programs.write(WAITS)
    before = set(psutil.Process().children())
    with ready_server() as address:
        (server,) = set(psutil.Process().children()) - before
        process = programs.start(address)
        started = programs.pids(2)
        if end == "the server is killed":
            server.kill()
            assert process.wait(60) == -signal.SIGKILL
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    wait_until(lambda: all(map(has_ended, started)))


def test_another_number_of_threads_needs_a_process_of_its_own(address: Path, programs: Programs) -> None:
    programs.write("import torch; print(torch.get_num_threads(), os.getppid())")
    process = programs.start(address, OMP_NUM_THREADS="2")
    output = process.communicate(timeout=60)[0]
    assert output == f"2 {os.getpid()}\n", "the launcher itself has run it"


def test_a_server_that_is_gone(programs: Programs) -> None:
    programs.write("print(os.getppid())")
    code, output, _ = programs.run(programs.folder / "nobody")
    assert (code, output) == (0, f"{os.getpid()}\n")
