"""Predicts and scores every evaluation setting of one run."""

import argparse

from pipeline.evaluation.record import leave_unevaluated
from pipeline.stage import Stage, run_stage
from pipeline.training.record import TrainingRecord


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    name = parser.parse_args().run
    stage = Stage()
    config, settings = stage.run(name), stage.evaluation(name)
    if not settings.root:
        record = TrainingRecord.read(stage.outputs.trained(name))
        leave_unevaluated(record, stage.outputs.predictions(name), stage.outputs.metrics(name))
        return

    from pipeline.evaluation.run import evaluate_run  # seconds to import

    evaluate_run(
        config,
        settings,
        stage.cluster,
        prepared=stage.outputs.prepared(config.dataset),
        images=stage.images(config.dataset),
        trained=stage.outputs.trained(name),
        output=stage.outputs.predictions(name),
        metrics=stage.outputs.metrics(name),
        tracker=stage.tracker(),
    )


if __name__ == "__main__":
    run_stage(main)
