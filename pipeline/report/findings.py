"""The paper's claims, and what this run's numbers say about them."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["holds", "does not hold", "cannot be told", "not measured"]


@dataclass(frozen=True)
class Finding:
    """A claim and its verdict.

    Args:
        name: its key in the configuration.
        claim: a sentence.
        source: where the paper makes it.
        estimate, low, high: the measured difference and its 95% interval; None where it was not measured.
        threshold: what the difference must exceed, or stay within.
        kind: whether the difference must be more than the threshold, or its size within it.
        verdict: whether the claim holds.
        reason: why it cannot be told, or was not measured.
        in_paper: whether the paper makes the claim.
    """

    name: str
    claim: str
    source: str
    estimate: float | None
    low: float | None
    high: float | None
    threshold: float
    kind: Literal["more than", "within"]
    verdict: Verdict
    reason: str
    in_paper: bool
