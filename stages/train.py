"""Trains one run: has a Ray job do it, and collects the result."""

import argparse
import shutil
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

    def others() -> list[Training]:
        """What else `dvc repro` is about to train."""
        if not runs_everything():
            return []
        # Those that begin with the weights of one that is to be trained have to wait for it; and of what begins with
        # this one's, which DVC has locked, it would not tell.
        waiting = {f"train/{arguments.run}"}
        runs = {name: run for name, run in stage.params.runs.items() if run.starts_from not in waiting}
        names = {f"train@{name}": name for name in runs if name != arguments.run}
        stale = [names[found] for found in stages_to_run(stage.root, names)]
        waiting |= {f"train/{name}" for name in stale}
        ready = (training_of(stage, name) for name in stale if runs[name].starts_from not in waiting)
        # DVC may have weights in its cache that it has yet to put in their place.
        return [each for each in ready if each.starts_from is None or each.starts_from.is_file()]

    if training.is_done:
        print(f"{training.id}: trained already", flush=True)
    else:
        from pipeline.submission import train_as_job  # what collects needs no Ray, which takes seconds

        train_as_job(training, others, stage.cluster, stage.root)
    training.collect(stage.outputs.trained(arguments.run))
    if stage.cluster.storage is None:
        # Nobody else can be waiting for it.
        shutil.rmtree(training.storage)


def train_here(stage: Stage, training: Training) -> None:
    from pipeline.tracking import code_version
    from pipeline.training.run import run_training

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
