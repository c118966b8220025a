"""Writes the report from the runs that MLflow has."""

from pipeline.config import annotation_files, coco_layout
from pipeline.report.build import ValImages, build_report
from pipeline.report.results import read_results
from pipeline.stage import Stage, run_stage
from pipeline.tracking import Tracker, tracking_uri


def main() -> None:
    stage = Stage()
    uri = tracking_uri(stage.root)
    tracker = Tracker(uri, f"pointrend-{stage.params.scale}", stage.root / "mlartifacts")
    outputs = stage.outputs.root
    val_images = {}
    for name in stage.params.datasets:
        dataset = stage.dataset(name)
        val_images[name] = ValImages(
            stage.root / annotation_files(name, dataset, stage.params.data_root)[1],
            stage.dataset_root(name) / coco_layout(name, dataset).val.images,
        )
    build_report(
        stage.params,
        {name: stage.project.table(name) for name in stage.project.table_names()},
        read_results(stage.params, outputs / "metrics", outputs / "train", tracker),
        val_images,
        outputs / "predictions",
        stage.root / "reports" / stage.params.scale,
        uri,
    )


if __name__ == "__main__":
    run_stage(main)
