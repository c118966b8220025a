"""The CSV files for `dvc plots`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pipeline.config.evaluations import EvaluationConfig, RenderingConfig
from pipeline.report.plots import write_plots
from pipeline.report.results import RunResult

SETTINGS = EvaluationConfig(
    {
        "224x224": RenderingConfig(resolution=224, num_points=784),
        "28x28": RenderingConfig(resolution=28, num_points=784),
        "224x224_14": RenderingConfig(resolution=224, num_points=196),
    }
)


def test_plots(made_up: Callable[..., RunResult], tmp_path: Path) -> None:
    runs = [
        made_up(
            "a", seed, {"28x28": {"AP": ap}, "224x224": {"AP": ap + 1, "AP_star": 40.0}, "224x224_14": {"AP": 99.0}},
            settings=SETTINGS, losses=[(10, 2.5), (20, 0.125)],
        )
        for seed, ap in enumerate((20.0, 30.0, 22.0))
    ]  # fmt: skip
    changed = made_up("a", 0, {}, losses=[(10, 3.0)])
    config = changed.config.model_copy(update={"changes": {"importance_sample_ratio": 0.5}})
    write_plots([*runs, replace(changed, config=config)], tmp_path / "plots")
    assert (tmp_path / "plots/training_loss.csv").read_text().splitlines() == [
        "dataset,experiment,run,step,loss",
        *(f"shapes,a,a-{seed},{step},{loss}" for seed in range(3) for step, loss in ((10, 2.5), (20, 0.125))),
        "shapes,a [importance_sample_ratio 0.5],a-0,10,3.0",
    ]
    # Of three seeds the median, in order of the resolution, with the N that most settings have.
    assert (tmp_path / "plots/accuracy_over_resolution.csv").read_text().splitlines() == [
        "dataset,experiment,resolution,AP,AP_star,boundary_AP",
        "shapes,a,28,22.0,,",
        "shapes,a,224,23.0,40.0,",
    ]


def test_plots_of_nothing(tmp_path: Path) -> None:
    write_plots([], tmp_path / "plots")
    assert {path.name: path.read_text() for path in (tmp_path / "plots").iterdir()} == {
        "training_loss.csv": "dataset,experiment,run,step,loss\n",
        "accuracy_over_resolution.csv": "dataset,experiment,resolution,AP,AP_star,boundary_AP\n",
    }
