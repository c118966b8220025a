"""The verdicts on the paper's claims."""

import csv
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pipeline.config.findings import FindingConfig, FindingsConfig
from pipeline.report.findings import Finding, decide, to_csv, to_markdown, verdict_of
from pipeline.report.measured import difference_interval, measure
from pipeline.report.results import RunResult

MadeUp = Callable[..., RunResult]


def claim(plus: str = "a", minus: str = "b", metric: str = "AP", **fields: Any) -> FindingConfig:
    """A claim that the experiments in ``plus`` beat those in ``minus``, one letter each, at setting s."""

    def cells(names: str) -> list[dict[str, str]]:
        return [{"experiment": name, "evaluation": "s", "metric": metric} for name in names]

    return FindingConfig.model_validate(
        {"claim": "A beats B.", "source": "Table 1", "plus": cells(plus), "minus": cells(minus), **fields}
    )


def one(results: list[RunResult], missing: dict[str, str] | None = None, **fields: Any) -> Finding:
    (found,) = decide(FindingsConfig({"x": claim(**fields)}), results, missing)
    return found


def run(made_up: MadeUp, experiment: str, value: float, drawn: list[float] | None = None, seed: int = 0) -> RunResult:
    resamples = {"s": {"AP": drawn}} if drawn is not None else {}
    return made_up(experiment, seed, {"s": {"AP": value}}, resamples)


# Verdicts


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 2.0, "holds"),
        (0.0, 2.0, "cannot be told"),
        (-1.0, 2.0, "cannot be told"),
        (-2.0, 0.0, "cannot be told"),
        (-2.0, -0.1, "does not hold"),
    ],
)
def test_more_than_zero(low: float, high: float, verdict: str) -> None:
    assert verdict_of(claim(), low, high) == verdict


def test_more_than_another_number() -> None:
    assert verdict_of(claim(more_than=-1.0), -0.9, 0.5) == "holds"
    assert verdict_of(claim(more_than=-1.0), -1.1, 0.5) == "cannot be told"
    assert verdict_of(claim(more_than=2.0), 1.0, 1.9) == "does not hold"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.9, 0.9, "holds"),
        (-1.0, 0.9, "cannot be told"),
        (-0.9, 1.1, "cannot be told"),
        (-3.0, 3.0, "cannot be told"),
        (1.1, 3.0, "does not hold"),
        (-3.0, -1.1, "does not hold"),
    ],
)
def test_within_one(low: float, high: float, verdict: str) -> None:
    assert verdict_of(claim(within=1.0), low, high) == verdict


# Estimates and intervals


def test_the_difference_is_taken_on_each_resample(made_up: MadeUp) -> None:
    # Both move by 80 points between resamples, their difference by 4: from 1 to 5, with 3 in the middle.
    a, b = [11.0, 53.0, 95.0], [10.0, 50.0, 90.0]
    found = one([run(made_up, "a", 53.0, a), run(made_up, "b", 50.0, b)])
    assert found == Finding(
        "x", "A beats B.", "Table 1", 3.0, pytest.approx(1.1), pytest.approx(4.9), 0.0, "more than", "holds", "", True
    )


def test_a_gain_larger_than_another(made_up: MadeUp) -> None:
    # (a - b) - (c - d): 5 - 1 once, 3 - 1 and 4 - 3 on the two resamples.
    results = [
        run(made_up, "a", 30.0, [29.0, 30.0]),
        run(made_up, "b", 25.0, [26.0, 26.0]),
        run(made_up, "c", 11.0, [11.0, 14.0]),
        run(made_up, "d", 10.0, [10.0, 11.0]),
    ]
    found = one(results, plus="ad", minus="bc")
    assert (found.estimate, found.low, found.high) == (4, pytest.approx(1.025), pytest.approx(1.975))


def test_seeds_are_paired_by_number_and_the_estimate_is_the_median(made_up: MadeUp) -> None:
    # Differences 1, 2 and 9 of seeds 0 to 2; seed 3 has no partner.
    a = [run(made_up, "a", value, seed=seed) for seed, value in ((2, 19.0), (0, 31.0), (1, 22.0), (3, 90.0))]
    b = [run(made_up, "b", value, seed=seed) for seed, value in ((0, 30.0), (1, 20.0), (2, 10.0))]
    assert one([*a, *b]).estimate == 2


def test_the_interval_is_over_seeds_too(made_up: MadeUp) -> None:
    # Two seeds with differences of 0 and 4 on every resample: means of 0, 2 and 4 with probabilities 1/4, 1/2 and 1/4.
    seeds = [(0, 10.0), (1, 14.0)]
    a = [run(made_up, "a", value, [value] * 400, seed) for seed, value in seeds]
    b = [run(made_up, "b", 10.0, [10.0] * 400, seed) for seed, _ in seeds]
    found = one([*a, *b])
    assert (found.estimate, found.low, found.high, found.verdict) == (2, 0, 4, "cannot be told")
    assert found == one([*a, *b]), "the resampling of seeds is repeatable"


def test_more_seeds_narrow_the_interval(made_up: MadeUp) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(10, 2, 30)

    def width(seeds: int) -> float:
        a = [run(made_up, "a", value, [value] * 300, seed) for seed, value in enumerate(values[:seeds])]
        b = [run(made_up, "b", 0.0, [0.0] * 300, seed) for seed in range(seeds)]
        found = one([*a, *b])
        assert found.low is not None
        assert found.high is not None
        return found.high - found.low

    # 1.96 standard errors on either side of the mean.
    assert width(30) == pytest.approx(2 * 1.96 * values.std() / math.sqrt(30), rel=0.15)


def test_resamples_that_are_not_defined_are_left_out(made_up: MadeUp) -> None:
    found = one([run(made_up, "a", 5.0, [math.nan, 5.0]), run(made_up, "b", 4.0, [4.0, 4.0])])
    assert (found.low, found.high) == (1, 1)


# What cannot be decided


@pytest.mark.parametrize("drawn", [None, [50.0], [math.nan, math.nan]])
def test_without_equal_resamples_there_is_no_interval(made_up: MadeUp, drawn: list[float] | None) -> None:
    found = one([run(made_up, "a", 53.0, [52.0, 54.0]), run(made_up, "b", 50.0, drawn)])
    assert (found.estimate, found.low, found.high, found.verdict) == (3, None, None, "cannot be told")
    assert found.reason == "no interval: its runs lack equal resamples of the images"


def test_what_is_not_measured_says_why(made_up: MadeUp) -> None:
    a = run(made_up, "a", 53.0, [52.0, 54.0])
    found = one([a])
    assert (found.estimate, found.low, found.verdict) == (None, None, "not measured")
    assert found.reason == "no run of b was selected"
    assert one([a], {"b-0": "b-0 is not trained"}).reason == "b-0 is not trained"
    assert one([]).reason == "no run of a was selected; no run of b was selected"
    assert one([a, run(made_up, "b", math.nan)]).reason.startswith("AP is not defined")
    assert one([a, run(made_up, "b", 50.0)], metric="AP_star").reason == "AP_star was not measured"
    found = one([a, run(made_up, "b", 50.0, seed=1)])
    assert (found.verdict, found.reason) == ("not measured", "no seed has a run of each of a, b")


def test_overridden_settings_are_named(made_up: MadeUp) -> None:
    a, b = run(made_up, "a", 53.0, [53.0]), run(made_up, "b", 50.0, [50.0])
    changed = made_up(
        "a", 0, {"s": {"AP": 53.0}}, {"s": {"AP": [53.0]}},
        config=a.config.model_copy(update={"changes": {"momentum": 0.5}}),
    )  # fmt: skip
    assert one([a, b]).reason == ""
    assert one([changed, b]).reason == "run with momentum 0.5"


def test_a_cell_without_resamples_has_no_interval(made_up: MadeUp) -> None:
    cells = [measure(claim().plus[0], [run(made_up, "a", 1.0, drawn)], {}) for drawn in ([1.0], None)]
    assert difference_interval(cells[:1], []) == (1, 1)
    assert difference_interval(cells, []) is None


# Files


def decided(made_up: MadeUp) -> list[Finding]:
    findings = {
        "first": claim(),
        "second": claim(within=0.5, in_paper=False, claim="AP* | AP"),
        "third": claim(plus="c", claim="C beats B."),
    }
    results = [run(made_up, "a", 53.0, [52.0, 54.0]), run(made_up, "b", 50.0, [50.0, 50.0])]
    return decide(FindingsConfig(findings), results)


def test_the_markdown(made_up: MadeUp) -> None:
    assert to_markdown(decided(made_up)).splitlines()[2:] == [
        "| claim | source | difference | 95% interval | the claim needs | verdict |",
        "| --- | --- | --- | --- | --- | --- |",
        "| A beats B. | Table 1 | +3.0 | +2.0 to +4.0 | more than 0 | holds |",
        r"| AP\* \| AP | in the spirit of Table 1 | +3.0 | +2.0 to +4.0 | within ±0.5 | does not hold |",
        "| C beats B. | Table 1 | – | – | more than 0 | not measured |",
        "",
        "- third: no run of c was selected",
    ]


def test_the_csv(made_up: MadeUp) -> None:
    first, second, third = csv.DictReader(io.StringIO(to_csv(decided(made_up))))
    assert first == {
        "name": "first", "claim": "A beats B.", "source": "Table 1", "in_paper": "True", "estimate": "3.0",
        "low": "2.05", "high": "3.95", "kind": "more than", "threshold": "0.0", "verdict": "holds", "reason": "",
    }  # fmt: skip
    assert (second["claim"], second["in_paper"], second["kind"], second["threshold"]) == (
        "AP* | AP", "False", "within", "0.5",
    )  # fmt: skip
    assert (third["estimate"], third["low"], third["high"]) == ("", "", "")
