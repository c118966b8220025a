"""How many seeds stand behind the numbers of a table."""

import csv
import io
from collections.abc import Callable

import pytest

from pipeline.config.tables import TableConfig
from pipeline.report.results import RunResult
from pipeline.report.tables.formats import to_csv, to_latex, to_markdown
from pipeline.report.tables.seeds import row_seeds, seeds_note
from pipeline.report.tables.table import Table, build_table

FULL = {"a": 3, "b": 3, "streets_a": 5, "streets_b": 5}


def cell(experiment: str) -> dict:
    return {"experiment": experiment, "evaluation": "s", "metric": "AP"}


CONFIG = TableConfig.model_validate(
    {
        "title": "A title",
        "row_labels": ["head"],
        "columns": [{"key": "coco", "label": "COCO AP"}, {"key": "streets", "label": "Cityscapes AP"}],
        "rows": [
            {"labels": [name.upper()], "cells": {"coco": cell(name), "streets": cell(f"streets_{name}")}}
            for name in "ab"
        ],
    }
)
ONE_COLUMN = TableConfig.model_validate(
    {
        "title": "A title",
        "row_labels": ["head"],
        "columns": [{"key": "coco", "label": "COCO AP"}],
        "rows": [{"labels": [name.upper()], "cells": {"coco": cell(name)}} for name in "ab"],
    }
)


@pytest.fixture
def table_of(made_up: Callable[..., RunResult]) -> Callable[..., Table]:
    def build(seeds: dict[str, int], missing: dict[str, str] | None = None, config: TableConfig = CONFIG) -> Table:
        runs = [made_up(name, seed, {"s": {"AP": 20.0 + seed}}) for name, n in seeds.items() for seed in range(n)]
        return build_table("t", config, runs, missing)

    return build


def rows(table: Table) -> list[str]:
    return [row_seeds(table, values) for _, values in table.rows]


@pytest.mark.parametrize(
    ("seeds", "note"),
    [
        ({"a": 3, "b": 3}, "Numbers are medians over 3 seeds."),
        ({"a": 1, "b": 1}, "Each number is of one seed."),
        ({"a": 1}, "Each number is of one seed."),
        ({}, ""),
    ],
)
def test_the_table_says_it_once(table_of: Callable[..., Table], seeds: dict[str, int], note: str) -> None:
    table = table_of(seeds, config=ONE_COLUMN)
    assert seeds_note(table) == note
    assert rows(table) == ["", ""]


def test_by_column_where_they_differ(table_of: Callable[..., Table]) -> None:
    table = table_of(FULL)
    assert seeds_note(table) == "Numbers are medians over 3 seeds (COCO AP) and 5 seeds (Cityscapes AP)."
    assert rows(table) == ["", ""]


@pytest.mark.parametrize(
    ("seeds", "missing", "shown"),
    [
        (FULL | {"b": 2}, {"b-2": "its loss diverged"}, "COCO AP: 2 of 3 seeds"),
        (FULL | {"b": 2}, {}, "COCO AP: 2 of 3 seeds"),
        (FULL | {"b": 1, "streets_b": 4}, {}, "COCO AP: 1 of 3 seeds; Cityscapes AP: 4 of 5 seeds"),
        (FULL | {"b": 1, "streets_b": 0}, {}, "1 of 3 seeds"),
        (FULL | {"b": 0}, {}, ""),
    ],
)
def test_a_row_with_fewer_says_so(
    table_of: Callable[..., Table], seeds: dict[str, int], missing: dict[str, str], shown: str
) -> None:
    table = table_of(seeds, missing)
    assert rows(table) == ["", shown]
    assert seeds_note(table).endswith("Rows with fewer say so.") == bool(shown)


def test_all_rows_may_have_fewer_than_were_selected(table_of: Callable[..., Table]) -> None:
    table = table_of({"a": 2, "b": 2}, {"a-2": "it is not trained", "b-2": "it is not trained"}, ONE_COLUMN)
    assert rows(table) == ["2 of 3 seeds"] * 2


def test_every_format_says_it(table_of: Callable[..., Table]) -> None:
    table = table_of({"a": 3, "b": 2}, {"b-2": "its loss diverged"}, ONE_COLUMN)
    note = "Numbers are medians over 3 seeds. Rows with fewer say so."
    markdown, latex = to_markdown(table), to_latex(table)
    assert f"- {note}" in markdown
    assert "| B (2 of 3 seeds) | " in markdown
    assert "| A | " in markdown
    assert rf"\caption{{A title. {note}}}" in latex
    assert "B (2 of 3 seeds) & " in latex
    first, second = csv.DictReader(io.StringIO(to_csv(table)))
    assert (first["head"], first["coco_seeds"], first["seeds"]) == ("A", "3", "")
    assert (second["head"], second["coco_seeds"], second["seeds"]) == ("B", "2", "2 of 3 seeds")


def test_what_is_counted_needs_no_seeds(table_of: Callable[..., Table]) -> None:
    cost = {"model": "pointrend_rcnn_tiny_fpn", "resolution": 28, "num_points": 196, "cost": "multiply_adds"}
    config = TableConfig.model_validate(
        {
            "title": "A title",
            "row_labels": ["head"],
            "columns": [{"key": "cost", "label": "cost"}],
            "rows": [{"labels": ["tiny"], "cells": {"cost": cost}}],
        }
    )
    table = table_of({}, config=config)
    assert (seeds_note(table), rows(table)) == ("", [""])
