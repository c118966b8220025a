"""Logs what a run has beside parameters and metrics: its dataset, its weights as a model, and pictures."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.config.experiments import RunConfig
from pipeline.config.project import Project
from pipeline.config.tracking import TrackingConfig
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.stage import Stage
from pipeline.tracking.client import Tracker
from pipeline.tracking.datasets import log_dataset
from pipeline.tracking.models import Registration, log_model
from pipeline.tracking.overlays import log_overlays
from pipeline.training.record import TrainingRecord, weights_to_use


@dataclass(frozen=True)
class Products:
    """What is logged of a run.

    Attributes:
        settings: the project's.
        registration: where the run's model is registered, if anywhere.
    """

    settings: TrackingConfig
    registration: Registration | None = None

    def log_training(self, tracker: Tracker, run_id: str, run: TrainedRun, data: str) -> None:
        """Logs the dataset and the weights of a trained run, unless its MLflow run has them.

        Args:
            tracker: the MLflow experiment.
            run_id: the MLflow run of the training.
            run: the trained run.
            data: the hash of its dataset, see :func:`pipeline.training.record.data_digest`.

        Raises:
            TrackingError: if MLflow does not answer.
        """
        log_dataset(tracker, run_id, run.config.dataset, data, run.dataset(), run.images.where())
        if self.settings.models:
            log_model(tracker, run_id, run, self.registration)

    def log_evaluation(self, tracker: Tracker, run_id: str, run: TrainedRun, predictions: Path, setting: str) -> None:
        """Logs pictures of an evaluation setting's predictions in the MLflow run of the training.

        Raises:
            TrackingError: if MLflow does not answer.
        """
        log_overlays(tracker, run_id, run, predictions, setting, self.settings.overlays)


def log_products(stage: Stage, name: str, run_id: str, tracker: Tracker) -> None:
    """Logs from a run's outputs what its MLflow run lacks.

    Args:
        stage: the project.
        name: the run.
        run_id: the MLflow run of its training.
        tracker: the MLflow experiment.

    Raises:
        TrackingError: if MLflow does not answer.
    """
    outputs = stage.outputs
    record = TrainingRecord.read(outputs.trained(name))
    config = record.config
    weights = weights_to_use(outputs.trained(name)).resolve()
    run = TrainedRun(config, outputs.prepared(config.dataset).resolve(), stage.images(config.dataset), weights)
    products = products_of(stage.project, stage.params.scale, config)
    products.log_training(tracker, run_id, run, record.data)
    if settings := stage.evaluation(name).root:
        products.log_evaluation(tracker, run_id, run, outputs.predictions(name), list(settings)[-1])


def products_of(project: Project, scale: str, config: RunConfig) -> Products:
    """What is logged of a run of the project.

    The alias of a registered model is the scale, and for further seeds of an experiment ``<scale>-seed<N>``.
    """
    settings = project.tracking()
    if settings.registry is None:
        return Products(settings)
    first = project.experiment(scale, config.experiment).seeds[0]
    alias = scale if config.seed == first else f"{scale}-seed{config.seed}"
    return Products(settings, Registration(f"{settings.registry}-{config.experiment}", alias))
