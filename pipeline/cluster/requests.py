"""Turns the runs and sweeps of a project into requests for jobs, and finds those that are stale and ready to run."""

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.cluster.jobs import Job, Jobs
from pipeline.cluster.lookup import evaluation_of, sweep_place, training_of
from pipeline.cluster.needs import Needs, fits, needs_of_run, needs_of_sweep, workers_for_batch
from pipeline.cluster.submission import ENVIRONMENT, Place, Request, thread_variables
from pipeline.cluster.sweep_place import SweepPlace, sweep_key
from pipeline.config.reader import load
from pipeline.config.sweep_tasks import SubdivisionTask, SweepTask, TrainingTask
from pipeline.data.samplers import BatchShareError
from pipeline.files import atomic_file
from pipeline.graph import stages_to_run, stages_under_way
from pipeline.stage import Stage
from pipeline.training.record import WEIGHTS, TrainingRecord


def run_request(stage: Stage, name: str, *, train: bool, evaluate: bool) -> Request:
    """The request for the job of the run ``name``, which trains the run, evaluates it, or does both."""
    training = training_of(stage, name)
    key = training.key if train else TrainingRecord.read(stage.outputs.trained(name)).key
    evaluation = evaluation_of(stage, name, training, key) if evaluate else None
    cluster, schedule = stage.cluster, training.config.schedule
    needs = needs_of_run(cluster, workers_for_batch(cluster, schedule.batch_size))
    keys = ({"train": training.key} if train else {}) | ({"evaluate": evaluation.key} if evaluation else {})
    options = [word for kind, digest in keys.items() for word in (f"--{kind}", digest)]
    awaited = training if train else evaluation
    assert awaited is not None
    return Request(
        name=name,
        job=job_of(stage, name, needs, keys, ["run_job", "--run", name, *options]),
        work=schedule.updates * schedule.batch_size * (1.0 if train else 0.01),
        is_done=lambda: awaited.is_done,
        has_dependents=any(run.starts_from == f"train/{name}" for run in stage.selection.runs.values()),
        minimum_needs=needs.with_workers(cluster.min_workers) if cluster.min_workers else None,
    )


def sweep_request(stage: Stage, task: TrainingTask | SubdivisionTask, place: SweepPlace) -> Request:
    """The request for a sweep's job."""
    key = sweep_key(task, place)
    cluster = stage.cluster
    if isinstance(task, SubdivisionTask):
        needs, work = needs_of_run(cluster, cluster.workers), 0.0
    else:
        needs = needs_of_sweep(cluster, 1)  # one trial is enough to start; more run in parallel where they fit
        work = float(task.base.schedule.updates * task.base.schedule.batch_size)
    result = place.result(task.name, key)
    command = ["run_sweep", "--task", str(_task_file(stage, task)), "--key", key]
    return Request(
        name=task.name,
        job=job_of(stage, task.name, needs, {"sweep": key}, command),
        work=work,
        is_done=lambda: (result / "sweep.json").is_file(),
    )


def _task_file(stage: Stage, task: TrainingTask | SubdivisionTask) -> Path:
    """The file with a resolved sweep for its job to read; written here unless `configure` has written the same one."""
    selected = stage.outputs.config("sweep", task.name)
    if selected.is_file() and load(SweepTask, selected).root == task:
        return selected
    path = stage.root / ".pointrend" / "sweeps" / f"{task.name}.json"
    with atomic_file(path) as stream:
        stream.write(task.model_dump_json(indent=1))
    return path


def job_of(stage: Stage, name: str, needs: Needs, keys: Mapping[str, str], command: Sequence[str]) -> Job:
    """A job of this project. A hash of its results and its needs is in its id, so a change of either makes a new job.

    Args:
        stage: the project.
        name: the run or sweep.
        needs: the resources of the job.
        keys: the keys of the job's results by kind: train, evaluate or sweep.
        command: a module of ``stages`` and its options.
    """
    results = [f"{kind}:{key}" for kind, key in keys.items()]
    digest = hashlib.sha256(f"{sorted(results)} {needs.to_json()}".encode()).hexdigest()[:16]
    environment = {key: os.environ[key] for key in ENVIRONMENT if key in os.environ}
    return Job(
        id=f"{name}-{digest}",
        command=[sys.executable, "-m", "pipeline.cluster.launch", f"stages.{command[0]}", *command[1:]],
        folder=stage.root.resolve(),
        needs=needs,
        results=tuple(results),
        environment=environment | thread_variables(stage.cluster),
    )


def ready_requests(stage: Stage, current: str) -> list[Request]:
    """The other requests of the running DVC command whose inputs are there and current.

    There are none if no DVC command runs this process: `pointrend sweep` runs its sweep alone.

    Args:
        stage: the project.
        current: the stage that DVC runs now, such as ``train@run``. DVC locks its outputs, so stages that read them are
            left out: DVC could not tell whether they are stale.
    """
    under_way = stages_under_way()
    if under_way is None:
        return []
    runs, sweeps = stage.selection.runs, stage.selection.sweeps
    kind, _, name = current.partition("@")
    locked = f"train/{name}" if kind == "train" else None
    names = [f"prepare@{dataset}" for dataset in stage.selection.datasets]
    for run, selected in runs.items():
        if run != name and selected.starts_from != locked:
            names += [f"train@{run}", f"evaluate@{run}"]
    names += [f"sweep@{sweep}" for sweep, entry in sweeps.items() if sweep != name and entry.starts_from != locked]
    stale = set(stages_to_run(stage.root, [name for name in names if name in under_way]))

    def is_there(output: str) -> bool:
        """Whether a dataset is prepared, ``data/<dataset>``, or the weights of a run are there, ``train/<run>``."""
        kind, _, name = output.partition("/")
        if kind == "data":
            return f"prepare@{name}" not in stale and stage.outputs.prepared(name).is_dir()
        # Weights may be in DVC's cache alone. Then `train` checks them out first.
        return f"train@{name}" not in stale and (stage.outputs.trained(name) / WEIGHTS).is_file()

    found = []
    for run, selected in runs.items():
        train = f"train@{run}" in stale
        # DVC calls an evaluation stale only once its weights are new; it is part of the training's job.
        evaluate = (train and f"evaluate@{run}" in under_way) or f"evaluate@{run}" in stale
        evaluate = evaluate and bool(stage.evaluation(run).root)
        inputs = [f"data/{selected.dataset}", selected.starts_from if train else f"train/{run}"]
        if (train or evaluate) and all(map(is_there, inputs)):
            found.append(run_request(stage, run, train=train, evaluate=evaluate))
    for sweep, entry in sweeps.items():
        if f"sweep@{sweep}" in stale and is_there(f"data/{entry.dataset}") and is_there(entry.starts_from):
            task = load(SweepTask, stage.outputs.config("sweep", sweep)).root
            found.append(sweep_request(stage, task, sweep_place(stage, task)))
    return [request for request in found if not request.is_done()]


def place_of(stage: Stage, from_option: bool = False) -> Place:
    """The cluster that the project submits its jobs to.

    Args:
        stage: the project.
        from_option: whether it is the one of ``--cluster``, and not of ``params.yaml``.
    """
    return Place(stage.home, stage.cluster, lambda request, jobs: _fitting_clusters(stage, request, jobs), from_option)


def _fitting_clusters(stage: Stage, request: Request, jobs: Jobs) -> list[str]:
    """The names of the cluster configurations with which a request fits on the nodes of a Ray."""
    nodes, found = jobs.nodes(), []
    batch = stage.run(request.name).schedule.batch_size if request.name in stage.selection.runs else None
    for path in sorted((stage.project.configs / "clusters").glob("*.yaml")):
        cluster = stage.project.cluster(path.stem)
        try:
            workers = workers_for_batch(cluster, batch) if batch else cluster.workers
        except BatchShareError:
            continue
        if fits(nodes, needs_of_run(cluster, cluster.min_workers or workers)):
            found.append(path.stem)
    return found
