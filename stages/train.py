"""Trains one run: has a Ray job do it, and collects the result."""

import argparse
import shutil
from collections.abc import Container
from pathlib import Path

from pipeline.graph import code_digest, runs_everything, stages_to_run
from pipeline.stage import Stage, run_stage
from pipeline.training.record import WEIGHTS
from pipeline.training.training import Training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--here", metavar="KEY", help="train in this process, if the run's inputs have this hash")
    arguments = parser.parse_args()
    stage = Stage()
    training = training_of(stage, arguments.run)
    if arguments.here:
        training.expect(arguments.here)
        train_here(stage, training)
        return

    def others(known: Container[str]) -> list[Training]:
        """What else `dvc repro` is about to train and can be trained now, but for jobs of these names."""
        return ready_to_train(stage, arguments.run, known) if runs_everything() else []

    if training.is_done:
        print(f"{training.id}: trained already", flush=True)
    else:
        from pipeline.cluster.submission import train_as_job  # what collects needs no Ray, which takes seconds

        train_as_job(training, others, stage.cluster, stage.root)
    training.collect(stage.outputs.trained(arguments.run))
    if stage.cluster.storage is None:
        # Nobody else can be waiting for it.
        shutil.rmtree(training.storage)


def ready_to_train(stage: Stage, current: str, known: Container[str]) -> list[Training]:
    """The runs that DVC would train now and whose weights to begin with, if any, are those of today.

    Args:
        stage: this one.
        current: the run that DVC is at. Of what begins with its weights, which it has locked, it would not tell.
        known: names of jobs that need not be looked at.
    """
    runs: dict[str, Training] = {}
    for name, run in stage.selection.runs.items():
        if current in (name, run.starts_from.removeprefix("train/")):
            continue
        training = training_of(stage, name)
        # Weights to begin with may not be made yet, or be in DVC's cache alone.
        if training.starts_from is not None and not training.starts_from.is_file():
            continue
        if not (training.id in known or training.is_done or training.is_collected(stage.outputs.trained(name))):
            runs[name] = training
    if not runs:
        return []
    first = {name: runs[name].config.starts_from for name in runs}
    names = {f"train@{name}" for name in {*runs, *first.values()} if name is not None}
    stale = set(stages_to_run(stage.root, sorted(names)))
    return [runs[n] for n, start in first.items() if f"train@{n}" in stale and f"train@{start}" not in stale]


def train_here(stage: Stage, training: Training) -> None:
    from pipeline.cluster.run import run_training
    from pipeline.tracking.client import code_version

    run_training(training, stage.cluster, stage.tracker(), code_version(stage.root))


def training_of(stage: Stage, name: str) -> Training:
    config = stage.run(name)
    return Training(
        config,
        stage.outputs.prepared(config.dataset),
        stage.images(config.dataset),
        code_digest(stage.root, "train"),
        Path(stage.cluster.storage or stage.root / ".pointrend" / "runs"),
        stage.outputs.trained(config.starts_from) / WEIGHTS if config.starts_from else None,
    )


if __name__ == "__main__":
    run_stage(main)
