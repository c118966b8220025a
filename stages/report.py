"""Writes the report from the runs that MLflow has, and logs its tables there."""

from pipeline.data.manifest import read_prepared
from pipeline.graph import code_digest
from pipeline.report.build import ReportedDataset, build_report
from pipeline.report.results import read_results
from pipeline.report.sweeps import read_sweeps
from pipeline.report.table_runs import log_tables
from pipeline.stage import Stage, run_stage


def main() -> None:
    stage = Stage()
    tracker = stage.tracker()
    outputs = stage.outputs.root
    tables = {name: stage.project.table(name) for name in stage.project.table_names()}
    results = read_results(stage.params, stage.outputs, code_digest(stage.root, "train"), tracker)
    datasets = {
        name: ReportedDataset(read_prepared(stage.outputs.prepared(name)), stage.images(name))
        for name in dict.fromkeys(result.dataset for result in results.runs)
    }
    build_report(
        stage.params,
        tables,
        results.runs,
        datasets,
        outputs / "predictions",
        stage.root / "reports" / stage.params.scale,
        tracker.uri,
        read_sweeps(stage.outputs.shown_sweeps, outputs / "sweeps"),
        results.missing,
    )
    log_tables(tables, results.runs, tracker)


if __name__ == "__main__":
    run_stage(main)
