"""Writes the report from the runs that MLflow has."""

from pipeline.data.manifest import read_prepared
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.report.build import build_report
from pipeline.report.gallery import ReportedDataset, ReportedRun
from pipeline.report.results import read_results
from pipeline.report.sweeps import read_sweeps
from pipeline.stage import Stage, run_stage
from pipeline.training.worker import WEIGHTS


def main() -> None:
    stage = Stage()
    tracker = stage.tracker()
    outputs = stage.outputs.root
    datasets = {
        name: ReportedDataset(read_prepared(stage.outputs.prepared(name)), stage.images(name))
        for name in stage.params.datasets
    }
    build_report(
        stage.params,
        {name: stage.project.table(name) for name in stage.project.table_names()},
        read_results(stage.params, outputs / "metrics", outputs / "train", tracker),
        datasets,
        {
            name: ReportedRun(
                TrainedRun(
                    config := stage.run(name),
                    stage.outputs.prepared(config.dataset),
                    stage.images(config.dataset),
                    stage.outputs.trained(name) / WEIGHTS,
                ),
                stage.evaluation(name),
            )
            for name in stage.params.runs
        },
        outputs / "predictions",
        stage.root / "reports" / stage.params.scale,
        tracker.uri,
        read_sweeps(stage.outputs.shown_sweeps, outputs / "sweeps"),
    )


if __name__ == "__main__":
    run_stage(main)
