"""Accuracy over resolution and over points."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure as Plot
from PIL import Image

from pipeline.report.figures.accuracy import Series, draw_accuracy_figure

BY_RESOLUTION: Series = {"PointRend": [(224, 34.5), (28, 33.0)], "4×conv": [(28, 31.0)]}
BY_POINTS: Series = {"PointRend": [(784, 34.5), (200, 33.0)]}


@pytest.fixture
def plots(monkeypatch: pytest.MonkeyPatch) -> list[Plot]:
    """The plots that were saved, still open."""
    saved: list[Plot] = []
    monkeypatch.setattr(plt, "close", saved.append)
    return saved


def ticks(panel: Any) -> list[str]:
    return [tick.get_text() for tick in panel.get_xticklabels()]


@pytest.mark.filterwarnings("error")
def test_a_panel_for_each_setting(tmp_path: Path, plots: list[Plot]) -> None:
    (figure,) = draw_accuracy_figure("shapes", "AP", BY_RESOLUTION, BY_POINTS, tmp_path)
    with Image.open(tmp_path / figure.file) as picture:
        assert picture.width == 2 * figure.width == 1840
    (plot,) = plots
    resolutions, points = plot.axes
    assert ticks(resolutions) == ["28×28", "224×224"]
    assert ticks(points) == ["200", "28²"]
    line = resolutions.get_lines()[0]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([28, 224], [33.0, 34.5])
    (legend,) = plot.legends
    assert [text.get_text() for text in legend.get_texts()] == ["PointRend", "4×conv"]
    # A label has one colour in both panels.
    assert points.get_lines()[0].get_color() == line.get_color()


def test_a_panel_without_values_is_left_out(tmp_path: Path, plots: list[Plot]) -> None:
    draw_accuracy_figure("shapes", "AP", {"PointRend": []}, BY_POINTS, tmp_path)
    (panel,) = plots[0].axes
    assert "points" in panel.get_xlabel()


def test_no_figure_without_values(tmp_path: Path) -> None:
    assert draw_accuracy_figure("shapes", "AP", {}, {"PointRend": []}, tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_differences_that_round_to_nothing_do_not_fill_the_axis(tmp_path: Path, plots: list[Plot]) -> None:
    draw_accuracy_figure("shapes", "AP", {"PointRend": [(28, 0.61), (224, 0.63)]}, {}, tmp_path)
    draw_accuracy_figure("shapes", "AP", BY_RESOLUTION, {}, tmp_path)
    narrow, wide = (plot.axes[0].get_ylim() for plot in plots)
    assert narrow == pytest.approx((0.12, 1.12))
    assert 31 - 1 < wide[0] < 31 < 34.5 < wide[1] < 34.5 + 1
