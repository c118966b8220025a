"""Sweeps in the report: the data of the heat map, the front, and the section of the page."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.config.project import Project
from pipeline.config.sweeps import ShownSweep
from pipeline.report.figures.sweeps import sweep_section
from pipeline.report.inputs import ReportInputs
from pipeline.report.page import render_page
from pipeline.report.sweep_results import Cell, SweepResult, heat_map, pareto_front


def trial(k: float, beta: float, ap: float | None, status: str = "finished", points: int = 196) -> dict[str, Any]:
    return {
        "trial": f"{k:g} {beta:g} {points}",
        "num_points": points,
        "oversample_ratio": k,
        "importance_sample_ratio": beta,
        "status": status,
        "updates": 30 if status == "finished" else 10,
        "seconds": 0.1 * k,
        "multiply_adds": 1000 * points,
        "AP": ap,
    }


@pytest.fixture
def sweep() -> SweepResult:
    trials = [
        trial(1.0, 0.0, 10.0),
        trial(1.0, 0.75, 12.0),
        trial(1.0, 0.75, 11.0, points=49),
        trial(3.0, 0.0, 13.0, "stopped"),
        trial(3.0, 0.0, 9.0, points=49),
        trial(3.0, 0.75, None, "diverged"),
    ]
    about = {
        "kind": "training",
        "metric": "AP",
        "best": "1 0.75 196",
        "starts_from": None,
        "updates": 30,
        "batch_size": 4,
        "val_images": 40,
        "early_stopping": {"grace": 10, "reduction": 3},
        "hardware": "2 CPU threads",
    }
    return SweepResult(
        "mine", ShownSweep(title="k by <β>", heat_map=["oversample_ratio", "importance_sample_ratio"]), about, trials
    )


def test_a_cell_is_the_best_of_its_trials_that_came_to_the_end(sweep: SweepResult) -> None:
    heat = heat_map(sweep)
    assert heat is not None
    assert (heat.rows, heat.columns) == ([1.0, 3.0], [0.0, 0.75])
    assert heat.cells == {
        (1.0, 0.0): Cell(10.0, "finished", 30),
        (1.0, 0.75): Cell(12.0, "finished", 30),
        (3.0, 0.0): Cell(9.0, "finished", 30),
    }, "a stopped trial's score is that of fewer updates, a diverged one has none"


def test_a_cell_of_stopped_trials_alone_says_when(sweep: SweepResult) -> None:
    del sweep.trials[4]
    heat = heat_map(sweep)
    assert heat is not None
    assert heat.cells[3.0, 0.0] == Cell(13.0, "stopped", 10)


def test_the_front_has_what_nothing_beats() -> None:
    points = [(1.0, 5.0), (2.0, 4.0), (3.0, 7.0), (2.5, 7.0), (0.5, 1.0), (1.0, 4.5), (9.0, 7.5)]
    assert pareto_front(points) == [4, 0, 3, 6]


def test_the_page_has_a_section_with_both_pictures(sweep: SweepResult, tmp_path: Path, repository: Path) -> None:
    section = sweep_section(sweep, tmp_path)
    assert list(section.files) == ["sweep_mine_heat_map.png", "sweep_mine_pareto.png"]
    for file in section.files:
        assert Image.open(tmp_path / file).width > 300
    assert section.rows[0][:4] == ["196", "1", "0.75", "12.00"]
    text = " ".join(section.notes)
    assert "Best: N = 196, k = 1, β = 0.75, with AP 12.00" in text
    assert "40 val images" in text
    assert "Diverged, no score: 3 0.75 196" in text

    figures = Project(repository).figures()
    page = render_page(
        ReportInputs("demo", {}, figures, "sqlite:///mlflow.db", tmp_path), [], [], [], [section], tmp_path
    )
    assert page.count("data:image/png;base64,") == 2
    assert "k by &lt;β&gt;" in page


def test_without_a_heat_map_there_is_the_other_picture(sweep: SweepResult, tmp_path: Path) -> None:
    plain = SweepResult("mine", ShownSweep(title="N", cost="multiply_adds"), sweep.about, sweep.trials)
    assert list(sweep_section(plain, tmp_path).files) == ["sweep_mine_pareto.png"]
