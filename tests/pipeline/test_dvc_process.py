"""A stage whose DVC is killed ends, and what it has started in a session of its own goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

STAGE = """
import os, subprocess, sys, time
from pathlib import Path
from pipeline.files import atomic_folder
from pipeline.stage import run_stage

def main():
    name = sys.argv[1]
    if name == "stage":
        subprocess.Popen([sys.executable, __file__, "job"], start_new_session=True)
    with atomic_folder(Path(f"result-{name}")):
        Path(f"{name}.tmp").write_text(str(os.getpid()))
        Path(f"{name}.tmp").rename(f"{name}.pid")
        while not Path("end").exists():
            time.sleep(600 if name == "stage" else 0.05)

run_stage(main)
"""
SECONDS = 60


def wait_for(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A DVC project with a stage that sleeps, and that starts what stands for a job."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text(
        "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"
    )
    (tmp_path / "stage.py").write_text(STAGE)
    # A shell stays between DVC and the stage, as with a $SHELL that does not replace itself.
    (tmp_path / "dvc.yaml").write_text(f"stages: {{wait: {{cmd: '{sys.executable} stage.py stage; exit $?'}}}}\n")
    yield tmp_path
    (tmp_path / "end").touch()
    for file in tmp_path.glob("*.pid"):
        wait_for(lambda file=file: has_ended(int(file.read_text())), f"{file} is left behind")


# A shell makes the commands that it runs in the background ignore Ctrl-C, these tests among them.
REPRO = """
import signal, sys
from pipeline.dvc_process import repro
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(repro())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_runs_dvc_ends_with_it_and_its_stage(project: Path, number: int) -> None:
    # Ctrl-C goes to all processes of a terminal, SIGTERM to one of them.
    command = subprocess.Popen([sys.executable, "-c", REPRO], cwd=project, start_new_session=True)
    wait_for(lambda: (project / "stage.pid").exists() and (project / "job.pid").exists(), "the stage starts")
    if number == signal.SIGINT:
        os.killpg(command.pid, number)
    else:
        os.kill(command.pid, number)
    assert command.wait(SECONDS) != 0
    wait_for(lambda: has_ended(int((project / "stage.pid").read_text())), "the stage ends")
    assert not has_ended(int((project / "job.pid").read_text()))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stage_ends_quietly_with_its_dvc_and_the_job_goes_on(project: Path, number: int) -> None:
    with (project / "output").open("w") as output:
        dvc = subprocess.Popen(
            [Path(sys.executable).parent / "dvc", "repro"], cwd=project, stdout=output, stderr=output
        )
        wait_for(lambda: (project / "stage.pid").exists() and (project / "job.pid").exists(), "the stage starts")
        stage, job = (int((project / f"{name}.pid").read_text()) for name in ("stage", "job"))
        os.kill(dvc.pid, number)
        dvc.wait()
        wait_for(lambda: has_ended(stage), "the stage ends")
    assert not has_ended(job)
    said = (project / "output").read_text()
    assert "Traceback" not in said
    assert "error" not in said
    assert [path.name for path in project.iterdir() if "result-stage" in path.name] == []
    (project / "end").touch()
    wait_for((project / "result-job").is_dir, "the job's result")


def test_without_dvc_a_stage_ends_as_any_process(project: Path) -> None:
    # A parent that ends is no reason to end: whoever started it may have used nohup.
    starter = f"import subprocess, sys; subprocess.Popen([sys.executable, 'stage.py', 'stage'], cwd={str(project)!r})"
    subprocess.run([sys.executable, "-c", starter], check=True)
    wait_for((project / "stage.pid").exists, "the stage starts")
    stage = int((project / "stage.pid").read_text())
    time.sleep(2)
    assert not has_ended(stage)
    os.kill(stage, signal.SIGTERM)
    wait_for(lambda: has_ended(stage), "it ends")
