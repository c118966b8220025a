"""Writes the report of the selected runs, and logs its tables in MLflow."""

from pipeline.data.manifest import read_prepared
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.report.figures.gallery import ReportedDataset
from pipeline.report.page import build_report
from pipeline.report.results import read_results
from pipeline.report.sweep_results import read_sweeps
from pipeline.report.tables.tracked import log_tables
from pipeline.stage import Stage, run_stage
from pipeline.tracking.client import tracker_of
from pipeline.training.record import WEIGHTS


def main() -> None:
    stage = Stage()
    tracker = tracker_of(stage)
    outputs = stage.outputs
    tables = {name: stage.project.table(name) for name in stage.project.table_names()}
    results = read_results(stage.selection.runs, outputs, tracker)
    datasets = {
        name: ReportedDataset(read_prepared(outputs.prepared(name)), stage.images(name))
        for name in dict.fromkeys(result.dataset for result in results.runs)
    }
    trained = {
        result.run: TrainedRun(
            result.config,
            outputs.prepared(result.dataset),
            datasets[result.dataset].images,
            outputs.trained(result.run) / WEIGHTS,
        )
        for result in results.runs
    }
    build_report(
        stage.params.scale,
        {run.experiment for run in stage.selection.runs.values()},
        tables,
        results.runs,
        datasets,
        trained,
        outputs.root / "predictions",
        stage.root / "reports" / stage.params.scale,
        tracker.uri,
        stage.project.figures(),
        read_sweeps(outputs.shown_sweeps, outputs.root / "sweeps"),
        results.missing,
    )
    log_tables(tables, results.runs, tracker)


if __name__ == "__main__":
    run_stage(main)
