"""How many seeds stand behind the medians of a table: said once for the table, and at each row that has fewer."""

from collections.abc import Mapping

from pipeline.report.tables.table import Table, Value


def seeds_note(table: Table) -> str:
    """The number of seeds of the table's medians, by column where they differ; empty if nothing was measured."""
    columns: dict[int, list[str]] = {}
    for key, label in table.columns:
        if number := _selected(table, key):
            columns.setdefault(number, []).append(label)
    if not columns:
        return ""
    if list(columns) == [1]:
        return "Each number is of one seed."
    if len(columns) == 1:
        text = f"Numbers are medians over {_seeds(next(iter(columns)))}."
    else:
        parts = [f"{_seeds(number)} ({', '.join(labels)})" for number, labels in columns.items()]
        text = f"Numbers are medians over {' and '.join(parts)}."
    return f"{text} Rows with fewer say so." if any(row_seeds(table, row) for _, row in table.rows) else text


def row_seeds(table: Table, values: Mapping[str, Value]) -> str:
    """Which of a row's medians are over fewer seeds than the table's, such as "2 of 3 seeds"; empty if none is."""
    labels = dict(table.columns)
    measured = {key: value for key, value in values.items() if value.selected and value.numbers}
    fewer: dict[str, list[str]] = {}
    for key, value in measured.items():
        if value.seeds < (number := _selected(table, key)):
            fewer.setdefault(f"{value.seeds} of {_seeds(number)}", []).append(labels[key])
    if len(fewer) == 1 and sum(map(len, fewer.values())) == len(measured):
        return next(iter(fewer))
    return "; ".join(f"{', '.join(columns)}: {text}" for text, columns in fewer.items())


def _selected(table: Table, key: str) -> int:
    """The most seeds that were selected for a median of a column; 0 if the column has none."""
    return max((row[key].selected for _, row in table.rows if key in row and row[key].numbers), default=0)


def _seeds(number: int) -> str:
    return f"{number} seed{'' if number == 1 else 's'}"
