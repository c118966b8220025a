"""Metrics reach MLflow completely and once, whatever happens to the server, the database or the training."""

import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow_server import MlflowServer

from pipeline.cluster.run_job import finish, mark_unfinished
from pipeline.tracking import sender as metric_sender
from pipeline.tracking.client import Tracker, TrackingError
from pipeline.tracking.runs import RunRecord, log_run, send_missing
from pipeline.tracking.sender import MetricSender
from pipeline.training.loop import Update
from pipeline.training.metrics_file import MetricsFile
from pipeline.training.record import METRICS
from pipeline.training.run import InterruptedTrainingError
from pipeline.training.run_log import RunLog

RECORD = RunRecord("key", "my run", {}, {}, 1_700_000_000_000)
NAMES = {"loss_mask", "loss", "learning_rate", "gradient_norm", "updates_per_second"}


def update(number: int) -> Update:
    return Update(number, {"loss_mask": 1 / number}, 0.01, 2.0, 0.05, (7,))


@contextmanager
def logging(file: MetricsFile, uri: str, tracker: Tracker, run_id: str) -> Iterator[RunLog]:
    """A training's log and sender, as a worker has them."""
    with MetricSender(file, uri, tracker.experiment, run_id) as sender:
        yield RunLog(file, sender.notify)


@pytest.fixture
def file(tmp_path: Path) -> MetricsFile:
    return MetricsFile(tmp_path / "storage" / METRICS)


# The server. The tests below share one, and each has an experiment of its own.


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def server(shared: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> MlflowServer:
    """The server, with clients that notice sooner that it is gone."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(metric_sender, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(metric_sender, "LONGEST_PAUSE_SECONDS", 1.0)
    return shared


@pytest.fixture
def tracker(server: MlflowServer) -> Tracker:
    return Tracker(server.uri, f"experiment-{uuid4()}")


@pytest.fixture
def nowhere() -> str:
    """The address of a server that is down."""
    return MlflowServer(Path()).uri


def logged(uri: str, run_id: str) -> dict[str, list[int]]:
    """The steps of every metric, as often as MLflow has them."""
    client = MlflowClient(uri)
    metrics = client.get_run(run_id).data.metrics
    return {name: sorted(entry.step for entry in client.get_metric_history(run_id, name)) for name in metrics}


def logged_so_far(uri: str, run_id: str) -> dict[str, list[int]] | None:
    """None from a server that works off what it missed, and on a busy machine resets connections meanwhile."""
    try:
        return logged(uri, run_id)
    except MlflowException:
        return None


def once(updates: int) -> dict[str, list[int]]:
    return {name: list(range(10, updates + 1, 10)) for name in NAMES}


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def test_a_server_killed_and_restarted_in_mid_run(
    server: MlflowServer, tracker: Tracker, file: MetricsFile, capfd: pytest.CaptureFixture[str]
) -> None:
    run_id = log_run(tracker, RECORD)
    with logging(file, server.uri, tracker, run_id) as log:
        for number in range(1, 101):
            log.add(update(number))
        wait_for(lambda: logged(server.uri, run_id) == once(100))
        server.kill()
        for number in range(101, 1001):
            log.add(update(number))
        assert file.last_step() == 1000, "the training went on"
        said = ""
        while "does not take metrics" not in said:
            said += capfd.readouterr().out
            time.sleep(0.05)
        time.sleep(1)
        server.start()
        for number in range(1001, 1101):
            log.add(update(number))
        wait_for(lambda: logged(server.uri, run_id) == once(1100))
    assert logged(server.uri, run_id) == once(1100)
    said += capfd.readouterr().out
    assert said.count("does not take metrics") == 1, said
    assert said.count("takes metrics again") == 1, said
    assert server.uri in said
    assert str(file.path) in said


def test_a_server_that_answers_late_gets_everything_once(
    server: MlflowServer, tracker: Tracker, file: MetricsFile
) -> None:
    run_id = log_run(tracker, RECORD)
    with logging(file, server.uri, tracker, run_id) as log:
        server.signal(signal.SIGSTOP)
        try:
            for number in range(1, 201):
                log.add(update(number))
            assert file.last_step() == 200, "the training went on"
            # Requests time out here, and all of them are answered in the end.
            time.sleep(4)
        finally:
            server.signal(signal.SIGCONT)
        wait_for(lambda: logged_so_far(server.uri, run_id) == once(200))
    wait_for(lambda: logged(server.uri, run_id) == once(200))


TRAINING = """
import os, signal, sys
from pathlib import Path
from pipeline.tracking.sender import MetricSender
from pipeline.training.loop import Update
from pipeline.training.metrics_file import MetricsFile
from pipeline.training.run_log import RunLog

file, uri = sys.argv[1:]
log = RunLog(MetricsFile(Path(file)), MetricSender(MetricsFile(Path(file)), uri, "experiment", "run").notify)
for number in range(1, 51):
    log.add(Update(number, {"loss_mask": 1 / number}, 0.01, 2.0, 0.05, (7,)))
with open(file, "a") as stream:
    stream.write('{"step": 60, "ti')
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_training_killed_before_it_could_send_and_resumed_from_a_checkpoint(
    server: MlflowServer, tracker: Tracker, file: MetricsFile, nowhere: str, repository: Path
) -> None:
    command = [sys.executable, "-c", TRAINING, str(file.path), nowhere]
    killed = subprocess.run(command, cwd=repository, check=False)
    assert killed.returncode == -signal.SIGKILL
    run_id = log_run(tracker, RECORD)
    with logging(file, server.uri, tracker, run_id) as log:
        for number in range(31, 101):
            log.add(update(number))
    send_missing(tracker, run_id, file.entries())
    assert logged(server.uri, run_id) == once(100)


def test_entries_that_are_sent_again_are_there_once(server: MlflowServer, tracker: Tracker, file: MetricsFile) -> None:
    run_id = log_run(tracker, RECORD)
    with logging(file, server.uri, tracker, run_id) as log:
        for number in range(1, 101):
            log.add(update(number))
    assert logged(server.uri, run_id) == once(100)
    # Another process sends everything that is missing, and is sent everything again.
    send_missing(tracker, run_id, file.entries())
    tracker.send_metrics(run_id, file.entries())
    assert logged(server.uri, run_id) == once(100)


def test_steps_that_mlflow_has_of_a_file_that_is_gone_are_not_logged_again(
    server: MlflowServer, tracker: Tracker, file: MetricsFile
) -> None:
    run_id = log_run(tracker, RECORD)
    for last in (50, 100):
        file.restore(tracker.entries(run_id))
        with logging(file, server.uri, tracker, run_id) as log:
            for number in range(1, last + 1):
                log.add(update(number))
        shutil.rmtree(file.path.parent)
        assert logged(server.uri, run_id) == once(last)


# The end of a training


def test_a_server_that_is_down_at_the_end_loses_nothing(
    server: MlflowServer, tracker: Tracker, file: MetricsFile, nowhere: str
) -> None:
    run_id = log_run(tracker, RECORD)
    storage = file.path.parent
    with logging(file, nowhere, tracker, run_id) as log:
        for number in range(1, 101):
            log.add(update(number))
    down = tracker.with_patience(0.2)
    down.client = MlflowClient(nowhere)
    with pytest.raises(TrackingError) as caught:
        finish(storage, down, replace(RECORD, run_id=run_id))
    for part in ("run my run: the training is complete and nothing is lost", str(storage), "without training again"):
        assert part in str(caught.value)
    assert finish(storage, tracker, replace(RECORD, run_id=run_id)).run_id == run_id
    assert logged(server.uri, run_id) == once(100)
    assert MlflowClient(server.uri).get_run(run_id).info.status == "FINISHED"


def test_a_run_that_mlflow_lost_in_the_middle_is_there_in_the_end(
    server: MlflowServer, tracker: Tracker, file: MetricsFile, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = log_run(tracker, RECORD)
    with logging(file, server.uri, tracker, lost) as log:
        for number in range(1, 101):
            log.add(update(number))
            if number == 50:
                tracker.delete(lost)
    again = finish(file.path.parent, tracker, replace(RECORD, run_id=lost)).run_id
    assert again not in (None, lost)
    assert logged(server.uri, again) == once(100)
    assert finish(file.path.parent, tracker, replace(RECORD, run_id=lost)).run_id == again


def test_ctrl_c_while_a_finished_training_waits(tracker: Tracker, file: MetricsFile) -> None:
    file.append(10, {"loss": 1.0})

    class Interrupted(Tracker):
        def find(self, run_id: str) -> None:
            raise KeyboardInterrupt

    tracker.__class__ = Interrupted
    with pytest.raises(InterruptedTrainingError, match="the training is complete and nothing is lost"):
        finish(file.path.parent, tracker, replace(RECORD, run_id="run"))


def test_a_run_that_cannot_be_marked_hides_no_other_error(
    tracker: Tracker, nowhere: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.cluster.run_job.UNFINISHED_SECONDS", 0.4)
    tracker.client = MlflowClient(nowhere)
    mark_unfinished(tracker, ["run"], "KILLED")
    assert "still counts as running" in capsys.readouterr().out


def test_a_server_that_hangs_does_not_hold_up_ctrl_c(
    server: MlflowServer, tracker: Tracker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.cluster.run_job.UNFINISHED_SECONDS", 0.4)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    run_id = log_run(tracker, RECORD)
    server.signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        mark_unfinished(tracker, [run_id], "KILLED")
        assert time.monotonic() - begun < 20
    finally:
        server.signal(signal.SIGCONT)
    assert f"{server.uri} (no answer)" in capsys.readouterr().out


# The database

PROCESSES, ENTRIES = 6, 150
CROWD = f"""
import os, sys, traceback
from dataclasses import replace
from pathlib import Path
from pipeline.tracking.client import Tracker
from pipeline.tracking.runs import RunRecord, log_run
from pipeline.tracking.sender import MetricSender
from pipeline.training.loop import Update
from pipeline.cluster.run_job import finish
from pipeline.training.metrics_file import MetricsFile
from pipeline.training.run_log import RunLog

uri, folder = sys.argv[1], Path(sys.argv[2])
children = []
for index in range({PROCESSES}):  # forked before any of them has a connection
    children.append(os.fork())
    if children[-1] == 0:
        status = 1
        try:
            tracker = Tracker(uri, "experiment", patience=120)
            record = RunRecord(f"key-{{index}}", f"run-{{index}}", {{"seed": str(index)}}, {{}}, 0)
            run_id = log_run(tracker, record)
            file = MetricsFile(folder / str(index) / "metrics.jsonl")
            with MetricSender(file, uri, "experiment", run_id) as sender:
                log = RunLog(file, sender.notify)
                for number in range(1, 10 * {ENTRIES} + 1):
                    log.add(Update(number, {{"loss_mask": 1 / number}}, 0.01, 2.0, 0.05, (7,)))
            finish(folder / str(index), tracker, replace(record, run_id=run_id))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def test_many_runs_at_once_on_one_sqlite_file_lose_nothing(tmp_path: Path, repository: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    command = [sys.executable, "-c", CROWD, uri, str(tmp_path)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("experiment").experiment_id])
    assert Counter(run.info.run_name for run in runs) == {f"run-{index}": 1 for index in range(PROCESSES)}
    for run in runs:
        assert run.info.status == "FINISHED"
        assert run.data.params == {"seed": run.info.run_name.removeprefix("run-")}
        assert logged(uri, run.info.run_id) == once(10 * ENTRIES)
