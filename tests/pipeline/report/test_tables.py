import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.config import Project, TableConfig
from pipeline.report.results import RunResult
from pipeline.report.tables import Table, Value, build_table, format_number, notes, to_csv, to_latex, to_markdown


@pytest.fixture
def table_1(repository: Path) -> TableConfig:
    return Project(repository).table("table1")


@pytest.fixture
def table(table_1: TableConfig, results: list[RunResult]) -> Table:
    return build_table("table1", table_1, results)


def small_table(title: str = "A title", label: str = "A label", column: str = "AP", baseline: str = "a") -> TableConfig:
    """One column, three rows: experiments a, b and c at setting s."""
    cells = [{"experiment": name, "evaluation": "s", "metric": "AP", "paper": 10.0 + i} for i, name in enumerate("abc")]
    return TableConfig.model_validate(
        {
            "title": title,
            "row_labels": ["head"],
            "columns": [{"key": "ap", "label": column}],
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
def test_the_papers_gains_are_over_the_baseline_above(repository: Path, name: str, gains: list[list[str]]) -> None:
    table = build_table(name, Project(repository).table(name), [])
    assert [[format_number(v.paper, v.paper_gain) for v in row.values()] for _, row in table.rows] == gains


def test_our_gains_are_over_the_baseline_above(made_up: Callable[..., RunResult]) -> None:
    config = small_table(baseline="b")
    results = [made_up(name, 0, {"s": {"AP": ap}}) for name, ap in (("a", 20.0), ("b", 30.0), ("c", 29.0))]
    assert [values["ap"].gain for _, values in build_table("t", config, results).rows] == [None, None, -1.0]


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
            "cityscapes_ap": "no run of cityscapes_4xconv_r50 was selected",
        },
        {
            "coco_ap": "",
            "coco_ap_star": "AP_star was not measured",
            "cityscapes_ap": "no run of cityscapes_pointrend_r50 was selected",
        },
        {
            "coco_ap": "coco_pointrend_r50 was not evaluated at 224x224",
            "coco_ap_star": "coco_pointrend_r50 was not evaluated at 224x224",
            "cityscapes_ap": "no run of cityscapes_pointrend_r50 was selected",
        },
    ]
    for _, values in table.rows:
        for value in values.values():
            assert (value.ours is None) == bool(value.missing)
    assert table.rows[2][1]["coco_ap"].gain is None
    assert notes(table) == [
        "COCO AP*: AP_star was not measured",
        "Cityscapes AP: no run of cityscapes_4xconv_r50 was selected",
        "Cityscapes AP: no run of cityscapes_pointrend_r50 was selected",
        "COCO AP, COCO AP*: coco_pointrend_r50 was not evaluated at 224x224",
    ]


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
        "COCO AP*",
        "paper",
        "Cityscapes AP",
        "paper",
    ]
    assert rule == ["---"] * 8
    for row, (labels, values) in zip(rows, table.rows, strict=True):
        assert row[:2] == labels
        found = [first_number(cell) for cell in row[2:]]
        expected = [n for key, _ in table.columns for n in (values[key].ours, values[key].paper)]
        assert found == expected
    assert rows[1][2:4] == ["33.0 (+2.0)", "36.1 (+0.9)"]


def test_markdown_has_title_and_reasons(table: Table) -> None:
    text = to_markdown(table)
    assert text.startswith("**PointRend vs. the default 4×conv mask head for Mask R-CNN**\n\n|")
    for note in notes(table):
        assert f"\n- {note}\n" in text


def test_markdown_escapes_what_would_break_a_row(made_up: Callable[..., RunResult]) -> None:
    config = small_table(label="a | b *c*", column="AP*|x")
    lines = [line for line in to_markdown(build_table("t", config, [])).splitlines() if line.startswith("|")]
    assert [len(cells(line)) for line in lines] == [3] * 5
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
    assert len(specification[1]) == 2 + 2 * 3
    rows = latex_rows(text)
    assert len(rows) == 2 + 3
    assert [latex_width(row) for row in rows] == [8] * 5
    assert r"4$\times$conv & 28$\times$28 & 31.0 & 35.2" in rows[2]
    assert "33.0 (+2.0) & 36.1 (+0.9)" in rows[3]


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


def test_a_row_without_a_column_has_a_dash(made_up: Callable[..., RunResult]) -> None:
    table = Table(
        "t", "title", ["head"], [("a", "A"), ("b", "B")], [(["x"], {"a": Value(1.0, None, 0, 1, 2.0, None, "")})]
    )
    assert cells(to_markdown(table).splitlines()[-1]) == ["x", "1.0", "2.0", "–", "–"]
    assert latex_rows(to_latex(table))[-1] == r"x & 1.0 & 2.0 & -- & -- \\"
    frame = pd.read_csv(io.StringIO(to_csv(table)))
    assert math.isnan(frame["b"][0])
