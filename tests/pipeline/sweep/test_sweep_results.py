"""What a sweep leaves behind."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.config.experiments import ExperimentConfig
from pipeline.config.project import Project
from pipeline.config.reader import load
from pipeline.config.selection import SelectedRun
from pipeline.config.sweep_tasks import resolve_sweep
from pipeline.data.annotations import Annotation
from pipeline.data.coco import Category, ImageRecord
from pipeline.data.manifest import SplitManifest, read_prepared, write_prepared
from pipeline.errors import UserError
from pipeline.sweep.costs import multiply_adds
from pipeline.sweep.records import Rung, Status, TrialRecord, TrialRecords
from pipeline.sweep.results import best_trial, to_table, write_results
from pipeline.sweep.subset import with_fewer_val_images


def trial(k: float, ap: float, status: Status = "finished", seconds: float = 1.0) -> TrialRecord:
    return TrialRecord(
        {"oversample_ratio": k}, f"run-{k:g}", status, [Rung(10, {"AP": ap / 2}), Rung(30, {"AP": ap})], seconds
    )


def test_the_best_came_to_the_end_and_costs_least_among_equals() -> None:
    trials = [trial(1.0, 5.0), trial(2.0, 9.0, "stopped"), trial(3.0, 6.0), trial(4.0, 6.0, seconds=0.5)]
    assert best_trial(trials, "AP").point == {"oversample_ratio": 4.0}


def test_nothing_is_best_where_all_have_diverged() -> None:
    with pytest.raises(UserError, match="learning rate"):
        best_trial([trial(1.0, 0.0, "diverged")], "AP")


def test_a_diverged_trial_has_no_score() -> None:
    table = to_table([trial(1.0, 5.0), trial(2.0, 0.0, "diverged")], "AP")
    assert table["AP"].to_pylist() == [5.0, None]
    assert table["status"].to_pylist() == ["finished", "diverged"]


def test_records_are_read_as_they_were_written_in_the_order_of_their_values(tmp_path: Path) -> None:
    records = TrialRecords(tmp_path)
    trials = [trial(10.0, 5.0), trial(9.0, 6.0, "stopped"), TrialRecord({"oversample_ratio": 1.0}, "run-1")]
    for record in trials:
        records.write(record)
    assert records.all() == trials[::-1]
    assert records.read({"oversample_ratio": 9.0}) == trials[1]
    assert records.read({"oversample_ratio": 8.0}) is None


def test_the_best_setting_is_an_experiment(chain: Project, tmp_path: Path) -> None:
    runs = {
        "coco_pointrend_r50-0": SelectedRun(
            task="instance",
            dataset="shapes",
            experiment="coco_pointrend_r50",
            seed=0,
            starts_from="train/shapes_detector-0",
        )
    }
    file = chain.configs / "sweeps/demo/oversampling_importance.yaml"
    task, _ = resolve_sweep(chain, "demo", file, runs)
    point = {"oversample_ratio": 3.0, "importance_sample_ratio": 0.0, "point_layers": 2}
    best = TrialRecord(point, "run", "finished", [Rung(30, {"AP": 3.0})], 0.1, 1000)
    write_results(tmp_path, [best], "AP", best, task.best(point), {"kind": "training"})

    experiment = load(ExperimentConfig, tmp_path / "best.yaml")
    assert experiment.sampling is not None
    assert (experiment.sampling.oversample_ratio, experiment.sampling.importance_sample_ratio) == (3.0, 0.0)
    assert experiment.point_head is not None
    assert experiment.point_head.layers == 2
    base = chain.experiment("demo", "coco_pointrend_r50")
    assert (experiment.model, experiment.schedule) == (base.model, base.schedule)
    assert experiment.starts_from == base.starts_from == "shapes_detector-0"
    (row,) = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert {**point, "AP": 3.0, "seconds": 0.1, "multiply_adds": 1000}.items() <= row.items()
    assert row["rungs"] == [{"update": 30, "AP": 3.0}]
    assert json.loads((tmp_path / "sweep.json").read_text())["best"] == best.name


def test_fewer_val_images_are_spread_and_have_their_truth(tmp_path: Path) -> None:
    images = [
        ImageRecord(100 + i, f"{i}.png", 8, 8, [Annotation(i, 1, (0, 0, 4, 4), 16, False, b"0a0")]) for i in range(10)
    ]
    prepared = tmp_path / "prepared"
    (prepared / "truth").mkdir(parents=True)
    write_prepared(prepared, [Category(1, "nut")], {split: SplitManifest(images) for split in ("train", "val")})
    truth = {
        "images": [{"id": 100 + i} for i in range(10)],
        "annotations": [{"id": i, "image_id": 100 + i} for i in range(10)],
        "categories": [{"id": 1, "name": "nut"}],
    }
    (prepared / "truth" / "instances.json").write_text(json.dumps(truth))
    folder = with_fewer_val_images(prepared, 4, tmp_path / "fewer")
    assert read_prepared(folder).manifest("val")["id"].to_pylist() == [100, 103, 106, 109]
    fewer = json.loads((folder / "truth" / "instances.json").read_text())
    assert [image["id"] for image in fewer["images"]] == [100, 103, 106, 109]
    assert [found["image_id"] for found in fewer["annotations"]] == [100, 103, 106, 109]
    assert fewer["categories"] == truth["categories"]
    assert with_fewer_val_images(prepared, 10, tmp_path / "all") == prepared


def test_a_deeper_and_wider_point_head_costs_more(chain: Project) -> None:
    params = SelectedRun(
        task="instance",
        dataset="shapes",
        experiment="coco_pointrend_r50",
        seed=0,
        starts_from="train/shapes_detector-0",
    )
    task, _ = resolve_sweep(
        chain, "demo", chain.configs / "sweeps/demo/oversampling_importance.yaml", {"coco_pointrend_r50-0": params}
    )
    setting = task.experiment.evaluations["224x224"]
    costs = [
        multiply_adds(task.trial(point), 5, setting)
        for point in ({"point_layers": 1}, {"point_layers": 3}, {"point_layers": 3, "point_channels": 128})
    ]
    assert None not in costs
    assert costs == sorted(costs)
    assert costs[1] == multiply_adds(task.base, 5, setting), "the model's own"
