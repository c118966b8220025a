"""Whether a cluster can train the selected networks whose batch norm learns, such as the paper's DeepLabV3.

Its statistics are those of a whole batch (Appendix B), so all workers together must take a batch in one pass.
"""

from typing import TYPE_CHECKING

from pipeline.config.clusters import ClusterConfig
from pipeline.config.exclusions import patterns_of, starting_from, without_text
from pipeline.config.params import Params
from pipeline.config.reader import ConfigError
from pipeline.config.selection import Selection
from pipeline.config.sweep_tasks import TrainingTask, resolve_selected

if TYPE_CHECKING:
    from pipeline.config.project import Project


def batch_norm_problem(cluster: ClusterConfig, batch_size: int) -> str | None:
    """Why batch norm cannot learn from whole batches on a cluster, as the end of a sentence; None if it can."""
    if cluster.workers > 1 and not cluster.gpus_per_worker:
        return "torch has no batch norm over several workers without GPUs"
    workers = cluster.min_workers or max(cluster.workers, 1)
    images = cluster.images_per_worker
    if images is not None and workers * images < batch_size:
        who = "one worker takes" if workers == 1 else f"{workers} workers take"
        fewest = f" and min_workers {cluster.min_workers}" if cluster.min_workers else ""
        return (
            f"{who} {workers * images} of the {batch_size} images of a batch in one pass: images_per_worker is "
            f"{images}{fewest}"
        )
    return None


def check_batch_norm(
    project: "Project",
    scale: str,
    selection: Selection,
    cluster: str,
    params: Params | None = None,
    command: str | None = None,
) -> None:
    """Checks that a cluster can train what is selected.

    Args:
        project: the project.
        scale: a folder of ``configs/experiments``.
        selection: runs and sweeps of that scale.
        cluster: a file of ``configs/clusters``.
        params: the changed settings to apply, if any.
        command: the command that the user gave; None for `pointrend select`. The message repeats it.

    Raises:
        ConfigError: if batch norm that learns would not see whole batches there. The message names the clusters of
            ``configs/clusters`` that can train all that is selected, and the command that leaves out what this one
            cannot.
    """
    trained = _learning(project, scale, selection, params)
    clusters = {name: project.cluster(name) for name in {cluster, *(project.cluster_names() if trained else ())}}

    def problems_of(name: str) -> dict[str, str]:
        workers, found = clusters[name].workers, {}
        for what, (batch_size, is_trial) in trained.items():
            if is_trial and workers > 1:
                found[what] = f"the one worker of a trial takes the shares of {workers} workers one after the other"
            elif problem := batch_norm_problem(clusters[name], batch_size):
                found[what] = problem
        return found

    if not (found := problems_of(cluster)):
        return
    what, problem = next(iter(found.items()))
    able = sorted(
        (
            name
            for name, each in clusters.items()
            if not problems_of(name) and (each.gpus_per_worker or not clusters[cluster].gpus_per_worker)
        ),
        key=lambda name: (-clusters[name].gpus_per_worker * max(clusters[name].workers, 1), name),
    )
    advice = (
        f"these clusters can train it: {', '.join(able)}"
        if able
        else "no file of configs/clusters can; add one whose workers take a whole batch in one pass"
    )
    file = project.configs / "clusters" / f"{cluster}.yaml"
    rest = _without(selection, {what.partition(" ")[2] for what in found})
    if rest:
        command = command or f"pointrend select {scale} --cluster {cluster}"
        rest = f". To leave out what this cluster cannot train:\n  {command} {rest}"
    raise ConfigError(
        f"{file}:\n  {what} has norm 'batch', whose statistics are of a whole batch, but {problem}; {advice}{rest}"
    )


def _without(selection: Selection, names: set[str]) -> str:
    """The options that leave out experiments and sweeps, and what starts from them; empty if nothing would be left."""
    names = names | starting_from(selection, names).keys()
    if names.issuperset(selection.experiments):
        return ""
    return without_text(patterns_of(names, [*selection.experiments, *selection.sweeps]))


def _learning(
    project: "Project", scale: str, selection: Selection, params: Params | None
) -> dict[str, tuple[int, bool]]:
    """The experiments and sweeps with such networks: the size of their batches, and whether they are trials."""
    found = {}
    for name in selection.experiments:
        experiment = project.experiment(scale, name, params)
        if project.model(experiment.model).norm == "batch":
            found[f"experiment {name}"] = project.schedule(experiment.schedule).batch_size, False
    for name in selection.sweeps:
        task = resolve_selected(project, scale, name, selection, params)
        if isinstance(task, TrainingTask) and task.base.model.norm == "batch":
            found[f"sweep {name}"] = task.base.schedule.batch_size, True
    return found
