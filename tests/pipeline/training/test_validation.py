"""Validation during a training: the best weights, early stopping, and resuming as if nothing had happened."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from made_up_images import prepared_images, small_run
from torch import Tensor, nn

from pipeline.config.evaluations import EvaluationConfig, RenderingConfig
from pipeline.config.experiments import RunConfig, ValidationConfig
from pipeline.config.schedules import Phase, ScheduleConfig
from pipeline.evaluation.run import predict, score
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.evaluation.validation import SETTING, measure
from pipeline.training.best_weights import BestWeights
from pipeline.training.metrics_file import MetricsFile
from pipeline.training.model import build_run_model
from pipeline.training.record import BEST, METRICS, SUMMARY, WEIGHTS, weights_to_use
from pipeline.training.run import Workers, train_run
from pipeline.training.schedule import learning_rate
from pipeline.training.training import Training
from pipeline.training.validation import Measure
from pointrend.weights import read_state_dict, save_weights

CPU = torch.device("cpu")
ALONE = Workers(0, 1, CPU, broadcast=lambda value: value, report=lambda metrics: None, node_is_leaving=lambda: False)
VALIDATION = ValidationConfig.of(RenderingConfig(resolution=14, num_points=196, resamples=100), "code")


class Killed(BaseException):
    """In place of a kill: nothing of the project catches it."""


class Noisy(nn.Module):
    """Learns the mean of an image from noise."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        means = torch.stack([image.float().mean((1, 2)) for image in images])
        return {"loss_mean": (self.layer(means + torch.randn_like(means))[:, 0] - means.mean(1)).square().mean()}


@pytest.fixture
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.training.run.build_initial_model", lambda *arguments: Noisy())


class Scores:
    """Scores that are made up: of the n-th validation in order of updates, whoever asks and however often.

    Args:
        values: AP of each validation; NaN for one that is undefined.
        dies_at: the validation, from 0, that is killed once before it ends.
    """

    def __init__(self, values: Sequence[float], dies_at: int | None = None) -> None:
        self.values, self.dies_at = values, dies_at
        self.asked: list[int] = []
        self._known: dict[bytes, int] = {}

    def of(self, folder: Path) -> Measure:
        def measure(save: Callable[[Path], None]) -> Mapping[str, float]:
            torch.rand(3)  # whatever else is drawn here must not matter to the training
            save(folder / "candidate.safetensors")
            number = self._number(folder)
            self.asked.append(number)
            if number == self.dies_at:
                self.dies_at = None
                raise Killed
            value = self.values[number]
            return {} if value != value else {"AP": value, "AP50": 2 * value}

        return measure

    def _number(self, folder: Path) -> int:
        """Which validation this is: that of these very weights, which a training that is repeated has again."""
        return self._known.setdefault((folder / "candidate.safetensors").read_bytes(), len(self._known))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    return prepared_images(tmp_path_factory.mktemp("data"), 4)


@cache  # reading the demo's configuration takes half a second
def demo_run(repository: Path) -> RunConfig:
    return small_run(repository)


def config(repository: Path, updates: int, every: int | None, stop_early: int | None = None) -> RunConfig:
    run = demo_run(repository)
    schedule = run.schedule.model_copy(
        update={
            "phases": [Phase(updates=updates, learning_rate=0.01)],
            "validate_every": every,
            "stop_early": stop_early,
            "checkpoint_every": 2,
        }
    )
    return run.model_copy(update={"schedule": schedule, "validation": VALIDATION if every else None})


def train(
    config: RunConfig, data: tuple[Path, Any], root: Path, scores: Scores | None = None, workers: Workers = ALONE
) -> Training:
    training = Training(config, *data, "code", root)
    training.storage.mkdir(parents=True, exist_ok=True)
    train_run(
        training,
        workers,
        images_per_worker=1,
        loader_processes=0,
        notify=lambda: None,
        measure=None if scores is None else scores.of(training.storage),
    )
    return training


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return read_state_dict(path)


def same(a: Path, b: Path) -> bool:
    one, other = tensors(a), tensors(b)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def rows(training: Training, key: str) -> list[tuple[int, float]]:
    return [(e.step, e.value) for e in MetricsFile(training.storage / METRICS).entries() if e.key == key]


def summary(training: Training) -> dict[str, Any]:
    return json.loads((training.storage / SUMMARY).read_text())


@pytest.mark.usefixtures("small_network")
def test_the_training_is_the_same_and_the_best_weights_are_kept(
    repository: Path, data: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = train(config(repository, 5, None), data, tmp_path / "plain")
    validated = train(config(repository, 5, 2), data, tmp_path / "validated", Scores([10.0, 31.25, 20.0]))
    assert same(plain.storage / WEIGHTS, validated.storage / WEIGHTS)
    assert not (plain.storage / BEST).exists()
    assert "best" not in summary(plain)
    # The best ones are those after four updates, as a training of four updates at these learning rates has them.
    four = train(config(repository, 4, None), data, tmp_path / "four")
    assert same(validated.storage / BEST, four.storage / WEIGHTS)
    assert summary(validated)["best"] == {"update": 4, "metric": "AP", "score": 31.25}
    assert (summary(validated)["updates"], "stopped" in summary(validated)) == (5, False)
    assert rows(validated, "val/AP") == [(2, 10.0), (4, 31.25), (5, 20.0)]
    assert rows(validated, "val/AP50") == [(2, 20.0), (4, 62.5), (5, 40.0)]
    assert rows(validated, "loss") == rows(plain, "loss")
    said = capsys.readouterr().out
    for line in (
        "update 2: mask AP 10.0 (best 10.0)\n",
        "update 4: mask AP 31.2 (best 31.2)\n",
        "update 5: mask AP 20.0 (best 31.2 at update 4)\n",
    ):
        assert line in said


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.usefixtures("small_network")
def test_a_training_that_is_killed_in_a_validation_ends_as_one_that_is_not(
    repository: Path, data: tuple[Path, Any], tmp_path: Path, every: int
) -> None:
    values = [10.0, 30.0, 20.0, 25.0, 5.0][: 5 if every == 1 else 3]
    whole = train(config(repository, 5, every), data, tmp_path / "whole", Scores(values))
    for dies_at in range(len(values)):
        scores = Scores(values, dies_at)
        root = tmp_path / f"killed {dies_at}"
        with pytest.raises(Killed):
            train(config(repository, 5, every), data, root, scores)
        killed = train(config(repository, 5, every), data, root, scores)
        assert sorted(set(scores.asked)) == list(range(len(values)))
        for file in (WEIGHTS, BEST):
            assert same(killed.storage / file, whole.storage / file)
        assert summary(killed)["best"] == summary(whole)["best"]
        assert rows(killed, "val/AP") == rows(whole, "val/AP")
        assert [step for step, _ in rows(killed, "loss")] == [5]


@pytest.mark.usefixtures("small_network")
def test_a_kill_after_the_best_validation_does_not_lose_its_weights(
    repository: Path, data: tuple[Path, Any], tmp_path: Path
) -> None:
    """The best weights are in a checkpoint: the validation that found them is not repeated."""
    scores = Scores([10.0, 30.0, 20.0, 25.0], dies_at=3)
    with pytest.raises(Killed):
        train(config(repository, 4, 1), data, tmp_path, scores)
    killed = train(config(repository, 4, 1), data, tmp_path, scores)
    assert scores.asked == [0, 1, 2, 3, 2, 3]  # the checkpoint is of update 2
    two = train(config(repository, 2, None), data, tmp_path / "two")
    assert same(killed.storage / BEST, two.storage / WEIGHTS)


@pytest.mark.usefixtures("small_network")
def test_early_stopping(repository: Path, data: tuple[Path, Any], tmp_path: Path) -> None:
    values = [10.0, 30.0, 30.0, 20.0, 99.0]
    run = config(repository, 9, 1, stop_early=2)
    stopped = train(run, data, tmp_path / "stopped", Scores(values))
    found = summary(stopped)
    assert found["updates"] == 4
    assert found["stopped"] == "after update 4 of 9: no better mask AP in 2 validations"
    assert found["best"] == {"update": 3, "metric": "AP", "score": 30.0}
    assert rows(stopped, "val/AP") == [(1, 10.0), (2, 30.0), (3, 30.0), (4, 20.0)]
    assert [step for step, _ in rows(stopped, "loss")] == [4]
    # Learning rates are those of the full length.
    rates = [learning_rate(run.schedule, update) for update in range(4)]
    assert rows(stopped, "learning_rate") == [(4, rates[-1])]


@pytest.mark.usefixtures("small_network")
def test_a_training_that_stopped_and_is_killed_then_does_not_go_on(
    repository: Path, data: tuple[Path, Any], tmp_path: Path
) -> None:
    run = config(repository, 9, 1, stop_early=2)
    scores = Scores([30.0, 10.0, 20.0, 25.0, 40.0])
    # Its last checkpoint, of update 2, has one validation without a better score; the third one ends it.
    first = train(run, data, tmp_path, scores)
    before = {name: (first.storage / name).read_bytes() for name in (WEIGHTS, BEST)}
    assert summary(first)["updates"] == 3
    for name in (WEIGHTS, BEST, SUMMARY):
        (first.storage / name).unlink()
    again = train(run, data, tmp_path, scores)
    assert scores.asked == [0, 1, 2, 2]
    assert {name: (again.storage / name).read_bytes() for name in before} == before
    assert summary(again)["updates"] == 3

    # The checkpoint of the update that ends the training says so itself.
    even = config(repository, 9, 2, stop_early=1)
    scores = Scores([30.0, 10.0, 99.0])
    train(even, data, tmp_path / "even", scores)
    train(even, data, tmp_path / "even", scores)
    assert scores.asked == [0, 1]


@pytest.mark.usefixtures("small_network")
def test_a_node_that_leaves_has_its_checkpoint_before_the_validation(
    repository: Path, data: tuple[Path, Any], tmp_path: Path
) -> None:
    leaving = Workers(0, 1, CPU, lambda value: value, lambda metrics: None, node_is_leaving=lambda: True)
    scores = Scores([30.0, 10.0], dies_at=0)
    run = config(repository, 11, 10)
    run = run.model_copy(update={"schedule": run.schedule.model_copy(update={"checkpoint_every": 100})})
    with pytest.raises(Killed):
        train(run, data, tmp_path, scores, leaving)
    training = train(run, data, tmp_path, scores)
    assert summary(training)["resumed_from"] == 10
    assert scores.asked == [0, 0, 1], "validated where it was resumed"
    assert rows(training, "val/AP") == [(10, 30.0), (11, 10.0)]
    assert [step for step, _ in rows(training, "loss")] == [10, 11]


@pytest.mark.usefixtures("small_network")
def test_undefined_scores_are_said_and_never_the_best(
    repository: Path, data: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nan = float("nan")
    training = train(config(repository, 3, 1), data, tmp_path, Scores([nan, 0.0, nan]))
    assert summary(training)["best"] == {"update": 2, "metric": "AP", "score": 0.0}
    assert rows(training, "val/AP") == [(2, 0.0)]
    assert "update 1: mask AP is undefined on the val images" in capsys.readouterr().out
    never = train(config(repository, 2, 1), data, tmp_path / "never", Scores([nan, nan]))
    assert summary(never)["best"] == {"update": 2, "metric": "AP", "score": None}
    assert same(never.storage / BEST, never.storage / WEIGHTS)


def test_the_last_of_equal_scores_is_the_best_but_no_improvement() -> None:
    best, model = BestWeights(), torch.nn.Linear(1, 1)
    for update, value in enumerate((5.0, 5.0, 4.0), start=1):
        best.add(update, value, model)
        with torch.no_grad():
            model.weight.add_(1)
    assert (best.update, best.score, best.last, best.without_improvement) == (2, 5.0, 3, 2)
    torch.testing.assert_close(best.model["weight"], model.weight.detach() - 2)


def test_a_score_is_that_of_an_evaluation_of_the_weights(
    repository: Path, data: tuple[Path, Any], tmp_path: Path
) -> None:
    run = config(repository, 2, 1)
    training = Training(run, *data, "code", tmp_path)
    training.storage.mkdir(parents=True)
    real = partial(measure, training, ALONE)
    train_run(training, ALONE, images_per_worker=1, loader_processes=0, notify=lambda: None, measure=real)
    assert not (training.storage / "validation").exists()
    best = weights_to_use(training.storage)
    assert best == training.weights == training.storage / BEST
    setting = VALIDATION.setting
    evaluated = TrainedRun(run, *data, best)
    (tmp_path / "output").mkdir()
    predict(evaluated, EvaluationConfig({SETTING: setting}), CPU, tmp_path / "chunks", tmp_path / "output")
    found = score(evaluated.dataset(), tmp_path / "output", SETTING, setting).metrics
    assert found["AP"] == pytest.approx(summary(training)["best"]["score"], abs=1e-4)
    plain = train(config(repository, 2, None), data, tmp_path / "plain")
    assert same(plain.storage / WEIGHTS, training.storage / WEIGHTS)


def test_several_workers_share_the_images_and_agree(repository: Path, tmp_path: Path) -> None:
    """Worker 1 predicts its part before worker 0 scores all; here one after the other, through the same files."""
    data = prepared_images(tmp_path, 10)  # two chunks
    training = Training(config(repository, 2, 1), *data, "code", tmp_path / "runs")
    torch.manual_seed(0)
    network = build_run_model(training.config, 2, pretrained=False)
    save = partial(save_weights, network)
    name: list[int] = []

    def of_zero(value: int) -> int:
        if value:
            name.append(value)
            return value
        other = Workers(1, 2, CPU, lambda own: name[0] if own else 0, lambda metrics: None, lambda: False)
        assert measure(training, other, save=lambda path: pytest.fail("worker 1 writes nothing")) == {}
        return value

    alone = measure(training, ALONE, save)
    assert measure(training, Workers(0, 2, CPU, of_zero, lambda metrics: None, lambda: False), save) == alone
    assert "AP" in alone


def test_a_run_without_validation_is_what_it_was(repository: Path) -> None:
    run = config(repository, 5, None)
    assert "validat" not in run.model_dump_json()
    assert "stop_early" not in run.model_dump_json()
    validated = config(repository, 5, 2, 3)
    assert RunConfig.model_validate_json(validated.model_dump_json()) == validated
    assert validated.validation is not None
    assert isinstance(validated.validation.setting, RenderingConfig)
    assert validated.validation.setting.resamples is None


def test_what_the_val_images_are_matters_only_to_a_validated_training(
    repository: Path, data: tuple[Path, Any], tmp_path: Path
) -> None:
    def keys() -> list[str]:
        runs = (config(repository, 5, None), config(repository, 5, 2))
        return [Training(run, data[0], data[1], "code", tmp_path).key for run in runs]

    file = data[0] / "val.parquet"
    before, content = keys(), file.read_bytes()
    file.write_bytes(content + b" ")
    try:
        after = keys()
    finally:
        file.write_bytes(content)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False]


def test_collected_with_the_best_weights(repository: Path, data: tuple[Path, Any], tmp_path: Path) -> None:
    training = Training(config(repository, 5, 2), *data, "code", tmp_path / "runs")
    training.storage.mkdir(parents=True)
    for name in (WEIGHTS, BEST, "train.json", METRICS, SUMMARY):
        (training.storage / name).write_text(name)
    training.collect(tmp_path / "output")
    assert {path.name for path in (tmp_path / "output").iterdir()} == {WEIGHTS, BEST, "train.json", METRICS}


def test_a_schedule_that_stops_early_validates() -> None:
    with pytest.raises(ValueError, match="stop_early needs validate_every"):
        ScheduleConfig.model_validate(
            {
                "batch_size": 2,
                "warmup": {"updates": 1, "learning_rate": 0.1},
                "phases": [{"updates": 5, "learning_rate": 0.1}],
                "stop_early": 2,
            }
        )


@pytest.mark.parametrize("every", [None, 2])
def test_a_measure_is_for_validation(
    repository: Path, data: tuple[Path, Any], tmp_path: Path, every: int | None
) -> None:
    with pytest.raises(ValueError, match="measure is for a run whose schedule validates"):
        train(config(repository, 5, every), data, tmp_path, None if every else Scores([]))
