"""Builds the report of a scale from what its runs have written; nothing is trained or evaluated."""

import tempfile
from pathlib import Path

from pipeline.config.findings import FindingsConfig
from pipeline.errors import UserError
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.report.inputs import ReportInputs
from pipeline.report.own.commits import with_commit
from pipeline.report.page import build_report
from pipeline.report.results import read_results
from pipeline.report.sweep_results import read_sweeps
from pipeline.report.tables.tracked import log_tables
from pipeline.stage import Stage
from pipeline.tracking.client import Tracker, tracker_of
from pipeline.training.record import weights_to_use


def report_of(stage: Stage) -> Path:
    """Writes the report of the selected runs, logs its tables in MLflow, and returns its page.

    Raises:
        UserError: if nothing of the scale has run.
    """
    tracker = tracker_of(stage)
    report = _inputs(stage, tracker)
    folder = stage.root / "reports" / report.scale
    build_report(report, folder)
    log_tables(report.tables, report.results, tracker)
    return folder / "index.html"


def report_with(stage: Stage, revision: str) -> Path:
    """Writes a report of the selected runs beside those of an earlier commit, and returns its page.

    Raises:
        UserError: if the scale is about the paper, whose tables have a place for one result, or the earlier results
            cannot be compared.
    """
    tracker = tracker_of(stage)
    report = _inputs(stage, tracker)
    if not report.own:
        raise UserError(
            f"scale {report.scale} is about the paper, and its tables have one result for each row; compare commits "
            f"with `dvc metrics diff {revision}`, or runs in `mlflow ui`"
        )
    if not report.results:
        raise UserError(f"scale {report.scale} has no results yet; run `dvc repro`")
    folder = stage.root / "reports" / f"{report.scale}_and_{revision.replace('/', '_')}"
    with tempfile.TemporaryDirectory(prefix="pointrend-") as earlier:
        build_report(with_commit(report, stage, tracker, revision, Path(earlier)), folder)
    return folder / "index.html"


def _inputs(stage: Stage, tracker: Tracker) -> ReportInputs:
    outputs, project, name = stage.outputs, stage.project, stage.params.scale
    scale = project.scale(name)
    if not outputs.shown_sweeps.is_file():  # which the first stage writes
        raise UserError(f"scale {name} has no results yet; run `dvc repro`")
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
    return ReportInputs(
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
