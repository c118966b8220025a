"""Metrics reach MLflow completely and once, whatever happens to the server, the database or the training."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow_server import MlflowServer
from pipeline.cluster.run import finish, mark_unfinished

from pipeline.tracking.client import Tracker, TrackingError
from pipeline.tracking.run_log import RunLog
from pipeline.tracking.spool import MetricSpool, MetricSpoolError, send
from pipeline.training import metric_spool
from pipeline.training.loop import Update
from pipeline.training.record import METRICS
from pipeline.training.run import InterruptedTrainingError

NAMES = {"loss_mask", "loss", "learning_rate", "gradient_norm", "updates_per_second"}


def update(number: int) -> Update:
    return Update(number, {"loss_mask": 1 / number}, 0.01, 2.0, 0.05, (7,))


def steps(spool: MetricSpool, run_id: str = "run") -> list[int]:
    return [entry.step for entries, _ in spool.batches(run_id) for entry in entries]


@pytest.fixture
def spool(tmp_path: Path) -> MetricSpool:
    return MetricSpool(tmp_path / "storage" / METRICS)


# The file


def test_what_is_spooled_is_read_again_in_order(spool: MetricSpool) -> None:
    before = int(time.time() * 1000)
    spool.append(10, {"loss": 0.1, "learning_rate": 1e-17})
    spool.append(20, {"loss": math.nan})
    ((entries, end),) = spool.batches("run")
    assert [(e.key, e.step) for e in entries] == [("loss", 10), ("learning_rate", 10), ("loss", 20)]
    assert [e.value for e in entries[:2]] == [0.1, 1e-17]
    assert math.isnan(entries[2].value)
    assert before <= entries[0].timestamp <= entries[2].timestamp <= time.time() * 1000
    assert end == spool.file.stat().st_size
    assert [e.timestamp for e in next(spool.batches("run"))[0]] == [e.timestamp for e in entries]


def test_an_empty_spool(spool: MetricSpool) -> None:
    assert spool.last_step() == 0
    assert steps(spool) == []


def test_only_what_was_not_sent_is_left(spool: MetricSpool) -> None:
    spool.append(10, {"loss": 0.1})
    ((_, end),) = spool.batches("run")
    spool.mark_sent("run", end)
    assert steps(spool) == []
    spool.append(20, {"loss": 0.2})
    assert steps(MetricSpool(spool.file)) == [20]
    assert spool.last_step() == 20


def test_another_mlflow_run_gets_everything(spool: MetricSpool) -> None:
    spool.append(10, {"loss": 0.1})
    spool.mark_sent("run", spool.file.stat().st_size)
    assert steps(spool, "another") == [10]


@pytest.mark.parametrize("damage", ["{", "[]", '{"run_id": "run", "bytes": 999}'])
def test_where_it_cannot_be_told_what_was_sent_all_is(spool: MetricSpool, damage: str) -> None:
    spool.append(10, {"loss": 0.1})
    spool.mark_sent("run", spool.file.stat().st_size)
    (spool.file.parent / "metrics.sent.json").write_text(damage)
    assert steps(spool) == [10]


@pytest.mark.parametrize("kept", [0, 1, 20, -1])
def test_a_line_that_a_killed_process_left_unfinished_is_dropped(spool: MetricSpool, kept: int) -> None:
    for step in (10, 20, 30):
        spool.append(step, {"loss": 0.1})
    lines = spool.file.read_bytes().splitlines(keepends=True)
    spool.file.write_bytes(b"".join(lines[:2]) + lines[2][:kept])
    assert steps(spool) == [10, 20]
    assert spool.last_step() == 20
    spool.append(30, {"loss": 0.3})
    assert steps(spool) == [10, 20, 30]


def test_an_unfinished_line_alone(spool: MetricSpool) -> None:
    spool.append(10, {"loss": 0.1})
    spool.file.write_bytes(spool.file.read_bytes()[:5])
    spool.append(20, {"loss": 0.3})
    assert steps(spool) == [20]


def test_batches_are_what_a_request_takes_and_steps_stay_whole(spool: MetricSpool) -> None:
    for step in range(1, 8):
        spool.append(step, {f"metric{i}": 0.0 for i in range(400)})
    batches = list(spool.batches("run"))
    assert [sorted({entry.step for entry in entries}) for entries, _ in batches] == [[1, 2], [3, 4], [5, 6], [7]]
    spool.mark_sent("run", batches[1][1])
    assert sorted(set(steps(spool))) == [5, 6, 7]


@pytest.mark.parametrize("damage", ["no JSON", "[]", '{"step": 10}'])
def test_a_damaged_line_is_named(spool: MetricSpool, damage: str) -> None:
    spool.append(10, {"loss": 0.1})
    size = spool.file.stat().st_size
    with spool.file.open("a") as stream:
        stream.write(damage + "\n")
    with pytest.raises(MetricSpoolError, match=rf"{spool.file}: the line at byte {size} is damaged; delete it"):
        steps(spool)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "storage").write_text("a file where the folder should be")
    with pytest.raises(MetricSpoolError, match=r"storage/metrics\.jsonl: .*free some space and run `dvc repro` again"):
        MetricSpool(tmp_path / "storage" / METRICS).append(10, {"loss": 0.1})


def test_all_that_was_ever_spooled(spool: MetricSpool) -> None:
    with pytest.raises(MetricSpoolError, match=rf"{spool.file}: missing"):
        spool.entries()
    spool.append(10, {"loss": 0.1})
    spool.mark_sent("run", spool.file.stat().st_size)
    spool.append(20, {"loss": 0.2, "learning_rate": 0.02})
    found = [(entry.step, entry.key, entry.value) for entry in spool.entries()]
    assert found == [(10, "loss", 0.1), (20, "loss", 0.2), (20, "learning_rate", 0.02)]


def test_a_lost_spool_is_restored_from_what_the_run_has(spool: MetricSpool) -> None:
    # As MLflow gives them: metric by metric.
    logged = [Metric("loss", 0.5, 1000, 10), Metric("loss", 1 / 3, 2000, 20), Metric("rate", math.inf, 1000, 10)]
    spool.restore("run", logged)
    assert [json.loads(line) for line in spool.file.read_text().splitlines()] == [
        {"step": 10, "time": 1000, "metrics": {"loss": 0.5, "rate": math.inf}},
        {"step": 20, "time": 2000, "metrics": {"loss": 1 / 3}},
    ]
    assert steps(spool) == []
    spool.append(30, {"loss": 0.25})
    assert steps(spool) == [30]
    assert steps(spool, "another") == [10, 10, 20, 30]


def test_a_spool_of_a_run_without_metrics_is_empty(spool: MetricSpool) -> None:
    spool.restore("run", [])
    assert spool.entries() == []


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
    monkeypatch.setattr(metric_spool, "SENDER_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(metric_spool, "LONGEST_PAUSE_SECONDS", 1.0)
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


def once(updates: int) -> dict[str, list[int]]:
    return {name: list(range(10, updates + 1, 10)) for name in NAMES}


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def test_a_server_killed_and_restarted_in_mid_run(
    server: MlflowServer, tracker: Tracker, spool: MetricSpool, capfd: pytest.CaptureFixture[str]
) -> None:
    run_id = tracker.start("key", "my run", {}, {})
    with RunLog(spool.file, server.uri, tracker.experiment, run_id, 0) as log:
        for number in range(1, 101):
            log.add(update(number))
        wait_for(lambda: logged(server.uri, run_id) == once(100))
        server.kill()
        for number in range(101, 1001):
            log.add(update(number))
        assert spool.last_step() == 1000, "the training went on"
        said = ""
        while "does not take metrics" not in said:
            said += capfd.readouterr().out
            time.sleep(0.05)
        time.sleep(1)
        server.start()
        for number in range(1001, 1101):
            log.add(update(number))
        wait_for(lambda: steps(spool, run_id) == [])
    assert logged(server.uri, run_id) == once(1100)
    said += capfd.readouterr().out
    assert said.count("does not take metrics") == 1, said
    assert said.count("takes metrics again") == 1, said
    assert server.uri in said
    assert str(spool.file) in said


def test_a_server_that_answers_late_gets_everything_once(
    server: MlflowServer, tracker: Tracker, spool: MetricSpool
) -> None:
    run_id = tracker.start("key", "my run", {}, {})
    with RunLog(spool.file, server.uri, tracker.experiment, run_id, 0) as log:
        server.signal(signal.SIGSTOP)
        try:
            for number in range(1, 201):
                log.add(update(number))
            assert spool.last_step() == 200, "the training went on"
            # Requests time out here, and all of them are answered in the end.
            time.sleep(4)
        finally:
            server.signal(signal.SIGCONT)
        wait_for(lambda: steps(spool, run_id) == [])
    wait_for(lambda: logged(server.uri, run_id) == once(200))


TRAINING = """
import os, signal, sys
from pathlib import Path
from pipeline.training.loop import Update
from pipeline.tracking.run_log import RunLog

file, uri = sys.argv[1:]
log = RunLog(Path(file), uri, "experiment", "run", 0)
for number in range(1, 51):
    log.add(Update(number, {"loss_mask": 1 / number}, 0.01, 2.0, 0.05, (7,)))
with open(file, "a") as stream:
    stream.write('{"step": 60, "ti')
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_training_killed_before_it_could_send_and_resumed_from_a_checkpoint(
    server: MlflowServer, tracker: Tracker, spool: MetricSpool, nowhere: str, repository: Path
) -> None:
    command = [sys.executable, "-c", TRAINING, str(spool.file), nowhere]
    killed = subprocess.run(command, cwd=repository, check=False)
    assert killed.returncode == -signal.SIGKILL
    run_id = tracker.start("key", "my run", {}, {})
    with RunLog(spool.file, server.uri, tracker.experiment, run_id, 0) as log:
        for number in range(31, 101):
            log.add(update(number))
    send(spool, tracker, run_id)
    assert logged(server.uri, run_id) == once(100)


def test_a_training_killed_before_it_could_note_what_it_sent(
    server: MlflowServer, tracker: Tracker, spool: MetricSpool
) -> None:
    run_id = tracker.start("key", "my run", {}, {})
    with RunLog(spool.file, server.uri, tracker.experiment, run_id, 0) as log:
        for number in range(1, 101):
            log.add(update(number))
    assert logged(server.uri, run_id) == once(100)
    (spool.file.parent / "metrics.sent.json").unlink()
    send(spool, tracker, run_id)
    assert logged(server.uri, run_id) == once(100)


def test_steps_that_mlflow_has_of_a_spool_that_is_gone_are_not_logged_again(
    server: MlflowServer, tracker: Tracker, spool: MetricSpool
) -> None:
    run_id = tracker.start("key", "my run", {}, {})
    for last, known in ((50, 0), (100, 50)):
        with RunLog(spool.file, server.uri, tracker.experiment, run_id, known) as log:
            for number in range(1, last + 1):
                log.add(update(number))
        shutil.rmtree(spool.file.parent)
        assert tracker.last_step(run_id, "loss") == last
    assert logged(server.uri, run_id) == once(100)


# The end of a training


def test_a_server_that_is_down_at_the_end_loses_nothing(
    server: MlflowServer, tracker: Tracker, spool: MetricSpool, nowhere: str
) -> None:
    run_id = tracker.start("key", "my run", {}, {})
    storage = spool.file.parent
    with RunLog(spool.file, nowhere, tracker.experiment, run_id, 0) as log:
        for number in range(1, 101):
            log.add(update(number))
    down = tracker.with_patience(0.2)
    down._client = MlflowClient(nowhere)
    with pytest.raises(TrackingError) as caught:
        finish("my run", storage, down, run_id)
    for part in ("run my run: the training is complete and nothing is lost", str(storage), "without training again"):
        assert part in str(caught.value)
    finish("my run", storage, tracker, run_id)
    assert logged(server.uri, run_id) == once(100)
    assert MlflowClient(server.uri).get_run(run_id).info.status == "FINISHED"


def test_ctrl_c_while_a_finished_training_waits(tracker: Tracker, spool: MetricSpool) -> None:
    class Interrupted(Tracker):
        def finish(self, run_id: str, status: str) -> None:
            raise KeyboardInterrupt

    tracker.__class__ = Interrupted
    with pytest.raises(InterruptedTrainingError, match="the training is complete and nothing is lost"):
        finish("my run", spool.file.parent, tracker, "run")


def test_a_run_that_cannot_be_marked_hides_no_other_error(
    tracker: Tracker, nowhere: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.cluster.run.UNFINISHED_SECONDS", 0.4)
    tracker._client = MlflowClient(nowhere)
    mark_unfinished(tracker, ["run"], "KILLED")
    assert "still counts as running" in capsys.readouterr().out


def test_a_server_that_hangs_does_not_hold_up_ctrl_c(
    server: MlflowServer, tracker: Tracker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.cluster.run.UNFINISHED_SECONDS", 0.4)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    run_id = tracker.start("key", "my run", {}, {})
    server.signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        mark_unfinished(tracker, [run_id], "KILLED")
        assert time.monotonic() - begun < 20
    finally:
        server.signal(signal.SIGCONT)
    assert f"{server.uri} (no answer)" in capsys.readouterr().out


# The database

PROCESSES, ENTRIES = 8, 200
CROWD = f"""
import os, sys, traceback
from pathlib import Path
from pipeline.tracking.client import Tracker
from pipeline.training.loop import Update
from pipeline.cluster.run import finish
from pipeline.tracking.run_log import RunLog

uri, folder = sys.argv[1], Path(sys.argv[2])
children = []
for index in range({PROCESSES}):  # forked before any of them has a connection
    children.append(os.fork())
    if children[-1] == 0:
        status = 1
        try:
            tracker = Tracker(uri, "experiment", patience=120)
            run_id = tracker.start(f"key-{{index}}", f"run-{{index}}", {{"seed": str(index)}}, {{}})
            with RunLog(folder / str(index) / "metrics.jsonl", uri, "experiment", run_id, 0) as log:
                for number in range(1, 10 * {ENTRIES} + 1):
                    log.add(Update(number, {{"loss_mask": 1 / number}}, 0.01, 2.0, 0.05, (7,)))
            finish(f"run-{{index}}", folder / str(index), tracker, run_id)
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
        record = json.loads((tmp_path / run.data.params["seed"] / "metrics.sent.json").read_text())
        assert record["run_id"] == run.info.run_id
