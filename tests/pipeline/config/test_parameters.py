"""A run's settings as flat parameters."""

from pathlib import Path

import pytest

from pipeline.config.evaluations import RenderingConfig, SemanticRenderingConfig
from pipeline.config.experiments import RunConfig
from pipeline.config.parameters import run_parameters, setting_parameters
from pipeline.config.project import Project


@pytest.fixture(scope="module")
def paper_runs(repository: Path) -> dict[str, RunConfig]:
    project = Project(repository)
    selection = project.select("paper", "data")
    return {name: project.run("paper", name, run)[0] for name, run in selection.runs.items()}


def test_the_parameters_of_pointrend(paper_runs: dict[str, RunConfig]) -> None:
    assert run_parameters(paper_runs["coco_pointrend_r50-2"]) == {
        "dataset": "coco2017",
        "head": "PointRend",
        "backbone": "r50_fpn_coco",
        "seed": "2",
        "batch_size": "16",
        "updates": "90000",
        "learning_rate": "0.02",
        "precision": "float32",
        "norm": "frozen_batch",
        "train_size": "640-800",
        "test_size": "800",
        "sampling": "biased",
        "train_points": "196",
        "oversample_ratio": "3",
        "importance_sample_ratio": "0.75",
        "point_layers": "3",
        "point_channels": "256",
    }


def test_parameters_of_points_are_of_pointrend_alone(paper_runs: dict[str, RunConfig]) -> None:
    point, conv = (run_parameters(paper_runs[f"coco_{head}_r50-0"]) for head in ("pointrend", "4xconv"))
    of_points = ["sampling", "train_points", "oversample_ratio", "importance_sample_ratio"]
    of_points += ["point_layers", "point_channels"]
    assert list(point) == [*conv, *of_points]
    assert {key for key in conv if point[key] != conv[key]} == {"head"}
    assert conv["head"] == "4xconv"


def test_a_regular_grid_has_no_k_and_beta(paper_runs: dict[str, RunConfig]) -> None:
    grid = run_parameters(paper_runs["coco_pointrend_r50_grid-0"])
    assert (grid["sampling"], grid["train_points"]) == ("grid", "196")
    assert grid.keys().isdisjoint(("oversample_ratio", "importance_sample_ratio"))


def test_one_training_size(repository: Path) -> None:
    project = Project(repository)
    selection = project.select("nuclei", "data")
    run, _ = project.run("nuclei", "coco_4xconv_r50-0", selection.runs["coco_4xconv_r50-0"])
    assert run_parameters(run)["train_size"] == "256"


def test_a_setting_has_what_it_says_and_no_more() -> None:
    assert setting_parameters(RenderingConfig(resolution=28)) == {"resolution": "28"}
    full = {"resolution": "224", "subdivision_points": "784"}
    assert setting_parameters(RenderingConfig(resolution=224, num_points=784)) == full
    semantic = {"output_stride": "8", "subdivision_points": "2048"}
    assert setting_parameters(SemanticRenderingConfig(output_stride=8, num_points=2048)) == semantic
    assert setting_parameters(SemanticRenderingConfig()) == {}
