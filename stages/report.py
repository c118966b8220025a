"""Writes the report from the runs that MLflow has, and logs its tables there."""

from pipeline.data.manifest import read_prepared
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.graph import code_digest
from pipeline.report.figures.gallery import ReportedDataset, ReportedRun
from pipeline.report.figures.sweeps import read_sweeps
from pipeline.report.page import build_report
from pipeline.report.results import read_results
from pipeline.report.tables.tracked import log_tables
from pipeline.stage import Stage, run_stage
from pipeline.training.record import WEIGHTS


def main() -> None:
    stage = Stage()
    tracker = stage.tracker()
    outputs = stage.outputs
    tables = {name: stage.project.table(name) for name in stage.project.table_names()}
    results = read_results(stage.selection, outputs, code_digest(stage.root, "train"), tracker)
    datasets = {
        name: ReportedDataset(read_prepared(outputs.prepared(name)), stage.images(name))
        for name in dict.fromkeys(result.dataset for result in results.runs)
    }
    trained = {
        result.run: ReportedRun(
            TrainedRun(
                result.config,
                outputs.prepared(result.dataset),
                datasets[result.dataset].images,
                outputs.trained(result.run) / WEIGHTS,
            ),
            stage.evaluation(result.run),
        )
        for result in results.runs
    }
    build_report(
        stage.params.scale,
        stage.selection,
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
