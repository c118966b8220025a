"""Schedules."""

from collections.abc import Callable
from pathlib import Path

import pytest
from made_up_configs import SCHEDULE, edited, refusal
from pydantic import ValidationError

from pipeline.config.reader import load
from pipeline.config.schedules import ScheduleConfig


@pytest.mark.parametrize("value", [".inf", ".nan"])
def test_a_learning_rate_is_finite(written: Callable[[str], Path], value: str) -> None:
    message = refusal(ScheduleConfig, written(edited(SCHEDULE, "rate: 0.02}", f"rate: {value}}}")))
    assert "phases.0.learning_rate" in message


def test_defaults_are_those_of_the_paper(written: Callable[[str], Path]) -> None:
    schedule = load(ScheduleConfig, written(SCHEDULE))
    assert (schedule.momentum, schedule.weight_decay, schedule.precision) == (0.9, 0.0001, "float32")
    assert schedule.updates == 80000


def test_a_configuration_does_not_change_after_loading(written: Callable[[str], Path]) -> None:
    schedule = load(ScheduleConfig, written(SCHEDULE))
    with pytest.raises(ValidationError, match="frozen"):
        schedule.batch_size = 8  # type: ignore[misc]
