"""The learning rate of every update (Appendix A): a linear warm-up, then steps."""

from pipeline.config import ScheduleConfig


def learning_rate(schedule: ScheduleConfig, update: int) -> float:
    """The learning rate of update number ``update``, counted from 0.

    Raises:
        ValueError: past the end of the schedule.
    """
    end = 0
    for phase in schedule.phases:
        end += phase.updates
        if update < end:
            break
    else:
        raise ValueError(f"update {update} is past the schedule's {schedule.updates}")
    warmup = schedule.warmup
    if update < warmup.updates:
        return warmup.learning_rate + (phase.learning_rate - warmup.learning_rate) * update / warmup.updates
    return phase.learning_rate
