"""Looks up the keys and folders of a project's trainings, evaluations and sweeps by name. Needs no Ray."""

from pathlib import Path

from pipeline.cluster.sweep_place import SweepPlace
from pipeline.config.experiments import is_weights_file
from pipeline.config.sweep_tasks import SubdivisionTask, TrainingTask
from pipeline.evaluation.evaluation import Evaluation
from pipeline.stage import Stage
from pipeline.training.record import weights_to_use
from pipeline.training.training import Training


def training_of(stage: Stage, name: str) -> Training:
    """The training of a run of the project."""
    config = stage.run(name)
    return Training(
        config,
        stage.outputs.prepared(config.dataset).resolve(),
        stage.images(config.dataset),
        stage.code("train", config.model.task),
        Path(stage.cluster.storage or stage.home / ".pointrend" / "runs").resolve(),
        _initial_weights(stage, config.starts_from),
    )


def _initial_weights(stage: Stage, starts_from: str | None) -> Path | None:
    """The file of weights that a run starts from: of another run, or of the project."""
    if starts_from is None:
        return None
    if is_weights_file(starts_from):
        return stage.project.weights_file(starts_from).resolve()
    return weights_to_use(stage.outputs.trained(starts_from)).resolve()


def evaluation_of(stage: Stage, name: str, training: Training, key: str) -> Evaluation | None:
    """The evaluation of a run of the project; None if it has no evaluation settings.

    Args:
        stage: the project.
        name: the run.
        training: the run's training with the current code and configuration.
        key: the key of the training to evaluate, which may come from earlier code.
    """
    settings = stage.evaluation(name)
    if not settings.root:
        return None
    root = training.root / f"{name}-{key}"
    code = stage.code("evaluate", training.config.model.task)
    return Evaluation(name, key, settings, training.prepared, code, root)


def weights_to_evaluate(stage: Stage, name: str, evaluation: Evaluation) -> Path:
    """The file of weights to evaluate: in the training's own folder, or else where `train` has collected it."""
    own, collected = weights_to_use(evaluation.root), weights_to_use(stage.outputs.trained(name))
    return collected.resolve() if not own.is_file() and collected.is_file() else own


def sweep_place(stage: Stage, task: TrainingTask | SubdivisionTask) -> SweepPlace:
    """The folders that a sweep of the project reads and writes."""
    weights_of = task.run if isinstance(task, SubdivisionTask) else task.starts_from
    return SweepPlace(
        prepared=stage.outputs.prepared(task.dataset),
        images=stage.images(task.dataset),
        starts_from=stage.outputs.trained(weights_of.run) if weights_of else None,
        storage=Path(stage.cluster.storage or stage.home / ".pointrend") / "sweeps",
        code=stage.code("sweep", (task.run if isinstance(task, SubdivisionTask) else task.base).model.task),
    )
