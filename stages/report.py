"""Writes the report of the selected runs, and logs its tables in MLflow."""

from pipeline.report.build import report_of
from pipeline.stage import Stage, run_stage


def main() -> None:
    report_of(Stage())


if __name__ == "__main__":
    run_stage(main)
