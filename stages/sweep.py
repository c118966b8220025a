"""Runs one sweep."""

import argparse

from pipeline.config.reader import load
from pipeline.config.sweep_tasks import SweepTask
from pipeline.stage import Stage, run_stage
from pipeline.sweep.stage import run_in


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweep", required=True)
    name = parser.parse_args().sweep
    stage = Stage()
    run_in(stage, load(SweepTask, stage.outputs.config("sweep", name)).root)


if __name__ == "__main__":
    run_stage(main)
