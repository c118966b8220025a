"""Tables as data."""

from collections.abc import Callable
from pathlib import Path

import pytest
from made_up_configs import COSTS, TABLE, edited

from pipeline.config.reader import load
from pipeline.config.tables import Cell, CostCell, TableConfig


@pytest.mark.parametrize(
    ("baselines", "expected"),
    [
        ("---", [0, 0, 0]),
        ("x--", [0, 0, 0]),
        ("-x-", [1, 1, 1]),
        ("--x", [2, 2, 2]),
        ("x-x-", [0, 0, 2, 2]),
        ("-x-x-", [1, 1, 1, 3, 3]),
        ("xx-", [0, 1, 1]),
        ("x", [0]),
    ],
)
def test_gains_are_over_the_nearest_baseline_above_or_else_below(
    written: Callable[[str], Path], baselines: str, expected: list[int]
) -> None:
    rows = "".join(
        f"  - {{labels: [a, b], cells: {{}}, baseline: {str(is_one == 'x').lower()}}}\n" for is_one in baselines
    )
    table = load(TableConfig, written(TABLE[: TABLE.index("  - labels")] + rows))
    assert [table.baseline_of(index) for index in range(len(table.rows))] == expected


def test_a_table_has_measured_and_counted_cells(written: Callable[[str], Path]) -> None:
    both = edited(
        COSTS,
        "  - labels",
        "  - labels: [x]\n    cells: {flops: {experiment: a, evaluation: b, metric: AP}}\n  - labels",
    )
    table = load(TableConfig, written(both))
    assert [type(row.cells["flops"]) for row in table.rows] == [Cell, CostCell]
    assert [list(row.measured) for row in table.rows] == [["flops"], []]
    assert table.experiments == {"a"}
    assert load(TableConfig, written(COSTS)).experiments == set()
    assert TableConfig.model_validate(table.model_dump()) == table


def test_columns_have_a_unit_and_tables_a_heading(written: Callable[[str], Path]) -> None:
    table = load(TableConfig, written(TABLE))
    assert (table.heading, [column.unit for column in table.columns]) == (None, [1.0])
    table = load(TableConfig, written("heading: Section 4.2\n" + COSTS))
    assert (table.heading, [column.unit for column in table.columns]) == ("Section 4.2", [1e9])
