"""What to do about a training that fails its check."""

from pipeline.check.task import CheckTask, Failure

NO_GRADIENT = "Expected to have finished reduction in the prior iteration"
MEMORY = ("out of memory", "OutOfMemory", "can't allocate memory", "Cannot allocate memory", "not enough memory")


def explain(failure: Failure, task: CheckTask, cluster: str) -> str:
    """A failure and its remedy, in a sentence or two.

    Args:
        failure: the failure.
        task: the check that failed.
        cluster: the name of its cluster configuration.
    """
    message = failure.message
    if NO_GRADIENT in message:
        names = _names(message)
        what = f"parameters get no gradient ({names})" if names else "some parameters get no gradient"
        return (
            f"update 2 cannot start: {what}, and workers wait for the gradient of each one. Leave out of the network "
            "what its losses do not reach, or freeze it; or train with one worker"
        )
    if any(word in f"{failure.kind} {message}" for word in MEMORY):
        images = task.config.schedule.batch_size // max(task.cluster.workers, 1)
        now = min(task.cluster.images_per_worker or images, images)
        smaller = f"set images_per_worker: {max(now // 2, 1)} in configs/clusters/{cluster}.yaml, so that a worker "
        advice = smaller + "takes its images in more passes" if now > 1 else "take a GPU with more memory, or bfloat16"
        return f"out of memory with {now} image{'s' if now > 1 else ''} in a pass; {advice} ({_first_line(message)})"
    if failure.fixable:
        return message
    return f"{failure.kind}: {_first_line(message)}" + (f" ({failure.where})" if failure.where else "")


def _names(message: str) -> str:
    """The parameters that an error of DistributedDataParallel names."""
    marker = "Parameters which did not receive grad for rank"
    if marker not in message:
        return ""
    return message.split(marker, 1)[1].partition(":")[2].strip().splitlines()[0].strip(" .")


def _first_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[0] if lines else "no message"
