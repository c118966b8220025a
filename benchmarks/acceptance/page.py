"""An acceptance as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from acceptance.rows import Row, show

STATUSES = ("passed", "failed", "measured", "not run")


def counts(sections: Mapping[str, Sequence[Row]]) -> dict[str, int]:
    """How many rows have each status."""
    every = [row.status for rows in sections.values() for row in rows]
    return {status: every.count(status) for status in STATUSES}


def page(facts: Mapping[str, Any], sections: Mapping[str, Sequence[Row]], notes: Mapping[str, str]) -> str:
    """The whole page.

    Args:
        facts: of the machine and the run, by name.
        sections: the rows of each.
        notes: a paragraph for some of the sections.
    """
    verdict = ", ".join(f"{count} {status}" for status, count in counts(sections).items())
    lines = [f"# Acceptance of {facts['device']}", "", f"{verdict}.", ""]
    lines += [f"- {name}: {show(value)}" for name, value in facts.items() if value is not None]
    for name, rows in sections.items():
        lines += ["", f"## {name}", ""]
        if notes.get(name):
            lines += [notes[name], ""]
        lines += table(rows)
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Row]) -> list[str]:
    """The lines of a section's table. Rows that were not run for one and the same reason share a line below it."""
    shown = [row for row in rows if row.status != "not run"]
    lines: list[str] = []
    if shown:
        figures = list(dict.fromkeys(name for row in shown for name in row.figures))
        noted = ["remark"] if any(row.note for row in shown) else []
        lines = [
            _line(["", "status", *figures, *noted]),
            _line(["---"] * 2 + ["---:"] * len(figures) + ["---"] * len(noted)),
        ]
        for row in shown:
            cells = [show(row.figures.get(name)) for name in figures]
            lines.append(_line([row.name, row.status, *cells, *([row.note] if noted else [])]))
    skipped: dict[str, list[str]] = {}
    for row in rows:
        if row.status == "not run":
            skipped.setdefault(row.note, []).append(row.name)
    if skipped:
        lines += ["", "Not run:", ""] if lines else ["Not run:", ""]
        lines += [f"- {'; '.join(names)}: {why}" for why, names in skipped.items()]
    return lines


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
