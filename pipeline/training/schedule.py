"""The learning rate of every update: a linear warm-up, then steps (Appendix A) or polynomial decay (Appendix B)."""

from pipeline.config.schedules import Phase, ScheduleConfig


def learning_rate(schedule: ScheduleConfig, update: int) -> float:
    """The learning rate of update number ``update``, counted from 0.

    During the warm-up it is the rate that would apply without a warm-up, scaled by a factor that rises linearly to 1.
    The factor begins at the warm-up's learning rate over the schedule's first one.

    Raises:
        ValueError: past the end of the schedule.
    """
    rate = _without_warmup(schedule, update)
    warmup = schedule.warmup
    if update < warmup.updates:
        lowest = warmup.learning_rate * (rate / schedule.learning_rate)
        return lowest + (rate - lowest) * update / warmup.updates
    return rate


def _without_warmup(schedule: ScheduleConfig, update: int) -> float:
    end = 0
    for part in schedule.parts:
        end += part.updates
        if update < end:
            if isinstance(part, Phase):
                return part.learning_rate
            return part.learning_rate * (1 - update / part.updates) ** part.power
    raise ValueError(f"update {update} is past the schedule's {schedule.updates}")
