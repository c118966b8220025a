"""Writes the report of the selected runs, and logs its tables in MLflow."""

from pipeline.evaluation.trained_run import TrainedRun
from pipeline.report.inputs import ReportInputs
from pipeline.report.page import build_report
from pipeline.report.results import read_results
from pipeline.report.sweep_results import read_sweeps
from pipeline.report.tables.tracked import log_tables
from pipeline.stage import Stage, run_stage
from pipeline.tracking.client import tracker_of
from pipeline.training.record import weights_to_use


def main() -> None:
    stage = Stage()
    tracker = tracker_of(stage)
    outputs = stage.outputs
    tables = {name: stage.project.table(name) for name in stage.project.table_names()}
    results = read_results(stage.selection.runs, outputs, tracker)
    trained = {
        result.run: TrainedRun(
            result.config,
            outputs.prepared(result.dataset),
            stage.images(result.dataset),
            weights_to_use(outputs.trained(result.run)),
        )
        for result in results.runs
    }
    report = ReportInputs(
        scale=stage.params.scale,
        tables=tables,
        figures=stage.project.figures(),
        tracking_uri=tracker.uri,
        predictions=outputs.root / "predictions",
        experiments={run.experiment for run in stage.selection.runs.values()},
        defined=set(stage.project.experiment_names(stage.params.scale)),
        excluded=set(stage.selection.excluded),
        results=results.runs,
        trained=trained,
        missing=results.missing,
        sweeps=read_sweeps(outputs.shown_sweeps, outputs.root / "sweeps"),
        findings=stage.project.findings(),
    )
    build_report(report, stage.root / "reports" / stage.params.scale)
    log_tables(tables, results.runs, tracker)


if __name__ == "__main__":
    run_stage(main)
