"""Training curves."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure as Plot
from PIL import Image

from pipeline.config.evaluations import SemanticRenderingConfig
from pipeline.config.experiments import ValidationConfig
from pipeline.report.figures.curves import running_mean, training_curves, validation_curves
from pipeline.report.results import RunResult
from pipeline.training.record import BestScore

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def plots(monkeypatch: pytest.MonkeyPatch) -> list[Plot]:
    """The plots that were saved, still open."""
    saved: list[Plot] = []
    monkeypatch.setattr(plt, "close", saved.append)
    return saved


def test_the_running_mean_of_five() -> None:
    assert running_mean([3.0, 5.0, 1.0, 3.0, 3.0, 8.0]) == [3.0, 4.0, 3.0, 3.0, 3.0, 4.0]


def test_the_running_mean_of_a_twentieth() -> None:
    means = running_mean([float(value) for value in range(200)])
    assert means[:2] == [0.0, 0.5]
    assert means[199] == 194.5  # of 190 to 199


def test_a_panel_for_each_dataset_and_a_color_for_each_experiment(
    tmp_path: Path, made_up: Callable[..., RunResult], plots: list[Plot]
) -> None:
    results = [made_up(experiment, seed, {}) for experiment in ("conv", "point") for seed in range(3)]
    results.append(made_up("fpn", 0, {}, dataset="streets"))
    training_curves(results, tmp_path / "curves.png")
    shapes, streets = plots[0].axes
    assert [panel.get_title(loc="left") for panel in (shapes, streets)] == ["shapes", "streets"]
    colors = [line.get_color() for line in shapes.get_lines()]
    assert len(colors) == 6
    assert len(set(colors[:3])) == len(set(colors[3:])) == 1
    assert colors[0] != colors[3]
    for panel, labels in ((shapes, ["conv (3 seeds)", "point (3 seeds)"]), (streets, ["fpn"])):
        legend = panel.get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == labels
    assert list(streets.get_lines()[0].get_ydata()) == [2.0, 1.75, 1.5]


@pytest.mark.parametrize("runs", [0, 1])
def test_nothing_to_draw_is_a_picture_too(tmp_path: Path, made_up: Callable[..., RunResult], runs: int) -> None:
    training_curves([made_up("conv", seed, {}, losses=[]) for seed in range(runs)], tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        picture.load()


def test_scores_on_the_val_images_with_the_best_weights_marked(
    tmp_path: Path, made_up: Callable[..., RunResult], plots: list[Plot]
) -> None:
    validation = ValidationConfig.of(SemanticRenderingConfig(), "code")
    plain = made_up("conv", 0, {})
    config = plain.config.model_copy(update={"validation": validation})
    validated = [
        made_up(
            "point",
            seed,
            {},
            config=config,
            validations=[(20, 10.0 + seed), (40, 30.0 + seed), (60, 25.0)],
            best=BestScore(update=40, metric="mIoU", score=30.0 + seed),
        )
        for seed in range(2)
    ]
    assert validation_curves([plain, *validated], tmp_path / "curves.png") > 0
    (panel,) = plots[0].axes
    assert panel.get_ylabel() == "mIoU, percent"
    curve, mark, other_curve, other_mark = panel.get_lines()
    assert list(curve.get_xdata()) == [20, 40, 60]
    assert list(other_curve.get_ydata()) == [11.0, 31.0, 25.0]
    assert [(*line.get_xdata(), *line.get_ydata()) for line in (mark, other_mark)] == [(40, 30.0), (40, 31.0)]
    assert mark.get_color() == curve.get_color() != other_curve.get_color()
