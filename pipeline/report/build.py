"""Builds the report of a scale from what its runs have written; nothing is trained or evaluated."""

from pathlib import Path

from pipeline.config.findings import FindingsConfig
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.report.inputs import ReportInputs
from pipeline.report.page import build_report
from pipeline.report.results import read_results
from pipeline.report.sweep_results import read_sweeps
from pipeline.report.tables.tracked import log_tables
from pipeline.stage import Stage
from pipeline.tracking.client import tracker_of
from pipeline.training.record import weights_to_use


def report_of(stage: Stage) -> Path:
    """Writes the report of the selected runs, logs its tables in MLflow, and returns its page."""
    tracker = tracker_of(stage)
    outputs, project, name = stage.outputs, stage.project, stage.params.scale
    scale = project.scale(name)
    own = scale.about == "own data"
    tables = {name: project.table(name) for name in scale.shown_tables(project.table_names())}
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
        scale=name,
        tables=tables,
        figures=project.figures(),
        tracking_uri=tracker.uri,
        predictions=outputs.root / "predictions",
        experiments={run.experiment for run in stage.selection.runs.values()},
        defined=set(project.experiment_names(name)),
        excluded=set(stage.selection.excluded),
        results=results.runs,
        trained=trained,
        missing=results.missing,
        sweeps=read_sweeps(outputs.shown_sweeps, outputs.root / "sweeps"),
        findings=FindingsConfig({}) if own else project.findings(),
        own=own,
    )
    folder = stage.root / "reports" / name
    build_report(report, folder)
    log_tables(tables, results.runs, tracker)
    return folder / "index.html"
