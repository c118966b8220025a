"""The paper's claims as data."""

from collections.abc import Callable
from pathlib import Path

import pytest
from made_up_configs import CONFIGS, edited, refusal

from pipeline.config.findings import FindingConfig, FindingsConfig
from pipeline.config.project import Project
from pipeline.config.reader import load
from pipeline.config.tables import Measurement

FINDING = """\
bigger_is_better:
  claim: Bigger is better.
  source: Table 3
  plus: [{experiment: big, evaluation: a, metric: AP}]
  minus: [{experiment: small, evaluation: a, metric: AP}]
  more_than: 0.5
"""
FINDINGS = load(FindingsConfig, CONFIGS / "findings.yaml").root


def test_a_claim_is_of_more_than_zero_unless_it_says_otherwise(written: Callable[[str], Path]) -> None:
    found = load(FindingsConfig, written(FINDING)).root["bigger_is_better"]
    assert (found.threshold, found.within, found.in_paper, found.experiments) == (0.5, None, True, {"big", "small"})
    found = load(FindingsConfig, written(edited(FINDING, "  more_than: 0.5\n", ""))).root["bigger_is_better"]
    assert (found.threshold, found.within) == (0, None)
    found = load(FindingsConfig, written(edited(FINDING, "more_than", "within"))).root["bigger_is_better"]
    assert (found.threshold, found.within) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("more_than", "less_than", "bigger_is_better.less_than: unknown key"),
        ("experiment: big", "experiments: big", "bigger_is_better.plus.0.experiments: unknown key"),
        ("metric: AP}]\n  minus", "metric: AP, paper: 1.0}]\n  minus", "bigger_is_better.plus.0.paper: unknown key"),
        ("  source: Table 3\n", "", "bigger_is_better.source: missing"),
        ("more_than: 0.5", "within: 0.0", "bigger_is_better.within: Input should be greater than 0"),
        ("more_than: 0.5", "within: 1.0\n  more_than: 0.5", "bigger_is_better: has both more_than and within"),
        ("plus: [{experiment: big, evaluation: a, metric: AP}]", "plus: []", "bigger_is_better.plus: List should have"),
        ("bigger_is_better", "bigger is better", "bigger is better"),
    ],
)
def test_a_wrong_claim_is_an_error_that_names_the_key(
    written: Callable[[str], Path], old: str, new: str, message: str
) -> None:
    assert message in refusal(FindingsConfig, written(edited(FINDING, old, new)))


def test_the_paper_scale_measures_every_number_that_a_claim_needs(repository: Path) -> None:
    project = Project(repository)
    experiments = {name: project.experiment("paper", name) for name in project.experiment_names("paper")}
    columns = {
        cell.metric
        for name in project.table_names()
        for row in project.table(name).rows
        for cell in row.measured.values()
    }
    for claim in FINDINGS.values():
        for cell in [*claim.plus, *claim.minus]:
            assert cell.evaluation in experiments[cell.experiment].evaluations
            assert cell.metric in columns


def test_every_claim_is_about_a_difference() -> None:
    for claim in FINDINGS.values():
        assert len(claim.plus) == len(claim.minus)


def test_claims_by_metrics_that_the_paper_lacks_are_marked() -> None:
    for claim in FINDINGS.values():
        assert claim.in_paper == all(cell.metric != "boundary_AP" for cell in [*claim.plus, *claim.minus])


def _published(project: Project) -> dict[Measurement, float]:
    """The paper's numbers by what they measure."""
    return {
        Measurement(experiment=cell.experiment, evaluation=cell.evaluation, metric=cell.metric): cell.paper
        for name in project.table_names()
        for row in project.table(name).rows
        for cell in row.measured.values()
        if cell.paper is not None
    }


def test_every_claim_holds_in_the_papers_own_numbers(repository: Path) -> None:
    published = _published(Project(repository))
    decided = 0
    for name, claim in FINDINGS.items():
        if all(cell in published for cell in [*claim.plus, *claim.minus]):
            difference = sum(published[cell] for cell in claim.plus) - sum(published[cell] for cell in claim.minus)
            assert _holds(claim, difference), f"{name}: {difference}"
            decided += 1
        else:  # what the paper says in words only
            assert claim.source == "Section 4.2" or not claim.in_paper
    assert decided == 41


def _holds(claim: FindingConfig, difference: float) -> bool:
    return difference > claim.threshold if claim.within is None else abs(difference) < claim.threshold
