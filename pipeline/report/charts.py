"""Places estimates and their intervals on axes, in percent of the width of an inline SVG."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.report.findings import Finding
from pipeline.report.tables.table import Table, Value

ROOM = 0.08  # on both sides of the outermost value, as a fraction of the axis


@dataclass(frozen=True)
class Axis:
    """An axis from ``low`` to ``high``."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Iterable[float]) -> "Axis":
        """An axis with room for all values and for 0."""
        found = [*values, 0.0]
        low, high = min(found), max(found)
        room = ROOM * (high - low) or 1.0
        return cls(low - room, high + room)

    def percent(self, value: float) -> float:
        """The place of a value: 0 at the axis's low end, 100 at its high end."""
        return round(100 * (value - self.low) / (self.high - self.low), 2)

    def ticks(self) -> list[float]:
        """Two to five multiples of 1, 2 or 5 times a power of ten."""
        span = self.high - self.low
        power = 10.0 ** math.floor(math.log10(span))
        step = next(power * factor for factor in (0.2, 0.5, 1, 2, 5) if span / (power * factor) <= 5)
        return [round(n * step, 10) for n in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


@dataclass(frozen=True)
class IntervalBar:
    """A finding's estimate and interval; all places in percent.

    In the middle is the threshold or, for a difference that must stay within it, zero.

    Args:
        estimate: None if it was not measured.
        interval: low and high; None if it was not measured.
        band: the ends of what the difference must stay within; None for one that must exceed the threshold.
    """

    estimate: float | None
    interval: tuple[float, float] | None
    band: tuple[float, float] | None


def interval_bar(finding: Finding) -> IntervalBar:
    """Places a finding's numbers on an axis of its own."""
    within = finding.kind == "within"
    middle = 0.0 if within else finding.threshold
    shown = [value for value in (finding.estimate, finding.low, finding.high) if value is not None]
    reach = max([abs(value - middle) for value in shown] + ([finding.threshold] if within else []), default=0.0)
    reach = reach * (1 + 2 * ROOM) or 1.0
    axis = Axis(middle - reach, middle + reach)
    interval = None
    if finding.low is not None and finding.high is not None:
        interval = (axis.percent(finding.low), axis.percent(finding.high))
    return IntervalBar(
        estimate=None if finding.estimate is None else axis.percent(finding.estimate),
        interval=interval,
        band=(axis.percent(-finding.threshold), axis.percent(finding.threshold)) if within else None,
    )


@dataclass(frozen=True)
class GainBar:
    """A row's gain in one column; all places in percent."""

    label: str
    value: Value
    gain: float
    interval: tuple[float, float] | None
    paper: float | None


@dataclass(frozen=True)
class GainPanel:
    """The gains in one column of a table."""

    label: str
    bars: list[GainBar]


@dataclass(frozen=True)
class GainChart:
    """All gains of a table on one axis.

    Args:
        panels: one for each column with gains.
        zero: the place of 0, in percent.
        ticks: round numbers and their places.
    """

    panels: list[GainPanel]
    zero: float
    ticks: list[tuple[float, float]]


def gain_chart(table: Table) -> GainChart | None:
    """Places a table's gains, their intervals and the paper's gains; None if the table has no gain."""
    values = [value for _, row in table.rows for value in row.values() if value.gain is not None]
    if not values:
        return None
    ends = [end for value in values for end in (value.gain, value.paper_gain, *(value.gain_interval or ()))]
    axis = Axis.around(end for end in ends if end is not None)
    panels = []
    for key, label in table.columns:
        bars = [_bar(labels, row[key], axis) for labels, row in table.rows if key in row and row[key].gain is not None]
        if bars:
            panels.append(GainPanel(label, bars))
    return GainChart(panels, axis.percent(0.0), [(tick, axis.percent(tick)) for tick in axis.ticks()])


def _bar(labels: Sequence[str], value: Value, axis: Axis) -> GainBar:
    assert value.gain is not None
    ends = value.gain_interval
    return GainBar(
        label=", ".join(label for label in labels if label),
        value=value,
        gain=axis.percent(value.gain),
        interval=None if ends is None else (axis.percent(ends[0]), axis.percent(ends[1])),
        paper=None if value.paper_gain is None else axis.percent(value.paper_gain),
    )
