"""Decides the paper's claims from the results of the runs, and writes the verdicts as Markdown and CSV."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.config.findings import FindingConfig, FindingsConfig
from pipeline.report.measured import changes, difference_interval, measure, paired_seeds
from pipeline.report.results import RunResult
from pipeline.report.tables.formats import format_difference, pipe_row

HOLDS = "holds"
DOES_NOT_HOLD = "does not hold"
CANNOT_BE_TOLD = "cannot be told"
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Finding:
    """A claim of the paper, decided.

    Attributes:
        name: its key in ``configs/findings.yaml``.
        claim: one sentence.
        source: the paper's table or section.
        estimate: the difference that the claim is about, in points: the median over seeds.
        low, high: its 95% interval over images and seeds; None where there are no resamples.
        threshold: x of "more than x" and of "within x".
        kind: whether the claim is that the difference is more than the threshold, or within it either way.
        verdict: one of "holds", "does not hold", "cannot be told" and "not measured".
        reason: why there is no estimate or no interval, and the overridden settings of the runs.
        in_paper: False for a claim in the paper's spirit, by a metric that the paper lacks.
    """

    name: str
    claim: str
    source: str
    estimate: float | None
    low: float | None
    high: float | None
    threshold: float
    kind: Literal["more than", "within"]
    verdict: str
    reason: str
    in_paper: bool


def decide(
    findings: FindingsConfig, results: Sequence[RunResult], missing: Mapping[str, str] | None = None
) -> list[Finding]:
    """Decides each claim, in the order of the configuration.

    Args:
        findings: the claims.
        results: the results of the runs.
        missing: why other selected runs have no results, by the run's name.
    """
    return [_decide(name, finding, results, missing or {}) for name, finding in findings.root.items()]


def _decide(name: str, finding: FindingConfig, results: Sequence[RunResult], missing: Mapping[str, str]) -> Finding:
    plus, minus = ([measure(cell, results, missing) for cell in cells] for cells in (finding.plus, finding.minus))
    seeds = paired_seeds([*plus, *minus])
    estimate, found = None, None
    if reasons := dict.fromkeys(cell.missing for cell in [*plus, *minus] if cell.missing):
        verdict, reason = NOT_MEASURED, "; ".join(reasons)
    elif not seeds:
        verdict, reason = NOT_MEASURED, f"no seed has a run of each of {', '.join(sorted(finding.experiments))}"
    else:
        estimate = statistics.median(
            sum(cell.by_seed[seed] for cell in plus) - sum(cell.by_seed[seed] for cell in minus) for seed in seeds
        )
        found = difference_interval(plus, minus)
        verdict = CANNOT_BE_TOLD if found is None else verdict_of(finding, *found)
        changed = dict.fromkeys(changes(experiment, results) for experiment in sorted(finding.experiments))
        notes = ["no interval: its runs lack equal resamples of the images"] if found is None else []
        notes += [f"run with {text}" for text in changed if text]
        reason = "; ".join(notes)
    low, high = found or (None, None)
    return Finding(
        name=name,
        claim=finding.claim,
        source=finding.source,
        estimate=estimate,
        low=low,
        high=high,
        threshold=finding.threshold,
        kind="more than" if finding.within is None else "within",
        verdict=verdict,
        reason=reason,
        in_paper=finding.in_paper,
    )


def verdict_of(finding: FindingConfig, low: float, high: float) -> str:
    """Whether a claim holds, given the 95% interval of its difference.

    A claim of "more than x" holds if the whole interval is above x, and does not if all of it is below. One of "within
    x" holds if the whole interval is inside (-x, x), and does not if all of it is outside.
    """
    x = finding.threshold
    if finding.within is None:
        holds, fails = low > x, high < x
    else:
        holds, fails = -x < low and high < x, low > x or high < -x
    return HOLDS if holds else DOES_NOT_HOLD if fails else CANNOT_BE_TOLD


def to_markdown(findings: Sequence[Finding]) -> str:
    """A pipe table, and why claims were not decided."""
    lines = [
        "**The paper's findings in this run's numbers**",
        "",
        pipe_row(["claim", "source", "difference", "95% interval", "the claim needs", "verdict"]),
        pipe_row(["---"] * 6),
    ]
    for finding in findings:
        source = finding.source if finding.in_paper else f"in the spirit of {finding.source}"
        ends = "–" if finding.low is None else f"{format_difference(finding.low)} to {format_difference(finding.high)}"
        needed = f"within ±{finding.threshold:g}" if finding.kind == "within" else f"more than {finding.threshold:g}"
        lines.append(
            pipe_row([finding.claim, source, format_difference(finding.estimate), ends, needed, finding.verdict])
        )
    reasons: dict[str, list[str]] = {}
    for finding in findings:
        if finding.reason:
            reasons.setdefault(finding.reason, []).append(finding.name)
    if reasons:
        lines += ["", *(f"- {', '.join(names)}: {reason}" for reason, names in reasons.items())]
    return "\n".join(lines) + "\n"


def to_csv(findings: Sequence[Finding]) -> str:
    """A line for each claim, with plain numbers in points; empty where there are none."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = (
        "name",
        "claim",
        "source",
        "in_paper",
        "estimate",
        "low",
        "high",
        "kind",
        "threshold",
        "verdict",
        "reason",
    )
    writer.writerow(columns)
    for finding in findings:
        values = (getattr(finding, column) for column in columns)
        writer.writerow([round(value, 4) if isinstance(value, float) else value for value in values])
    return stream.getvalue()
