"""Places in charts, worked out by hand."""

from dataclasses import replace

import pytest

from pipeline.report.charts import Axis, gain_chart, interval_bar
from pipeline.report.findings import Finding
from pipeline.report.tables.table import Table, Value

FINDING = Finding("f", "a claim", "Table 1", 3.0, 1.0, 5.0, 1.0, "more than", "holds", "", True)


def value(gain: float | None, paper_gain: float | None = None, interval: tuple[float, float] | None = None) -> Value:
    return Value({}, 10.0, gain, None, paper_gain, gain_interval=interval)


def table(*rows: Value) -> Table:
    shown = [(["row", str(number)], {"ap": one}) for number, one in enumerate(rows)]
    return Table("t", "Table 1", "title", ["a", "b"], [("ap", "AP"), ("other", "other")], shown)


def test_an_axis_has_room_for_zero_and_all_values() -> None:
    # From 0 to 10 with 0.8 on both sides.
    axis = Axis.around([10.0, 5.0])
    assert (axis.low, axis.high) == pytest.approx((-0.8, 10.8))
    assert [axis.percent(x) for x in (-0.8, 0.0, 5.0, 10.8)] == [0.0, 6.9, 50.0, 100.0]
    assert Axis.around([0.0]) == Axis(-1.0, 1.0)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (-0.8, 10.8, [0, 5, 10]),
        (-1.0, 1.0, [-1, -0.5, 0, 0.5, 1]),
        (-0.02, 0.27, [0, 0.1, 0.2]),
        (-36, 3, [-30, -20, -10, 0]),
    ],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert Axis(low, high).ticks() == ticks


def test_the_threshold_is_in_the_middle() -> None:
    # 4 from the threshold to the high end, and 16% of that as room: the axis is 4.64 to both sides of 1.
    bar = interval_bar(FINDING)
    assert bar.estimate == pytest.approx(50 + 50 * 2 / 4.64, abs=0.01)
    assert bar.interval == pytest.approx((50, 50 + 50 * 4 / 4.64), abs=0.01)
    assert bar.band is None


def test_what_a_difference_must_stay_within_is_a_band_around_zero() -> None:
    # The band is wider than the interval: 0.5 and 16% of that to both sides of 0.
    bar = interval_bar(replace(FINDING, kind="within", threshold=0.5, estimate=0.1, low=-0.2, high=0.4))
    assert bar.band == pytest.approx((50 - 50 / 1.16, 50 + 50 / 1.16), abs=0.01)
    assert bar.estimate == pytest.approx(50 + 10 / 1.16, abs=0.01)
    assert bar.interval == pytest.approx((50 - 20 / 1.16, 50 + 40 / 1.16), abs=0.01)


def test_a_finding_that_was_not_measured_has_no_estimate() -> None:
    bar = interval_bar(replace(FINDING, estimate=None, low=None, high=None))
    assert (bar.estimate, bar.interval) == (None, None)
    assert interval_bar(replace(FINDING, low=None, high=None)).interval is None


def test_gains_share_an_axis() -> None:
    # From -2 to 8 with 0.8 on both sides.
    chart = gain_chart(table(value(None), value(3.0, 1.0, (-2.0, 8.0)), value(-1.0)))
    assert chart is not None
    assert chart.zero == pytest.approx(100 * 2.8 / 11.6, abs=0.01)
    (panel,) = chart.panels
    assert [bar.label for bar in panel.bars] == ["row, 1", "row, 2"]
    first, second = panel.bars
    assert first.gain == pytest.approx(100 * 5.8 / 11.6)
    assert first.paper == pytest.approx(100 * 3.8 / 11.6, abs=0.01)
    assert first.interval == pytest.approx((100 * 0.8 / 11.6, 100 * 10.8 / 11.6), abs=0.01)
    assert second.gain == pytest.approx(100 * 1.8 / 11.6, abs=0.01)
    assert (second.paper, second.interval) == (None, None)


def test_no_chart_without_gains() -> None:
    assert gain_chart(table(value(None))) is None
