"""The evaluation of a run, whether or not it has been done: what it depends on, and its files. Needs no torch."""

import hashlib
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.config.evaluations import EvaluationConfig
from pipeline.evaluation.record import EvaluationRecord, summary
from pipeline.files import atomic_folder, write_json
from pipeline.training.metrics_file import now
from pipeline.training.record import TrainingRecord, file_digest

RECORD = "evaluation.json"  # the last file that an evaluation writes
PREDICTIONS = "predictions"


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a run under all of its settings, and the folder of its predictions and scores.

    Args:
        run: the run's name.
        training: the key of the training whose weights are evaluated.
        settings: the evaluation settings by name.
        prepared: the folder of the prepared dataset.
        code: a hash of the code that evaluates.
        root: the training's own folder; every worker can reach it.
    """

    run: str
    training: str
    settings: EvaluationConfig
    prepared: Path
    code: str
    root: Path

    @cached_property
    def key(self) -> str:
        """A hash (16 hex digits) of everything that the result depends on: training, settings, code and dataset."""
        digest = hashlib.sha256(f"{self.training} {self.settings.model_dump_json()} {self.code}".encode())
        for file in sorted(path for path in self.prepared.rglob("*") if path.is_file()):
            digest.update(f"{file.relative_to(self.prepared)} {file_digest(file)}".encode())
        return digest.hexdigest()[:16]

    @property
    def storage(self) -> Path:
        """The evaluation's own folder: chunks while it predicts, then predictions and their record."""
        return self.root / f"evaluation-{self.key}"

    @property
    def chunks(self) -> Path:
        return self.storage / "chunks"

    @property
    def predictions(self) -> Path:
        return self.storage / PREDICTIONS

    @property
    def record(self) -> Path:
        return self.storage / RECORD

    @property
    def is_done(self) -> bool:
        return self.record.is_file()

    def collect(self, predictions: Path, record: Path, metrics: Path) -> None:
        """Copies the result to the outputs of the `evaluate` stage, each whole or not at all.

        Args:
            predictions: the folder of predictions to write.
            record: the JSON file of the :class:`EvaluationRecord` to write.
            metrics: the JSON file to write with the few metrics that DVC compares.

        Raises:
            UnreadableRecordError: if the record is damaged.
        """
        found = EvaluationRecord.read(self.record)
        with atomic_folder(predictions, replace=True) as folder:
            shutil.copytree(self.predictions, folder, dirs_exist_ok=True)
        found.write(record)
        write_json(metrics, summary(found, self.settings))


def write_empty_evaluation(training: TrainingRecord, predictions: Path, record: Path, metrics: Path) -> None:
    """Writes empty outputs for a run without evaluation settings, which is trained only for other runs to start from.

    Args:
        training: the record of the run's training.
        predictions: the folder of predictions; it will be empty.
        record: the JSON file of the :class:`EvaluationRecord`, which will have no evaluations.
        metrics: the JSON file with the metrics that DVC compares; it will have none.
    """
    with atomic_folder(predictions, replace=True):
        pass
    time = now()
    EvaluationRecord(
        run=training.run,
        mlflow_run_id=training.mlflow_run_id,
        training=training.key,
        settings=EvaluationConfig({}),
        evaluations={},
        started=time,
        ended=time,
    ).write(record)
    write_json(metrics, {})
