"""Predicts and scores every evaluation setting of one run."""

import argparse

from pipeline.evaluation.run import evaluate_run
from pipeline.stage import Stage, run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    name = parser.parse_args().run
    stage = Stage()
    config = stage.run(name)
    evaluate_run(
        config,
        stage.evaluation(name),
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
