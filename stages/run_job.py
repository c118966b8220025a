"""The job of a run on the Ray cluster: trains the run, evaluates it, or both. Submitted by `train` and `evaluate`."""

import argparse

from pipeline.cluster.lookup import evaluation_of, training_of, weights_to_evaluate
from pipeline.cluster.run_job import run_job
from pipeline.errors import UserError
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.stage import Stage, code_version, run_stage
from pipeline.tracking.client import tracker_of
from pipeline.tracking.origin import origin_tags, run_tags
from pipeline.tracking.products import products_of
from pipeline.training.record import TrainingRecord


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--train", metavar="KEY", help="train; fail unless the inputs of the training have this hash")
    parser.add_argument(
        "--evaluate", metavar="KEY", help="evaluate; fail unless the inputs of the evaluation have this hash"
    )
    arguments = parser.parse_args()
    stage, name = Stage(), arguments.run
    training = training_of(stage, name)
    key = training.key if arguments.train else TrainingRecord.read(stage.outputs.trained(name)).key
    evaluation = evaluation_of(stage, name, training, key) if arguments.evaluate else None
    asked, found = (arguments.train, arguments.evaluate), (arguments.train and key, evaluation and evaluation.key)
    if asked != found:
        raise UserError(f"the inputs of {name} have changed since this job was submitted; run `dvc repro` again")
    evaluated = None
    if evaluation is not None:
        weights = training.weights if arguments.train else weights_to_evaluate(stage, name, evaluation)
        evaluated = TrainedRun(training.config, training.prepared, training.images, weights)
    version, scale = code_version(stage.root), stage.params.scale
    tags = origin_tags(f"dvc repro train@{name}", version)
    tags |= run_tags(stage.project, scale, training.config.experiment, training.config.seed)
    run_job(
        training.config,
        training if arguments.train else None,
        evaluation,
        evaluated,
        stage.cluster,
        tracker_of(stage),
        version,
        tags,
        products_of(stage.project, scale, training.config),
    )


if __name__ == "__main__":
    run_stage(main)
