from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.config.project import Project
from pipeline.config.schedules import ScheduleConfig
from pipeline.training.schedule import learning_rate

# Appendix A, typed in.
COCO_1X = ScheduleConfig.model_validate(
    {
        "batch_size": 16,
        "warmup": {"updates": 1000, "learning_rate": 0.001},
        "phases": [
            {"updates": 60_000, "learning_rate": 0.02},
            {"updates": 20_000, "learning_rate": 0.002},
            {"updates": 10_000, "learning_rate": 0.0002},
        ],
    }
)


@pytest.mark.parametrize(
    ("update", "rate"),
    [
        (0, 0.001),
        (500, 0.0105),  # halfway from 0.001 to 0.02
        (999, 0.019981),  # 0.001 + 0.019 * 0.999
        (1000, 0.02),
        (59_999, 0.02),
        (60_000, 0.002),
        (79_999, 0.002),
        (80_000, 0.0002),
        (89_999, 0.0002),
    ],
)
def test_the_learning_rate_of_coco_1x(update: int, rate: float, repository: Path) -> None:
    assert learning_rate(COCO_1X, update) == pytest.approx(rate, rel=1e-12)
    assert learning_rate(Project(repository).schedule("coco_1x"), update) == learning_rate(COCO_1X, update)


@pytest.mark.parametrize("update", [90_000, 90_001, 10**9])
def test_past_the_end_there_is_none(update: int) -> None:
    with pytest.raises(ValueError, match=rf"update {update} is past the schedule's 90000"):
        learning_rate(COCO_1X, update)


def test_the_warmup_rises_evenly() -> None:
    rates = [learning_rate(COCO_1X, update) for update in range(1001)]
    steps = [b - a for a, b in pairwise(rates)]
    assert steps == pytest.approx([0.019 / 1000] * 1000, rel=1e-6)


def test_a_warmup_of_one_update() -> None:
    schedule = COCO_1X.model_copy(update={"warmup": COCO_1X.warmup.model_copy(update={"updates": 1})})
    assert [learning_rate(schedule, update) for update in (0, 1, 2)] == [0.001, 0.02, 0.02]


# Appendix B: 90k updates with a poly learning rate, starting from 0.01, after 1000 updates of warm-up from 0.001.
@pytest.mark.parametrize(
    ("update", "rate"),
    [
        (0, 0.001),
        (500, 0.55 * 0.01 * (1 - 500 / 90_000) ** 0.9),  # a factor halfway from 0.1 to 1
        (1000, 0.01 * (89 / 90) ** 0.9),
        (45_000, 0.01 * 0.5**0.9),
        (89_999, 0.01 * (1 / 90_000) ** 0.9),
    ],
)
def test_the_learning_rate_of_deeplab(update: int, rate: float, repository: Path) -> None:
    assert learning_rate(Project(repository).schedule("cityscapes_deeplabv3"), update) == pytest.approx(rate, rel=1e-12)


def test_past_the_end_of_deeplab_s_schedule(repository: Path) -> None:
    with pytest.raises(ValueError, match="update 90000 is past"):
        learning_rate(Project(repository).schedule("cityscapes_deeplabv3"), 90_000)
