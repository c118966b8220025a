"""Logs the weights of a run as an MLflow model, which ``mlflow models predict`` and ``serve`` use, and registers it.

The model is self-contained: the weights as safetensors, this version of the library as source, pinned requirements.
Where MLflow's artifacts are a folder of the same file system, the weights in it are a hard link to those of the
training, so that the disk has them once.
"""

import importlib.metadata
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array, Object, Property
from mlflow.utils.file_utils import local_file_uri_to_path
from PIL import Image

import pointrend
from pipeline.data.dataset import ManifestImages
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.tracking.client import Tracker
from pointrend.pyfunc import IMAGE, WEIGHTS
from pointrend.runs import USUAL_SCORE
from pointrend.specs import Task

#: The libraries that the model needs to predict, beside MLflow, which adds itself.
REQUIRED = ("torch", "torchvision", "pillow", "safetensors", "numpy", "pandas")
#: What the source of the library is copied without.
NOT_SERVED = ("__pycache__", "ui")
EXAMPLE_SIDE = 256  # pixels of the input example's longer side, at most


@dataclass(frozen=True)
class Registration:
    """The name of a registered model, and the alias of the version that a run becomes."""

    name: str
    alias: str


def log_model(tracker: Tracker, run_id: str, run: TrainedRun, registration: Registration | None) -> str:
    """Logs the weights of a run as a model of its MLflow run, unless it has one, and returns the model's id.

    Args:
        tracker: the MLflow experiment.
        run_id: the MLflow run of the training.
        run: the trained run.
        registration: where to register the model, if anywhere.

    Raises:
        TrackingError: if MLflow does not answer.
        OSError: if the weights or the picture of the input example cannot be read.
    """
    subject = f"model of run {run.config.run}"
    model = find_model(tracker, run_id)
    if model is None:
        model = tracker.call(subject, lambda: _create(tracker, run_id, run))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "model"
            _write(folder, model, run, run_id)
            tracker.call(subject, lambda: tracker.client.log_model_artifacts(model.model_id, str(folder)))
        _store_weights(tracker, model, run.weights, subject)
        outputs = [LoggedModelOutput(model.model_id, step=run.config.schedule.updates)]
        tracker.call(subject, lambda: tracker.client.log_outputs(run_id, outputs))
        # Last: a model that is not ready is not found, and is logged again.
        tracker.call(subject, lambda: tracker.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY))
    if registration is not None:
        tracker.call(subject, lambda: _register(tracker, run_id, run, model, registration))
    return model.model_id


def find_model(tracker: Tracker, run_id: str) -> LoggedModel | None:
    """The model of an MLflow run that is completely logged; None if there is none."""
    found = tracker.call(f"run {run_id}", lambda: _models(tracker, run_id))
    return next((model for model in found if model.status == LoggedModelStatus.READY), None)


def _models(tracker: Tracker, run_id: str) -> Sequence[LoggedModel]:
    return tracker.client.search_logged_models([tracker.experiment_id], f"source_run_id = '{run_id}'")


def _create(tracker: Tracker, run_id: str, run: TrainedRun) -> LoggedModel:
    client = tracker.client
    for unfinished in _models(tracker, run_id):
        client.delete_logged_model(unfinished.model_id)
    parameters, kind = dict(client.get_run(run_id).data.params), run.config.model.task
    return client.create_logged_model(tracker.experiment_id, run.config.run, run_id, params=parameters, model_type=kind)


def _write(folder: Path, model: LoggedModel, run: TrainedRun, run_id: str) -> None:
    """Writes the folder of a model, all but its weights."""
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)  # it says that it checks the input example
    described = Model(artifact_path=model.artifact_location, run_id=run_id, model_id=model.model_id)
    with tempfile.TemporaryDirectory() as name:
        code = Path(name) / "pointrend"
        shutil.copytree(Path(pointrend.__file__).parent, code, ignore=shutil.ignore_patterns(*NOT_SERVED))
        mlflow.pyfunc.save_model(
            folder,
            loader_module="pointrend.pyfunc",
            code_paths=[str(code)],
            mlflow_model=described,
            signature=signature(run.config.model.task),
            input_example=(_example(run), {"score": USUAL_SCORE}),
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in REQUIRED],
            metadata={"run": run.config.run, "classes": run.dataset().class_names},
        )
    described.model_size_bytes = (described.model_size_bytes or 0) + run.weights.stat().st_size
    described.save(str(folder / "MLmodel"))


def signature(task: Task) -> ModelSignature:
    """What the model of a task takes and gives, see :meth:`pointrend.pyfunc.Segmenter.predict`."""
    size = [ColSpec(DataType.long, "height"), ColSpec(DataType.long, "width")]
    if task == "instance":
        mask = Object([Property("size", Array(DataType.long)), Property("counts", DataType.string)])
        properties = [
            Property("category_id", DataType.long),
            Property("category_name", DataType.string),
            Property("score", DataType.double),
            Property("bbox", Array(DataType.double)),
            Property("segmentation", mask),
        ]
        found = [ColSpec(Array(Object(properties)), "objects")]
    else:
        known = Object([Property("id", DataType.long), Property("name", DataType.string)])
        found = [ColSpec(DataType.string, "labels"), ColSpec(Array(known), "classes")]
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, IMAGE)]),
        outputs=Schema([*size, *found]),
        params=ParamSchema([ParamSpec("score", DataType.double, USUAL_SCORE)]),
    )


def _example(run: TrainedRun) -> pd.DataFrame:
    """The first val image, small, as JPEG."""
    dataset = run.dataset()
    images = ManifestImages(dataset.manifest("val"), run.images, dataset.reading)
    image, file = Image.fromarray(images.pixels(images.row(0))), io.BytesIO()
    image.thumbnail((EXAMPLE_SIDE, EXAMPLE_SIDE))
    image.save(file, "JPEG")
    return pd.DataFrame({IMAGE: [file.getvalue()]})


def _store_weights(tracker: Tracker, model: LoggedModel, weights: Path, subject: str) -> None:
    """Puts the weights into a model's artifacts: as a hard link where possible."""
    location = local_file_uri_to_path(model.artifact_location)
    if "://" not in location and _linked(weights, Path(location) / WEIGHTS):
        return
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / Path(WEIGHTS).name).symlink_to(weights.resolve())
        parent = str(Path(WEIGHTS).parent)
        tracker.call(subject, lambda: tracker.client.log_model_artifacts(model.model_id, name, parent))


def _linked(source: Path, target: Path) -> bool:
    """Whether ``target`` could be made a hard link to a file."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without links
        return False
    return True


def _register(
    tracker: Tracker, run_id: str, run: TrainedRun, model: LoggedModel, registration: Registration
) -> ModelVersion:
    client, name = tracker.client, registration.name
    try:
        client.create_registered_model(name, {"experiment": run.config.experiment})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    found = [
        each for each in client.search_model_versions(f"name = '{name}'") if each.source == model.artifact_location
    ]
    version = found[0] if found else _create_version(tracker, run_id, model, name)
    client.set_registered_model_alias(name, registration.alias, version.version)
    return version


def _create_version(tracker: Tracker, run_id: str, model: LoggedModel, name: str) -> ModelVersion:
    tags: dict[str, Any] = dict(tracker.client.get_run(run_id).data.tags)
    note = tags.get("mlflow.note.content")
    return tracker.client.create_model_version(
        name, model.artifact_location, run_id, description=note, model_id=model.model_id
    )
