"""What a job of a run is told to do, and what its id holds. No Ray is needed."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mini_project import make_project

import stages.configure
import stages.run_job
from pipeline.cluster import requests
from pipeline.cluster.lookup import evaluation_of, training_of, weights_to_evaluate
from pipeline.cluster.needs import Needs, Resources
from pipeline.cluster.requests import run_request
from pipeline.cluster.submission import Request
from pipeline.errors import UserError
from pipeline.stage import Stage, original_project
from pipeline.training.record import WEIGHTS, TrainingRecord

NAME = "coco_pointrend_r50-0"


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that is configured, with made-up prepared data."""
    root = tmp_path_factory.mktemp("configured")
    make_project(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        stages.configure.main()
    prepared = root / "outputs/demo/data/shapes"
    prepared.mkdir(parents=True)
    for name in ("dataset.json", "train.parquet", "val.parquet"):
        (prepared / name).write_text(name)
    return root


@pytest.fixture
def root(configured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it, which is the working directory."""
    root = tmp_path / "project"
    shutil.copytree(configured, root, ignore=shutil.ignore_patterns("pipeline", "pointrend", "stages"))
    monkeypatch.chdir(root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return root


def request(*, train: bool = True, evaluate: bool = True) -> Request:
    return run_request(Stage(), NAME, train=train, evaluate=evaluate)


def options(found: Request) -> dict[str, str]:
    """The options of the job's command."""
    words = found.job.command
    assert words[:4] == [sys.executable, "-m", "pipeline.cluster.launch", "stages.run_job"]
    return dict(zip(words[4::2], words[5::2], strict=True))


def collect_training(root: Path, key: str) -> None:
    """Writes what `train` has collected: weights, and the record of a training of this key."""
    stage = Stage()
    folder = stage.outputs.trained(NAME)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_text("weights")
    TrainingRecord(
        run=NAME, key=key, mlflow_run_id="id", config=stage.run(NAME), data="data", code="code", parameters={}, tags={},
        started=1, ended=2, seconds=1.0, hardware="2 CPU threads",
    ).write(folder)  # fmt: skip
    assert TrainingRecord.read(folder).key == key


def use_cluster(root: Path, name: str) -> None:
    text = (root / "params.yaml").read_text()
    assert "cluster: laptop" in text
    (root / "params.yaml").write_text(text.replace("cluster: laptop", f"cluster: {name}"))


def test_a_run_that_is_stale_trains_and_evaluates(root: Path) -> None:
    stage, found = Stage(), request()
    training = training_of(stage, NAME)
    evaluation = evaluation_of(stage, NAME, training, training.key)
    assert evaluation is not None
    assert options(found) == {"--run": NAME, "--train": training.key, "--evaluate": evaluation.key}
    assert found.job.results == (f"train:{training.key}", f"evaluate:{evaluation.key}")
    assert found.job.folder == root
    assert found.job.needs == Needs(Resources(1, 0))
    assert found.name == NAME
    assert found.job.id.startswith(f"{NAME}-")
    assert not found.is_done()
    # Its evaluation begins with what it leaves, in one folder of its storage.
    assert evaluation.root == training.storage == root / ".pointrend" / "runs" / f"{NAME}-{training.key}"
    assert weights_to_evaluate(stage, NAME, evaluation) == training.weights
    training.storage.mkdir(parents=True)
    (training.storage / "train.json").touch()
    assert found.is_done(), "the stage waits for the training alone"


def test_what_is_not_asked_for_is_not_done(root: Path) -> None:
    collect_training(root, training_of(Stage(), NAME).key)
    assert options(request(evaluate=False)).keys() == {"--run", "--train"}
    evaluating = request(train=False)
    assert options(evaluating).keys() == {"--run", "--evaluate"}
    assert evaluating.work < request().work


def test_a_job_s_id_holds_what_it_makes(root: Path) -> None:
    collect_training(root, training_of(Stage(), NAME).key)
    both, train, evaluate = request(), request(evaluate=False), request(train=False)
    assert len({both.job.id, train.job.id, evaluate.job.id}) == 3
    assert request().job.id == both.job.id
    (root / "outputs/demo/data/shapes/train.parquet").write_text("other images")
    changed = request()
    assert changed.job.id != both.job.id
    assert not set(changed.job.results) & set(both.job.results)


@pytest.mark.parametrize(("kind", "part"), [("train", 0), ("evaluate", 1)])
def test_the_code_of_either_part_counts(root: Path, kind: str, part: int) -> None:
    before = request()
    file = root / f"outputs/demo/config/code/{kind}-instance.json"
    code = json.loads(file.read_text())
    code["libraries"]["torch"] = "0.0"
    file.write_text(json.dumps(code))
    after = request()
    assert after.job.id != before.job.id
    assert after.job.results[part] != before.job.results[part]
    # Weights that are learned anew are evaluated anew; not the other way round.
    assert (after.job.results[0] == before.job.results[0]) == (kind == "evaluate")


def test_a_job_s_id_holds_what_it_asks_for(root: Path) -> None:
    before = request()
    use_cluster(root, "two_cpu_workers")
    after = request()
    assert after.job.results == before.job.results
    assert after.job.needs.workers == 2
    assert after.job.id != before.job.id
    assert after.minimum_needs is None


def test_workers_whose_number_varies(root: Path) -> None:
    use_cluster(root, "spot_gpus")
    found = request()
    assert found.job.needs.workers == Stage().run(NAME).schedule.batch_size == 2, "a batch has no more parts"
    assert found.minimum_needs is not None
    assert found.minimum_needs == replace(found.job.needs, workers=1)


def test_after_a_commit_the_weights_that_are_there_are_evaluated(root: Path) -> None:
    """`dvc commit` says that an edit was harmless: the training has another key today, and its weights are kept."""
    stage = Stage()
    collect_training(root, "earlier")
    today = training_of(stage, NAME)
    assert today.key != "earlier"
    found = request(train=False)
    evaluation = evaluation_of(stage, NAME, today, "earlier")
    assert evaluation is not None
    assert options(found) == {"--run": NAME, "--evaluate": evaluation.key}
    assert evaluation.root == today.root / f"{NAME}-earlier"
    assert weights_to_evaluate(stage, NAME, evaluation) == root / "outputs/demo/train" / NAME / WEIGHTS
    # Of other weights it is another evaluation.
    collect_training(root, "another")
    assert options(request(train=False))["--evaluate"] != evaluation.key


def test_a_job_whose_inputs_have_changed_since_it_was_submitted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = request().job.command
    (root / "outputs/demo/data/shapes/train.parquet").write_text("other images")
    monkeypatch.setattr(sys, "argv", words[3:])
    with pytest.raises(UserError, match=f"the inputs of {NAME} have changed since this job was submitted"):
        stages.run_job.main()


def test_a_workspace_of_dvc_shares_what_is_under_way(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = request()
    workspace = root / ".dvc" / "tmp" / "exps" / "tmpabc"
    shutil.copytree(root, workspace, ignore=shutil.ignore_patterns(".dvc"))
    assert original_project(workspace) == original_project(workspace / "outputs") == root
    monkeypatch.chdir(workspace)
    assert Stage().home == root
    found = request()
    assert found.job.id == own.job.id
    assert found.job.folder == workspace, "its files are there"
    assert training_of(Stage(), NAME).root == root / ".pointrend" / "runs"


# What else of the running DVC command is ready

OTHER = "coco_4xconv_r50-0"


@pytest.fixture
def dvc_says(monkeypatch: pytest.MonkeyPatch) -> Callable[[set[str] | None, set[str]], None]:
    """``dvc_says(stages under way, stale stages)``."""

    def say(under_way: set[str] | None, stale: set[str]) -> None:
        monkeypatch.setattr(requests, "stages_under_way", lambda: under_way)
        monkeypatch.setattr(requests, "stages_to_run", lambda root, names: [each for each in names if each in stale])

    return say


def ready(current: str) -> list[str]:
    return [found.name for found in requests.ready_requests(Stage(), current)]


def test_what_dvc_will_run_and_has_its_data_is_ready(root: Path, dvc_says) -> None:
    trainings = {f"train@{NAME}", f"train@{OTHER}"}
    dvc_says(trainings, trainings)
    assert ready(f"train@{NAME}") == [OTHER]
    dvc_says(trainings, {f"train@{NAME}"})
    assert ready(f"train@{NAME}") == [], "the other one is current"
    dvc_says({f"train@{NAME}"}, trainings)
    assert ready(f"train@{NAME}") == [], "the other one is no target"


def test_a_training_s_job_evaluates_too_where_dvc_will(root: Path, dvc_says) -> None:
    """Even if the evaluation is not stale yet: only the weights to come make it so."""
    for under_way, expected in (
        ({f"train@{OTHER}", f"evaluate@{OTHER}"}, {"--run", "--train", "--evaluate"}),
        ({f"train@{OTHER}"}, {"--run", "--train"}),
    ):
        dvc_says(under_way, {f"train@{OTHER}"})
        (found,) = requests.ready_requests(Stage(), f"train@{NAME}")
        assert options(found).keys() == expected


def test_a_run_whose_dataset_is_not_prepared_yet_is_not_ready(root: Path, dvc_says) -> None:
    both = {f"train@{NAME}", f"train@{OTHER}"}
    dvc_says(both | {"prepare@shapes"}, both | {"prepare@shapes"})
    assert ready(f"train@{NAME}") == [], "it is prepared, but not from today's files"
    dvc_says(both, both)
    shutil.rmtree(root / "outputs/demo/data/shapes")
    assert ready("sweep@some") == []


def test_outside_of_dvc_nothing_else_is_ready(root: Path, dvc_says) -> None:
    dvc_says(None, {f"train@{NAME}", f"train@{OTHER}"})
    assert ready("sweep@some") == []
