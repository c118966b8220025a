"""The job of a check on the Ray cluster: three updates on a run's own workers. Submitted by `pointrend check`."""

import argparse
from pathlib import Path

from pipeline.check.job import run_check_job
from pipeline.check.task import CheckTask
from pipeline.config.reader import load
from pipeline.stage import run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", type=Path, required=True, help="the JSON file with the resolved check")
    run_check_job(load(CheckTask, parser.parse_args().task))


if __name__ == "__main__":
    run_stage(main)
