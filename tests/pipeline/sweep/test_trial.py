"""One trial, without Ray: it goes on exactly where it was, and is not done twice."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.config.clusters import ClusterConfig
from pipeline.config.project import Project
from pipeline.config.schedules import Phase, ScheduleConfig, Warmup
from pipeline.config.selection import SelectedRun
from pipeline.config.sweep_tasks import TrainingTask, resolve_sweep
from pipeline.data.prepare import expected_images, prepare
from pipeline.data.storage import Storage
from pipeline.progress import progress
from pipeline.sweep import trial as trial_module
from pipeline.sweep.records import TrialRecords
from pipeline.sweep.trial import UPDATE, SweepError, Trials, run_trial
from pipeline.synthetic import ShapesSpec, generate_shapes
from pipeline.tracking.client import Tracker
from pipeline.tracking.runs import RunRecord, log_run
from pipeline.training.model import build_run_model
from pointrend import save_weights

POINT = {"oversample_ratio": 3.0, "importance_sample_ratio": 0.75}
SCHEDULE = ScheduleConfig(
    batch_size=2,
    warmup=Warmup(updates=1, learning_rate=0.001),
    phases=[Phase(updates=6, learning_rate=0.01)],
    checkpoint_every=2,
)


@pytest.fixture(scope="module")
def task(chain: Project) -> TrainingTask:
    """The demo's sweep on small images, with rungs after 3 updates and 6."""
    runs = {
        "coco_pointrend_r50-0": SelectedRun(
            task="instance",
            dataset="shapes",
            experiment="coco_pointrend_r50",
            seed=0,
            starts_from="train/shapes_detector-0",
        )
    }
    file = chain.configs / "sweeps/demo/oversampling_importance.yaml"
    found, _ = resolve_sweep(chain, "demo", file, runs)
    assert isinstance(found, TrainingTask)
    assert found.early_stopping is not None
    sizes = {"train_min_sizes": [64], "test_min_size": 64, "max_size": 96}
    base = found.base.model_copy(
        update={"schedule": SCHEDULE, "model": found.base.model.model_copy(update=sizes)},
    )
    early = found.early_stopping.model_copy(update={"grace": 3})
    return found.model_copy(update={"base": base, "early_stopping": early})


@pytest.fixture(scope="module")
def prepared(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trial")
    spec = ShapesSpec(train_images=8, val_images=3, image_size=64, max_objects=2, polygon_tolerance=1.0, seed=0)
    generate_shapes(spec, root / "shapes")
    dataset = Project(repository).dataset("shapes")
    bar = progress("check", expected_images(dataset))
    prepare(dataset, str(root), root / "prepared", root / "known.parquet", bar)
    return root / "prepared"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def trials(task: TrainingTask, prepared: Path, database: str, tmp_path: Path) -> Trials:
    tracker = Tracker(database, "trials")
    return Trials(
        task=task,
        prepared=prepared,
        val_prepared=prepared,
        images=Storage(str(prepared.parent / "shapes")),
        weights=None,
        records=TrialRecords(tmp_path / "records"),
        cluster=ClusterConfig(workers=0),
        tracking=(tracker.uri, tracker.experiment),
        parent=log_run(tracker, RunRecord(str(tmp_path), "parent", {}, {}, started=0)),
        key=str(tmp_path),
        tags={},
    )


def state(trials: Trials) -> dict[str, Tensor]:
    (newest,) = trials.records.trial_folder(POINT).glob("checkpoints/update-*6.pt")
    return torch.load(newest, weights_only=True)["model"]


class StoppedError(Exception):
    """What ends a trial from outside."""


def stop_at(update: int) -> Callable[[dict[str, float]], None]:
    def report(metrics: dict[str, float]) -> None:
        if metrics[UPDATE] == update:
            raise StoppedError

    return report


def test_an_interrupted_trial_ends_as_one_that_was_not(
    trials: Trials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[float] = []
    run_trial(trials, POINT, lambda metrics: reports.append(metrics[UPDATE]))
    assert reports == [3, 6]
    whole = trials.records.read(POINT)
    assert whole is not None
    assert whole.status == "finished"
    assert whole.seconds is not None
    assert whole.multiply_adds is not None

    other = replace(trials, records=TrialRecords(tmp_path / "other"), key="other")
    with pytest.raises(StoppedError):
        run_trial(other, POINT, stop_at(3))
    halfway = other.records.read(POINT)
    assert halfway is not None
    assert (halfway.status, halfway.updates) == ("running", 3)
    again: list[float] = []
    run_trial(other, POINT, lambda metrics: again.append(metrics[UPDATE]))
    assert again == [3, 6], "what is behind it is reported again"
    resumed = other.records.read(POINT)
    assert resumed is not None
    assert resumed.mlflow_run_id == halfway.mlflow_run_id
    assert resumed.rungs == whole.rungs
    assert all((state(trials)[name] == value).all() for name, value in state(other).items())
    history = Tracker(*other.tracking).history(resumed.mlflow_run_id, "AP")
    assert [step for step, _ in history] == [3, 6]

    # Done, it only reports.
    monkeypatch.setattr(trial_module, "_Training", None)
    run_trial(other, POINT, lambda metrics: again.append(metrics[UPDATE]))
    assert again == [3, 6, 3, 6]


def test_a_rung_that_was_not_scored_is_scored_from_its_checkpoint(trials: Trials) -> None:
    with pytest.raises(StoppedError):
        run_trial(trials, POINT, stop_at(3))
    record = trials.records.read(POINT)
    assert record is not None
    trials.records.write(replace(record, rungs=[]))
    with pytest.raises(StoppedError):
        run_trial(trials, POINT, stop_at(3))
    assert trials.records.read(POINT) == record


def test_a_trial_that_diverges_has_the_lowest_score_and_ends(trials: Trials) -> None:
    phases = [Phase(updates=6, learning_rate=1e12)]
    base = trials.task.base.model_copy(update={"schedule": SCHEDULE.model_copy(update={"phases": phases})})
    wild = replace(trials, task=trials.task.model_copy(update={"base": base}))
    reports: list[dict[str, float]] = []
    run_trial(wild, POINT, reports.append)
    assert reports[-1] == {"AP": 0.0, UPDATE: 6}
    record = wild.records.read(POINT)
    assert record is not None
    assert record.status == "diverged"
    assert record.metrics == {}


def test_an_unknown_metric_is_an_error_that_names_the_others(trials: Trials) -> None:
    wrong = replace(trials, task=trials.task.model_copy(update={"metric": "APx"}))
    with pytest.raises(SweepError, match=r"'APx' is not a metric of this dataset; choose from AP, AP50"):
        run_trial(wrong, POINT, lambda metrics: None)


def test_a_trial_starts_from_weights_with_a_point_head_of_its_own(
    trials: Trials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "model.safetensors"
    torch.manual_seed(5)
    model = build_run_model(trials.task.base, 5, pretrained=False)
    save_weights(model, weights)
    deeper = POINT | {"point_layers": 4, "point_channels": 16}
    seen: dict[str, Tensor] = {}

    class Spy(trial_module._Training):
        def run(self) -> None:
            seen.update({name: value.clone() for name, value in self.model.state_dict().items()})

    with monkeypatch.context() as patched:
        patched.setattr(trial_module, "_Training", Spy)
        run_trial(replace(trials, weights=weights), deeper, lambda metrics: None)
    own = model.state_dict()
    heads = {name for name in seen if name.startswith("mask_head.point_head.")}
    assert all((seen[name] == own[name]).all() for name in seen.keys() - heads)
    assert seen["mask_head.point_head.layers.3.weight"].shape[0] == 16
    save_weights(torch.nn.Linear(2, 2), tmp_path / "other.safetensors")
    with pytest.raises(SweepError, match="not this model's weights"):
        run_trial(replace(trials, weights=tmp_path / "other.safetensors"), POINT, lambda metrics: None)


def test_a_trial_keeps_frozen_what_the_run_that_it_starts_from_had_frozen(
    trials: Trials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "model.safetensors"
    base = trials.task.base
    save_weights(build_run_model(base, 5, pretrained=False), weights)
    of_imagenet = base.model.model_copy(update={"pretrained_backbone": "torchvision"})
    task = trials.task.model_copy(update={"base": base.model_copy(update={"model": of_imagenet, "train": "all"})})
    trained: dict[str, bool] = {}

    class Spy(trial_module._Training):
        def run(self) -> None:
            trained.update({name: value.requires_grad for name, value in self.model.named_parameters()})

    monkeypatch.setattr(trial_module, "_Training", Spy)
    run_trial(replace(trials, weights=weights, task=task), POINT, lambda metrics: None)
    early = ("backbone.body.conv1.", "backbone.body.bn1.", "backbone.body.layer1.")
    frozen = {name for name, is_trained in trained.items() if not is_trained}
    assert frozen == {name for name in trained if name.startswith(early)}
    assert frozen


@pytest.mark.parametrize(
    ("cluster", "passes"),
    [
        (ClusterConfig(workers=0), 1),
        (ClusterConfig(workers=0, images_per_worker=2), 8),
        (ClusterConfig(workers=8), 8),
        (ClusterConfig(workers=8, min_workers=1, images_per_worker=1), 16),
        (ClusterConfig(workers=8, min_workers=1, images_per_worker=4), 4),
    ],
)
def test_a_trial_has_the_micro_batches_of_a_run(task: TrainingTask, cluster: ClusterConfig, passes: int) -> None:
    """Of a batch of 16: in one pass it would not fit where a run on eight workers does."""
    config = task.base.model_copy(update={"schedule": SCHEDULE.model_copy(update={"batch_size": 16})})
    share = trial_module._trial_share(config, cluster)
    assert (share.world_size, share.micro_batches, len(share.own)) == (1, passes, passes)


def test_batch_norm_of_a_trial_sees_the_whole_batch_or_is_refused(task: TrainingTask, repository: Path) -> None:
    model = Project(repository).model("deeplabv3_r103_cityscapes")
    config = task.base.model_copy(update={"model": model})
    assert trial_module._trial_share(config, ClusterConfig(workers=0)).micro_batches == 1
    with pytest.raises(SweepError, match=r"norm 'batch' needs statistics of the whole batch .* images_per_worker 2"):
        trial_module._trial_share(config, ClusterConfig(workers=2))


def test_a_trial_trains_in_these_micro_batches(trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: set[int] = set()

    def spy(model: Any, optimizer: Any, batches: Any, *arguments: Any, **options: Any) -> None:
        sizes.update(len(examples) for examples in batches)

    monkeypatch.setattr(trial_module, "train", spy)
    run_trial(replace(trials, cluster=ClusterConfig(workers=2)), POINT, lambda metrics: None)
    assert sizes == {1}
