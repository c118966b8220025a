"""The schema of ``configs/findings.yaml``: the paper's claims, and the numbers that decide each of them."""

from typing import Annotated, Self

from pydantic import Field, PositiveFloat, RootModel, model_validator

from pipeline.config.reader import Name, Strict
from pipeline.config.tables import Measurement


class FindingConfig(Strict):
    """A claim about the sum of some measured numbers minus the sum of others."""

    claim: str = Field(description="one sentence")
    source: str = Field(description="the paper's table or section that makes the claim")
    in_paper: bool = Field(True, description="false for a claim in the paper's spirit, by a metric that it lacks")
    plus: Annotated[list[Measurement], Field(min_length=1)]
    minus: list[Measurement] = Field(default_factory=list)
    more_than: float | None = Field(None, description="the claim is that the difference is larger; 0 if not given")
    within: PositiveFloat | None = Field(None, description="the claim is that the difference is no larger, either way")

    @property
    def threshold(self) -> float:
        """``within``, else ``more_than``."""
        return self.within if self.within is not None else (self.more_than or 0.0)

    @property
    def experiments(self) -> set[str]:
        """The names of the experiments that decide the claim."""
        return {cell.experiment for cell in [*self.plus, *self.minus]}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.more_than is not None and self.within is not None:
            raise ValueError("has both more_than and within; a claim has one of them")
        return self


class FindingsConfig(RootModel[dict[Name, FindingConfig]]):
    """The claims by name, in the order in which they are shown."""
