import io
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline.config.project import Project
from pipeline.config.tables import TableConfig
from pipeline.report.results import RunResult
from pipeline.report.tables.formats import (
    format_difference,
    format_number,
    format_spread,
    to_arrow,
    to_csv,
    to_latex,
    to_markdown,
)
from pipeline.report.tables.table import STAND_INS, Table, Value, build_table, notes, row_label

TABLES = sorted(path.stem for path in (Path(__file__).parents[4] / "configs/tables").iterdir())


@pytest.fixture
def table_1(repository: Path) -> TableConfig:
    return Project(repository).table("table1")


@pytest.fixture
def table(table_1: TableConfig, results: list[RunResult]) -> Table:
    return build_table("table1", table_1, results)


def small_table(
    title: str = "A title",
    label: str = "A label",
    column: str = "AP",
    baseline: str = "a",
    heading: str | None = None,
    unit: float = 1.0,
) -> TableConfig:
    """One column, three rows: experiments a, b and c at setting s."""
    cells = [{"experiment": name, "evaluation": "s", "metric": "AP", "paper": 10.0 + i} for i, name in enumerate("abc")]
    return TableConfig.model_validate(
        {
            "heading": heading,
            "title": title,
            "row_labels": ["head"],
            "columns": [{"key": "ap", "label": column, "unit": unit}],
            "rows": [
                {"labels": [label], "cells": {"ap": cell}, "baseline": cell["experiment"] == baseline} for cell in cells
            ],
        }
    )


# Values


def test_the_median_over_three_seeds(table: Table) -> None:
    values = [values["coco_ap"] for _, values in table.rows]
    assert [v.ours for v in values] == [31.0, 33.0, 34.5]
    assert [v.spread for v in values] == [5.0, 3.75, 3.0]
    assert [v.seeds for v in values] == [3, 3, 3]
    assert [v.missing for v in values] == ["", "", ""]


def test_gains_are_against_the_first_row(table: Table) -> None:
    values = [values["coco_ap"] for _, values in table.rows]
    assert [v.gain for v in values] == [None, 2.0, 3.5]


def test_the_papers_gains(table: Table) -> None:
    # Table 1: 36.1 (+0.9), 39.2 (+1.6), 35.5 (+2.5) and 36.3 (+1.1), 39.7 (+2.1), 35.8 (+2.8).
    shown = [
        [
            format_number(values[key].paper, values[key].paper_gain)
            for key in ("coco_ap", "coco_ap_star", "cityscapes_ap")
        ]
        for _, values in table.rows
    ]
    assert shown == [
        ["35.2", "37.6", "33.0"],
        ["36.1 (+0.9)", "39.2 (+1.6)", "35.5 (+2.5)"],
        ["36.3 (+1.1)", "39.7 (+2.1)", "35.8 (+2.8)"],
    ]


@pytest.mark.parametrize(
    ("name", "gains"),
    [
        (
            "table3",
            [
                ["36.1", "39.2", "–", "35.4"],
                ["36.2 (+0.1)", "39.6 (+0.4)", "–", "35.8 (+0.4)"],
                ["36.3 (+0.2)", "39.7 (+0.5)", "–", "35.8 (+0.4)"],
                ["36.3 (+0.2)", "39.7 (+0.5)", "–", "35.8 (+0.4)"],
                ["36.1", "39.4", "–", "35.5"],
                ["36.3 (+0.2)", "39.7 (+0.3)", "–", "35.8 (+0.3)"],
                ["36.3 (+0.2)", "39.7 (+0.3)", "–", "35.8 (+0.3)"],
                ["36.3 (+0.2)", "39.7 (+0.3)", "–", "35.8 (+0.3)"],
            ],
        ),
        (  # over the mildly biased selection, which is the third row
            "table4",
            [
                ["35.7 (-0.6)", "39.1 (-0.6)", "34.4 (-1.4)"],
                ["35.9 (-0.4)", "39.0 (-0.7)", "34.5 (-1.3)"],
                ["36.3", "39.7", "35.8"],
                ["34.4 (-1.9)", "37.5 (-2.2)", "34.1 (-1.7)"],
            ],
        ),
        (
            "table5",
            [
                ["37.2", "39.5", "–"],
                ["38.2 (+1.0)", "41.5 (+2.0)", "–"],
                ["38.6", "41.4", "–"],
                ["39.8 (+1.2)", "43.5 (+2.1)", "–"],
                ["39.5", "42.1", "–"],
                ["40.9 (+1.4)", "44.9 (+2.8)", "–"],
            ],
        ),
        ("table6", [["77.2"], ["77.8 (+0.6)"], ["78.4 (+1.2)"]]),
        ("table7", [["77.7"], ["78.6 (+0.9)"], ["77.4"], ["78.5 (+1.1)"]]),
        (
            "table8",
            [
                ["42.4", "57.5", "77.2"],
                ["47.3 (+4.9)", "61.2 (+3.7)", "78.4 (+1.2)"],
                ["47.0", "60.6", "77.7"],
                ["48.6 (+1.6)", "62.1 (+1.5)", "78.6 (+0.9)"],
            ],
        ),
    ],
)
def test_the_papers_gains_are_over_the_baseline_of_their_row(
    repository: Path, name: str, gains: list[list[str]]
) -> None:
    table = build_table(name, Project(repository).table(name), [])
    assert [[format_number(v.paper, v.paper_gain) for v in row.values()] for _, row in table.rows] == gains


@pytest.mark.parametrize(
    ("baseline", "gains"),
    [
        ("a", [None, 10.0, 9.0]),
        ("b", [-10.0, None, -1.0]),
        ("c", [-9.0, 1.0, None]),
        ("none", [None, 10.0, 9.0]),
    ],
)
def test_our_gains_are_over_the_baseline_above_or_else_below(
    made_up: Callable[..., RunResult], baseline: str, gains: list[float | None]
) -> None:
    results = [made_up(name, 0, {"s": {"AP": ap}}) for name, ap in (("a", 20.0), ("b", 30.0), ("c", 29.0))]
    table = build_table("t", small_table(baseline=baseline), results)
    assert [values["ap"].gain for _, values in table.rows] == gains


def test_table_3_compares_with_its_two_baselines(repository: Path, made_up: Callable[..., RunResult]) -> None:
    settings = {"28x28": 30.0, "56x56": 31.0, "112x112": 32.0, "224x224": 33.0, "224x224_14": 32.5, "224x224_56": 33.5}
    run = made_up("coco_pointrend_r50", 0, {name: {"AP": ap} for name, ap in settings.items()})
    values = [v["coco_ap"] for _, v in build_table("table3", Project(repository).table("table3"), [run]).rows]
    assert [v.ours for v in values] == [30.0, 31.0, 32.0, 33.0, 32.5, 33.0, 33.5, None]
    assert [v.gain for v in values] == [None, 1.0, 2.0, 3.0, None, 0.5, 1.0, None]
    # The paper sees +0.1, +0.2 and +0.2, then +0.2 three times.
    assert [v.agrees for v in values] == [None, True, True, True, None, True, True, None]


def test_numbers_are_in_the_unit_of_their_column(made_up: Callable[..., RunResult]) -> None:
    results = [made_up("a", seed, {"s": {"AP": ap}}) for seed, ap in enumerate((20.0, 26.0))]
    value = build_table("t", small_table(unit=4.0), results).rows[0][1]["ap"]
    # (20 + 26) / 2 / 4, and (26 - 20) / 4; the paper's 10 is in that unit as it is printed.
    assert (value.ours, value.spread, value.paper, value.difference) == (5.75, 1.5, 10.0, -4.25)


@pytest.mark.parametrize(
    ("name", "heading", "shown"),
    [("table1", None, "Table 1"), ("table_4_2", "Section 4.2", "Section 4.2"), ("mine", None, "mine")],
)
def test_headings(name: str, heading: str | None, shown: str) -> None:
    table = build_table(name, small_table(heading=heading), [])
    assert table.heading == shown
    assert to_markdown(table).startswith(f"**{shown}. A title**\n\n|")


# What a cell says of the paper


@pytest.mark.parametrize(
    ("gain", "papers", "agrees"),
    [
        (2.0, 0.9, True),
        (-2.0, -0.9, True),
        (0.05, 0.1, True),
        (-0.3, 0.9, False),
        (0.3, -0.9, False),
        (0.04, 0.9, False),  # shown as +0.0
        (-0.04, -0.9, False),
        (2.0, 0.0, None),
        (2.0, 36.3 - 36.3, None),
        (0.0, 0.0, None),
        (2.0, None, None),
        (None, 0.9, None),
    ],
)
def test_whether_a_gain_has_the_papers_sign(gain: float | None, papers: float | None, agrees: bool | None) -> None:
    assert Value({"a-0": 30.0}, 30.0, gain, 36.0, papers).agrees is agrees


def test_the_smallest_gain_of_the_paper_counts() -> None:
    # Table 3: 36.2 - 36.1 is a little less than 0.1.
    assert Value({"a-0": 30.0}, 30.0, 0.1, 36.2, 36.2 - 36.1).agrees is True


@pytest.mark.parametrize(
    ("ours", "paper", "difference"), [(34.5, 36.25, -1.75), (None, 36.3, None), (34.5, None, None), (0.0, 0.0, 0.0)]
)
def test_the_difference_is_ours_minus_the_papers(
    ours: float | None, paper: float | None, difference: float | None
) -> None:
    assert Value({}, ours, None, paper, None).difference == difference


@pytest.mark.parametrize(
    ("numbers", "spread", "shown"),
    [
        ({}, 0.0, ""),
        ({"a-0": 31.0}, 0.0, ""),
        ({"a-0": 31.0, "a-1": 31.0}, 0.0, " ±0.0"),
        ({"a-0": 31.0, "a-1": 34.0}, 3.0, " ±1.5"),
        ({"a-0": 35.0, "a-1": 30.0, "a-2": 31.0}, 5.0, " ±2.5"),
    ],
)
def test_the_spread_is_the_range_of_the_seeds(numbers: dict[str, float], spread: float, shown: str) -> None:
    value = Value(numbers, None, None, None, None)
    assert (value.spread, format_spread(value)) == (spread, shown)


# Runs with overridden settings


def changed(made_up: Callable[..., RunResult], experiment: str, seed: int, ap: float) -> RunResult:
    run = made_up(experiment, seed, {"s": {"AP": ap}})
    config = run.config.model_copy(update={"changes": {"importance_sample_ratio": 0.5}})
    return replace(run, config=config)


def test_a_row_is_named_by_what_was_run_and_claims_nothing_of_the_paper(made_up: Callable[..., RunResult]) -> None:
    runs = [made_up("a", 0, {"s": {"AP": 20.0}}), made_up("c", 0, {"s": {"AP": 23.0}})]
    runs += [changed(made_up, "b", seed, 22.0) for seed in range(2)]
    table = build_table("t", small_table(), runs)
    assert [labels for labels, _ in table.rows] == [["A label"], ["A label [importance_sample_ratio 0.5]"], ["A label"]]
    values = [values["ap"] for _, values in table.rows]
    assert [(v.ours, v.gain) for v in values] == [(20.0, None), (22.0, 2.0), (23.0, 3.0)]
    assert [(v.paper, v.paper_gain, v.difference) for v in values] == [
        (10.0, None, 10.0),
        (None, None, None),
        (12.0, 2.0, 11.0),
    ]
    assert [v.agrees for v in values] == [None, None, True]
    note = "AP: run with importance_sample_ratio 0.5; the paper's number is of other settings and left out"
    assert notes(table) == [note]
    text = to_markdown(table)
    assert "| A label [importance_sample_ratio 0.5] | 22.0 (+2.0) ±0.0 | – | – |" in text
    assert f"- {note}" in text
    assert r"A label [importance\_sample\_ratio 0.5] & 22.0 (+2.0) $\pm$0.0 & -- \\" in to_latex(table)


def test_gains_over_a_baseline_with_overridden_settings_are_not_the_papers(made_up: Callable[..., RunResult]) -> None:
    runs = [changed(made_up, "a", 0, 20.0), made_up("b", 0, {"s": {"AP": 22.0}})]
    value = build_table("t", small_table(), runs).rows[1][1]["ap"]
    assert (value.gain, value.paper, value.paper_gain, value.agrees) == (2.0, 11.0, None, None)


def test_a_row_says_which_of_its_experiments_has_other_settings(
    table_1: TableConfig, made_up: Callable[..., RunResult]
) -> None:
    row = table_1.rows[1]
    coco = changed(made_up, "coco_pointrend_r50", 0, 20.0)
    assert row_label(row, []) == "PointRend 28×28"
    assert row_label(row, [coco]) == "PointRend 28×28 [importance_sample_ratio 0.5]"
    both = [coco, made_up("cityscapes_pointrend_r50", 0, {})]
    assert row_label(row, both) == "PointRend 28×28 [coco_pointrend_r50: importance_sample_ratio 0.5]"


# Table 2


@pytest.fixture
def table_2(repository: Path) -> Table:
    return build_table("table2", Project(repository).table("table2"), [], stand_ins=True)


def test_costs_are_counted_without_a_run(table_2: Table) -> None:
    convolutions = 4 * 14**2 * 256 * 256 * 9 + 14**2 * 256 * 256 * 4 + 28**2 * 256 * 80
    activations = 5 * 256 * 14**2 + (256 + 80) * 28**2
    small, large, pointrend = (values for _, values in table_2.rows)
    assert (small["flops"].ours, small["activations"].ours) == (convolutions / 1e9, activations / 1e6)
    # 224x224 has 8^2 times the cells of 28x28.
    assert (large["flops"].ours, large["activations"].ours) == (64 * convolutions / 1e9, 64 * activations / 1e6)
    coarse = 2 * 7**2 * 256 * 1024 + 1024 * 1024 + 7**2 * 1024 * 80
    points = 4 * 28**2 * (3 * (256 + 80) * 256 + (256 + 80) * 80)
    assert pointrend["flops"].ours == (coarse + points) / 1e9
    assert small["flops"].numbers == {"": convolutions / 1e9}, "of no run"


def test_table_2_is_the_papers_to_one_step_of_its_rounding(table_2: Table) -> None:
    lines = [cells(line) for line in to_markdown(table_2).splitlines() if line.startswith("|")]
    flops, activations = ["FLOPs, 10⁹", "paper", "Δ"], ["activations, 10⁶", "paper", "Δ"]
    assert lines[0] == ["mask head", "output resolution", *flops, *activations]
    # Gains are over the middle row. The paper's 34 and 33 are rounded to whole numbers, ours are 33.91 and 32.92.
    assert lines[2:] == [
        ["4×conv", "28×28", "0.5 (-33.4)", "0.5 (-33.5)", "+0.0", "0.5 (-32.4)", "0.5 (-32.5)", "+0.0"],
        ["4×conv", "224×224", "33.9", "34.0", "-0.1", "32.9", "33.0", "-0.1"],
        ["PointRend", "224×224", "0.9 (-33.0)", "0.9 (-33.1)", "+0.0", "0.7 (-32.2)", "0.7 (-32.3)", "+0.0"],
    ]
    for _, values in table_2.rows:
        for value in values.values():
            assert value.paper is not None
            assert round(value.ours or 0, 0 if value.paper > 1 else 1) == value.paper
            assert value.agrees in (True, None)


def test_another_model_s_costs_are_its_own() -> None:
    cell = {"model": "pointrend_rcnn_tiny_fpn", "resolution": 28, "num_points": 196, "cost": "multiply_adds"}
    config = TableConfig.model_validate(
        {
            "title": "A title",
            "row_labels": ["head"],
            "columns": [{"key": "cost", "label": "cost"}],
            "rows": [{"labels": ["tiny"], "cells": {"cost": cell}}],
        }
    )
    # 64 channels, 80 classes. 14^2 points of 7x7 to 14x14 at once, then 14^2 of 28x28.
    coarse = 7**2 * 64 * 4 * 64 + 7**2 * 64 * 256 + 256 * 256 + 256 * 80 * 7**2
    a_point = 3 * (64 + 80) * 64 + (64 + 80) * 80
    assert build_table("t", config, []).rows[0][1]["cost"].ours == coarse + 2 * 14**2 * a_point


# Where there is no number


def test_an_even_number_of_seeds(made_up: Callable[..., RunResult]) -> None:
    results = [made_up("a", seed, {"s": {"AP": ap}}) for seed, ap in enumerate((20.0, 26.0))]
    value = build_table("t", small_table(), results).rows[0][1]["ap"]
    assert (value.ours, value.spread, value.seeds) == (23.0, 6.0, 2)


def test_an_empty_cell_says_why(table_1: TableConfig, made_up: Callable[..., RunResult]) -> None:
    results = [
        made_up("coco_4xconv_r50", 0, {"28x28": {"AP": 31.0}}),
        made_up("coco_pointrend_r50", 0, {"28x28": {"AP": 33.0}}),
    ]
    table = build_table("table1", table_1, results)
    reasons = [{key: value.missing for key, value in values.items()} for _, values in table.rows]
    assert reasons == [
        {
            "coco_ap": "",
            "coco_ap_star": "AP_star was not measured",
            "coco_boundary_ap": "boundary_AP was not measured",
            "cityscapes_ap": "no run of cityscapes_4xconv_r50 was selected",
        },
        {
            "coco_ap": "",
            "coco_ap_star": "AP_star was not measured",
            "coco_boundary_ap": "boundary_AP was not measured",
            "cityscapes_ap": "no run of cityscapes_pointrend_r50 was selected",
        },
        {
            "coco_ap": "coco_pointrend_r50 was not evaluated at 224x224",
            "coco_ap_star": "coco_pointrend_r50 was not evaluated at 224x224",
            "coco_boundary_ap": "coco_pointrend_r50 was not evaluated at 224x224",
            "cityscapes_ap": "no run of cityscapes_pointrend_r50 was selected",
        },
    ]
    for _, values in table.rows:
        for value in values.values():
            assert (value.ours is None) == bool(value.missing)
    assert table.rows[2][1]["coco_ap"].gain is None
    assert notes(table) == [
        "COCO AP*: AP_star was not measured",
        "COCO boundary AP: boundary_AP was not measured",
        "Cityscapes AP: no run of cityscapes_4xconv_r50 was selected; no run of cityscapes_pointrend_r50 was selected",
        "COCO AP, COCO AP*, COCO boundary AP: coco_pointrend_r50 was not evaluated at 224x224",
    ]


def test_an_empty_cell_says_why_its_run_was_lost(made_up: Callable[..., RunResult]) -> None:
    lost = {"a-0": "its loss diverged", "a_3x-0": "of another experiment", "c-0": "it was never trained"}
    table = build_table("t", small_table(), [made_up("b", 0, {"s": {"AP": 20.0}})], lost)
    assert [values["ap"].missing for _, values in table.rows] == ["its loss diverged", "", "it was never trained"]
    assert notes(table) == ["AP: its loss diverged; it was never trained"]
    for text in (to_markdown(table), to_csv(table)):
        assert "its loss diverged" in text
        assert "of another experiment" not in text


def test_a_lost_seed_leaves_the_others(made_up: Callable[..., RunResult]) -> None:
    runs = [made_up("a", seed, {"s": {"AP": ap}}) for seed, ap in enumerate((20.0, 22.0))]
    value = build_table("t", small_table(), runs, {"a-2": "its loss diverged"}).rows[0][1]["ap"]
    assert (value.ours, value.seeds, value.missing) == (21.0, 2, "")


def test_stand_ins_have_a_caveat(table_1: TableConfig, table_2: Table, results: list[RunResult]) -> None:
    table = build_table("table1", table_1, results, stand_ins=True)
    assert notes(table)[0] == STAND_INS
    assert f"\n- {STAND_INS}\n" in to_markdown(table)
    seeds = "Numbers are medians over 3 seeds."
    title = r"PointRend vs. the default 4$\times$conv mask head for Mask R-CNN."
    assert rf"\caption{{{title} {seeds} {STAND_INS}}}" in to_latex(table)
    assert list(pd.read_csv(io.StringIO(to_csv(table)))["caveat"]) == [STAND_INS] * 3
    # Table 2 is counted on the paper's own heads.
    for true in (build_table("table1", table_1, results), table_2):
        assert "stand-ins" not in to_markdown(true) + to_csv(true) + to_latex(true)


def test_numbers_of_stand_ins_are_not_subtracted_from_the_papers(
    table_1: TableConfig, results: list[RunResult]
) -> None:
    stand_ins, true = (build_table("table1", table_1, results, stand_ins=stand_ins) for stand_ins in (True, False))
    assert "Δ" not in to_markdown(stand_ins)
    assert "_difference" not in to_csv(stand_ins)
    assert to_markdown(true).count("Δ") == to_csv(true).count("_difference,") - 1 == 3
    header, first, *_ = to_csv(stand_ins).splitlines()
    assert header.startswith(
        "mask head,output resolution,coco_ap,coco_ap_spread,coco_ap_seeds,coco_ap_paper,coco_ap_missing,coco_ap_star,"
    )
    assert first.startswith("4×conv,28×28,31.0,5.0,3,35.2,,")
    frame = pd.read_csv(io.StringIO(to_csv(true)))
    assert frame["coco_ap_difference"].iloc[0] == pytest.approx(31.0 - 35.2)


def test_a_gain_has_an_interval_where_both_rows_have_resamples(made_up: Callable[..., RunResult]) -> None:
    # Row a is the baseline. Row b is 1 to 5 above it on the resamples, though both move by 80; c has no resamples.
    drawn = {"a": [10.0, 50.0, 90.0], "b": [11.0, 53.0, 95.0]}
    runs = [
        made_up(name, 0, {"s": {"AP": ours}}, {"s": {"AP": drawn[name]}} if name in drawn else {})
        for name, ours in (("a", 50.0), ("b", 53.0), ("c", 54.0))
    ]
    a, b, c = (values["ap"] for _, values in build_table("t", small_table(), runs).rows)
    assert (b.gain, b.gain_interval) == (3.0, (pytest.approx(1.1), pytest.approx(4.9)))
    assert (a.gain_interval, c.gain, c.gain_interval) == (None, 4.0, None)
    b = build_table("t", small_table(unit=2.0), runs).rows[1][1]["ap"]
    assert b.gain_interval == (pytest.approx(0.55), pytest.approx(2.45))


def test_without_the_first_row_there_is_no_gain(made_up: Callable[..., RunResult]) -> None:
    results = [made_up("b", 0, {"s": {"AP": 20.0}}), made_up("c", 0, {"s": {"AP": 21.0}})]
    values = [values["ap"] for _, values in build_table("t", small_table(), results).rows]
    assert [v.ours for v in values] == [None, 20.0, 21.0]
    assert [v.gain for v in values] == [None, None, None]
    assert [v.paper_gain for v in values] == [None, 1.0, 2.0]


def test_runs_without_the_setting_do_not_count(made_up: Callable[..., RunResult]) -> None:
    results = [
        made_up("a", 0, {"s": {"AP": 20.0}}),
        made_up("a", 1, {"other": {"AP": 99.0}}),
        made_up("a", 2, {"s": {"AP50": 99.0}}),
    ]
    value = build_table("t", small_table(), results).rows[0][1]["ap"]
    assert (value.ours, value.seeds) == (20.0, 1)


def test_a_metric_that_is_not_a_number_is_an_empty_cell(made_up: Callable[..., RunResult]) -> None:
    # pipeline.metrics.coco_ap gives NaN where there is no ground truth to average over.
    results = [made_up("a", 0, {"s": {"AP": math.nan}}), made_up("b", 0, {"s": {"AP": 20.0}})]
    table = build_table("t", small_table(), results)
    value = table.rows[0][1]["ap"]
    assert value.ours is None
    assert "AP" in value.missing
    assert table.rows[1][1]["ap"].gain is None
    assert "nan" not in to_markdown(table) + to_csv(table) + to_latex(table)


def test_results_of_nothing(table_1: TableConfig) -> None:
    table = build_table("table1", table_1, [])
    assert all(value.ours is None and value.missing for _, values in table.rows for value in values.values())
    assert all("35.2" in text for text in (to_markdown(table), to_csv(table), to_latex(table)))


@pytest.mark.parametrize(
    ("value", "gain", "text"),
    [
        (None, None, "–"),
        (36.13, None, "36.1"),
        (36.13, 0.93, "36.1 (+0.9)"),
        (36.13, -0.93, "36.1 (-0.9)"),
        (36.13, 0.0, "36.1 (+0.0)"),
        (36.13, -0.04, "36.1 (+0.0)"),
        (0.0, None, "0.0"),
    ],
)
def test_numbers_as_the_paper_prints_them(value: float | None, gain: float | None, text: str) -> None:
    assert format_number(value, gain) == text


@pytest.mark.parametrize(
    ("difference", "text"), [(None, "–"), (1.26, "+1.3"), (-1.26, "-1.3"), (0.0, "+0.0"), (-0.04, "+0.0")]
)
def test_differences_have_a_sign(difference: float | None, text: str) -> None:
    assert format_difference(difference) == text


# Files


def cells(line: str) -> list[str]:
    parts = re.split(r"(?<!\\)\|", line)
    assert (parts[0], parts[-1]) == ("", "")
    return [part.strip().replace(r"\*", "*").replace(r"\|", "|") for part in parts[1:-1]]


def first_number(text: str) -> float | None:
    return None if text == "–" else float(text.split()[0])


def test_markdown_reads_back(table: Table) -> None:
    lines = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
    header, rule, *rows = [cells(line) for line in lines]
    assert header == [
        "mask head",
        "output resolution",
        "COCO AP",
        "paper",
        "Δ",
        "COCO AP*",
        "paper",
        "Δ",
        "COCO boundary AP",  # of which the paper has none
        "Cityscapes AP",
        "paper",
        "Δ",
    ]
    assert rule == ["---"] * 12
    for row, (labels, values) in zip(rows, table.rows, strict=True):
        assert row[:2] == labels
        found = [first_number(cell) for cell in row[2:]]
        papers = {key: values[key].paper for key in ("coco_ap", "coco_ap_star", "cityscapes_ap")}
        boundary, cityscapes = None, [None, papers["cityscapes_ap"], None]
        ours = values["coco_ap"].ours
        assert ours is not None
        difference = round(ours - (papers["coco_ap"] or 0), 1)
        assert found == [ours, papers["coco_ap"], difference, None, papers["coco_ap_star"], None, boundary, *cityscapes]
    # 31.0 - 35.2, 33.0 - 36.1 and 34.5 - 36.3; half of 35 - 30, of 36.25 - 32.5 and of 36 - 33.
    assert [row[2:5] for row in rows] == [
        ["31.0 ±2.5", "35.2", "-4.2"],
        ["33.0 (+2.0) ±1.9", "36.1 (+0.9)", "-3.1"],
        ["34.5 (+3.5) ±1.5", "36.3 (+1.1)", "-1.8"],
    ]


def test_markdown_has_title_and_reasons(table: Table) -> None:
    text = to_markdown(table)
    assert text.startswith("**Table 1. PointRend vs. the default 4×conv mask head for Mask R-CNN**\n\n|")
    for note in notes(table):
        assert f"\n- {note}\n" in text


def test_markdown_escapes_what_would_break_a_row(made_up: Callable[..., RunResult]) -> None:
    config = small_table(label="a | b *c*", column="AP*|x")
    lines = [line for line in to_markdown(build_table("t", config, [])).splitlines() if line.startswith("|")]
    assert [len(cells(line)) for line in lines] == [4] * 5
    assert cells(lines[0])[1] == "AP*|x"
    assert cells(lines[2])[0] == "a | b *c*"
    assert not re.search(r"(?<!\\)\*", "".join(lines))


def test_csv_reads_back(table: Table) -> None:
    frame = pd.read_csv(io.StringIO(to_csv(table)))
    assert list(frame.columns[:2]) == ["mask head", "output resolution"]
    assert len(frame) == 3
    for (labels, values), (_, row) in zip(table.rows, frame.iterrows(), strict=True):
        assert [row["mask head"], row["output resolution"]] == labels
        for key, value in values.items():
            found: list[Any] = [row[key + suffix] for suffix in ("", "_spread", "_seeds", "_paper", "_missing")]
            found = [None if pd.isna(v) else v for v in found]
            assert found == [value.ours, value.spread, value.seeds, value.paper, value.missing or None]
    assert list(frame["coco_ap_difference"]) == [-4.2, -3.1, -1.8]
    assert frame["coco_boundary_ap_difference"].isna().all()
    assert frame["caveat"].isna().all()


def test_csv_keeps_labels_with_commas_and_quotes() -> None:
    frame = pd.read_csv(io.StringIO(to_csv(build_table("t", small_table(label='a, "b"'), []))))
    assert list(frame["head"]) == ['a, "b"'] * 3


def latex_rows(text: str) -> list[str]:
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    return [line for line in body.splitlines() if line.endswith(r"\\")]


def latex_width(row: str) -> int:
    """How many columns a row spans."""
    spans = [int(span) for span in re.findall(r"\\multicolumn\{(\d+)\}", row)]
    return len(re.findall(r"(?<!\\)&", row)) + 1 + sum(spans) - len(spans)


def depth(text: str) -> list[int]:
    """How many braces are open after each character; escaped ones do not count."""
    level, levels = 0, []
    for token in re.findall(r"\\.|[^\\]", text, flags=re.DOTALL):
        level += {"{": 1, "}": -1}.get(token, 0)
        levels.append(level)
    return levels


def test_latex_is_whole(table: Table) -> None:
    text = to_latex(table)
    assert depth(text)[-1] == 0
    assert min(depth(text)) == 0
    begun = re.findall(r"\\begin\{(\w+)\}", text)
    assert begun == re.findall(r"\\end\{(\w+)\}", text)[::-1] == ["table", "tabular"]
    specification = re.search(r"\\begin\{tabular\}\{([lrc]+)\}", text)
    assert specification is not None
    assert len(specification[1]) == 2 + 2 * 3 + 1  # boundary AP is ours alone
    rows = latex_rows(text)
    assert len(rows) == 2 + 3
    assert [latex_width(row) for row in rows] == [9] * 5
    assert r"4$\times$conv & 28$\times$28 & 31.0 $\pm$2.5 & 35.2 & -- & 37.6 & -- & -- & 33.0 \\" in rows[2]
    assert r"33.0 (+2.0) $\pm$1.9 & 36.1 (+0.9)" in rows[3]


@pytest.mark.parametrize(
    ("character", "escaped"),
    [
        ("&", r"\&"),
        ("%", r"\%"),
        ("$", r"\$"),
        ("#", r"\#"),
        ("_", r"\_"),
        ("{", r"\{"),
        ("}", r"\}"),
        ("~", r"\textasciitilde"),
        ("^", r"\textasciicircum"),
        ("\\", r"\textbackslash"),
        ("×", r"$\times$"),
        ("±", r"$\pm$"),
        ("β", r"$\beta$"),
        ("²", "$^{2}$"),
        ("⁶", "$^{6}$"),
        ("⁹", "$^{9}$"),
        ("*", "$^{*}$"),
        ("<", "$<$"),
        (">", "$>$"),
        ("|", "$|$"),
        ("–", "--"),
    ],
)
@pytest.mark.parametrize("place", ["title", "label", "column"])
def test_latex_escapes_special_characters(character: str, escaped: str, place: str) -> None:
    config = small_table(**{place: f"before{character}after"})
    text = to_latex(build_table("t", config, []))
    (line, *_) = [line for line in text.splitlines() if "before" in line]
    written = line[line.index("before") + len("before") : line.index("after")]
    assert written.startswith(escaped)
    assert depth(text)[-1] == 0
    assert [latex_width(row) for row in latex_rows(text)] == [3] * 5


def test_latex_has_a_minus_where_there_is_one_and_hyphens_elsewhere(made_up: Callable[..., RunResult]) -> None:
    config = small_table(label="SemanticFPN P2-P5, OS-16")
    results = [made_up(name, 0, {"s": {"AP": ap}}) for name, ap in (("a", 20.0), ("b", 18.5))]
    lines = latex_rows(to_latex(build_table("t", config, results)))
    assert any("P2-P5, OS-16" in line for line in lines)
    assert any("18.5 ($-$1.5)" in line for line in lines)


def test_a_row_without_a_column_has_a_dash(made_up: Callable[..., RunResult]) -> None:
    table = Table(
        name="t",
        heading="T",
        title="title",
        row_labels=["head"],
        columns=[("a", "A"), ("b", "B"), ("c", "C")],
        rows=[(["x"], {"a": Value({"run-0": 1.0}, 1.0, None, 2.0, None)})],
        published={"a", "b"},
    )
    assert cells(to_markdown(table).splitlines()[-1]) == ["x", "1.0", "2.0", "-1.0", "–", "–", "–", "–"]
    assert latex_rows(to_latex(table))[-1] == r"x & 1.0 & 2.0 & -- & -- & -- \\"
    frame = pd.read_csv(io.StringIO(to_csv(table)))
    assert math.isnan(frame["b"][0])
    assert to_arrow([table])["column"].to_pylist() == ["a"]


# All tables


def results_of(config: TableConfig, made_up: Callable[..., RunResult], seeds: int) -> list[RunResult]:
    """Runs that have every number of a table."""
    metrics: dict[str, dict[str, dict[str, float]]] = {}
    for row in config.rows:
        for cell in row.measured.values():
            metrics.setdefault(cell.experiment, {}).setdefault(cell.evaluation, {})[cell.metric] = 20.0
    return [made_up(name, seed, evaluations) for name, evaluations in metrics.items() for seed in range(seeds)]


@pytest.mark.parametrize("seeds", [0, 1, 2])
@pytest.mark.parametrize("name", TABLES)
def test_every_table_of_the_repository_is_written(
    repository: Path, made_up: Callable[..., RunResult], name: str, seeds: int
) -> None:
    config = Project(repository).table(name)
    table = build_table(name, config, results_of(config, made_up, seeds), stand_ins=True)
    counted = name == "table2"
    ours = [value.ours for _, values in table.rows for value in values.values()]
    assert all((value is not None) == (counted or seeds > 0) for value in ours)
    published = {key for row in config.rows for key, cell in row.cells.items() if cell.paper is not None}
    markdown = [cells(line) for line in to_markdown(table).splitlines() if line.startswith("|")]
    beside = 2 if counted else 1  # the paper's number and the difference; numbers of stand-ins have none
    assert {len(line) for line in markdown} == {len(config.row_labels) + len(config.columns) + beside * len(published)}
    assert len(markdown) == 2 + len(config.rows)
    assert [line[: len(config.row_labels)] for line in markdown[2:]] == [row.labels for row in config.rows]
    assert len(pd.read_csv(io.StringIO(to_csv(table)))) == len(config.rows)
    latex = to_latex(table)
    assert latex.isascii(), sorted({character for character in latex if not character.isascii()})
    assert min(depth(latex)) == depth(latex)[-1] == 0
    assert latex.replace(r"\$", "").count("$") % 2 == 0
    width = len(config.row_labels) + len(config.columns) + len(published)
    assert [latex_width(row) for row in latex_rows(latex)] == [width] * (2 + len(config.rows))
    assert (r"$\pm$" in latex) == (seeds > 1 and not counted)


def test_columns_that_the_paper_has_not_are_ours_alone(repository: Path, made_up: Callable[..., RunResult]) -> None:
    config = Project(repository).table("table_4_2")
    table = build_table("table_4_2", config, results_of(config, made_up, 1))
    assert table.published == set()
    header, _, *rows = [cells(line) for line in to_markdown(table).splitlines() if line.startswith("|")]
    assert header == ["change", "what the paper says", "COCO AP", "COCO AP*"]
    assert rows[0][2:] == ["20.0", "20.0"]
    assert rows[1] == ["N=49", "paper: maintains AP, with a larger variance", "20.0 (+0.0)", "20.0 (+0.0)"]
    assert latex_rows(to_latex(table))[1] == r"change & what the paper says & ours & ours \\"


# The file of all


def test_a_row_for_each_cell_and_run(made_up: Callable[..., RunResult], table_2: Table, tmp_path: Path) -> None:
    results = [made_up("a", seed, {"s": {"AP": ap}}) for seed, ap in enumerate((20.0, 26.0))]
    results.append(made_up("b", 0, {"s": {"AP": 21.5}}))
    pq.write_table(to_arrow([build_table("small", small_table(), results), table_2]), tmp_path / "results.parquet")
    read = pq.read_table(tmp_path / "results.parquet").to_pylist()
    shared = {"table": "small", "labels": ["A label"], "column": "ap", "label": "AP"}
    assert read[:4] == [
        shared | {"row": 0, "run": "a-0", "value": 20.0, "paper": 10.0, "missing": None},
        shared | {"row": 0, "run": "a-1", "value": 26.0, "paper": 10.0, "missing": None},
        shared | {"row": 1, "run": "b-0", "value": 21.5, "paper": 11.0, "missing": None},
        shared | {"row": 2, "run": None, "value": None, "paper": 12.0, "missing": "no run of c was selected"},
    ]
    # What is counted is of no run, and is there.
    assert [(row["row"], row["column"], row["run"], row["missing"]) for row in read[4:]] == [
        (row, column, None, None) for row in range(3) for column in ("flops", "activations")
    ]
    assert [row["paper"] for row in read[4:]] == [0.5, 0.5, 34.0, 33.0, 0.9, 0.7]
    assert read[4]["value"] == pytest.approx(0.52985856)
    assert (read[4]["table"], read[4]["labels"], read[4]["label"]) == ("table2", ["4×conv", "28×28"], "FLOPs, 10⁹")


def test_a_file_of_no_tables_has_its_columns() -> None:
    empty = to_arrow([])
    assert empty.num_rows == 0
    assert empty.column_names == to_arrow([build_table("t", small_table(), [])]).column_names


def test_rows_that_the_scale_has_no_experiment_for_are_named_and_left_out(
    made_up: Callable[..., RunResult],
) -> None:
    table = build_table("t", small_table(label="head"), [made_up("a", 0, {"s": {"AP": 20.0}})], defined={"a", "x"})
    assert [values["ap"].ours for _, values in table.rows] == [20.0]
    assert notes(table)[-1] == "This scale has no experiment for head; head."
    whole = build_table("t", small_table(), [])
    assert (len(whole.rows), whole.left_out) == (3, [])
    assert not any("no experiment" in note for note in notes(whole))


def test_rows_that_the_selection_leaves_out_are_named(made_up: Callable[..., RunResult]) -> None:
    runs = [made_up("a", 0, {"s": {"AP": 20.0}})]
    table = build_table("t", small_table(label="head"), runs, defined={"a", "b"}, excluded={"b"})
    assert [values["ap"].ours for _, values in table.rows] == [20.0]
    assert notes(table)[-2:] == [
        "This scale has no experiment for head.",
        "The selection leaves out head (`pointrend select --without`).",
    ]
