"""Runs one sweep as a Ray job and collects its result."""

import argparse

from pipeline.cluster.sweeps import collect_sweep
from pipeline.config.reader import load
from pipeline.config.sweep_tasks import SweepTask
from pipeline.stage import Stage, run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweep", required=True)
    name = parser.parse_args().sweep
    stage = Stage()
    collect_sweep(stage, load(SweepTask, stage.outputs.config("sweep", name)).root)


if __name__ == "__main__":
    run_stage(main)
