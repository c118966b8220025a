"""The schema of ``configs/scales.yaml``: what the report of a scale is about."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, RootModel

from pipeline.config.reader import Name, Strict


class ScaleConfig(Strict):
    """What the report of a scale is about."""

    about: Literal["paper", "own data"] = "own data"
    tables: list[Name] = Field([], description="the paper's tables that a page about own data shows as well")

    def shown_tables(self, all_tables: Sequence[str]) -> list[str]:
        """The paper's tables in the report, given the names of all of them."""
        return list(all_tables) if self.about == "paper" else self.tables


class ScalesConfig(RootModel[dict[Name, ScaleConfig]]):
    """Scales by name. One that is not here is about its own data, without any table of the paper."""
