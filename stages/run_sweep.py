"""The job of a sweep on the Ray cluster. The `sweep` stage and `pointrend sweep` submit it."""

import argparse
import signal
from pathlib import Path

from pipeline.cluster.lookup import sweep_place
from pipeline.cluster.sweep_place import sweep_key
from pipeline.config.reader import load
from pipeline.config.sweep_tasks import SweepTask
from pipeline.errors import UserError
from pipeline.stage import Stage, code_version, run_stage
from pipeline.sweep.run import run_sweep
from pipeline.tracking.client import tracker_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", type=Path, required=True, help="the JSON file with the resolved sweep")
    parser.add_argument("--key", required=True, help="fail unless the inputs of the sweep have this hash")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `pointrend jobs stop` ends a sweep as Ctrl-C does
    stage = Stage()
    task = load(SweepTask, arguments.task).root
    place = sweep_place(stage, task)
    if sweep_key(task, place) != arguments.key:
        raise UserError(
            f"the inputs of sweep {task.name} have changed since this job was submitted; run the sweep again"
        )
    run_sweep(task, place, stage.cluster, tracker_of(stage), code_version(stage.root))


if __name__ == "__main__":
    run_stage(main)
