"""Trains one run."""

import argparse

from pipeline.stage import Stage, run_stage
from pipeline.tracking import Tracker, code_version, tracking_uri
from pipeline.training.run import Workplace, run_training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    name = parser.parse_args().run
    stage = Stage()
    config = stage.run(name)
    workplace = Workplace(
        prepared=stage.outputs.prepared(config.dataset),
        images=stage.images(config.dataset),
        storage=stage.root / ".pointrend" / "runs",
        output=stage.outputs.trained(name),
    )
    tracker = Tracker(tracking_uri(stage.root), f"pointrend-{stage.params.scale}", stage.root / "mlartifacts")
    cluster = stage.project.cluster(stage.params.cluster)
    run_training(config, workplace, cluster, tracker, code_version(stage.root))


if __name__ == "__main__":
    run_stage(main)
