"""Checks the distinct trainings of a scale as jobs on its cluster, each with the needs of its run."""

import datetime
import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ray.job_submission import JobDetails, JobStatus

from pipeline.check.remedies import explain
from pipeline.check.scale import CheckedScale, Outcome, Report
from pipeline.check.task import CheckTask, Failure, Found, Kind, read_failure, three_updates
from pipeline.cluster.jobs import Jobs
from pipeline.cluster.needs import Needs, Resources, needs_of_run, place, workers_for_batch
from pipeline.cluster.requests import job_of, place_of
from pipeline.cluster.submission import Place, Request, in_order, submit_what_fits
from pipeline.config.code import code_of, digest
from pipeline.config.locations import join
from pipeline.config.reader import load
from pipeline.data.storage import Storage
from pipeline.files import atomic_file
from pipeline.plan import measured
from pipeline.training.record import data_digest

POLL_SECONDS = 1.0


def check_on_cluster(checked: CheckedScale, on_end: Callable[[Outcome], None]) -> Report:
    """Checks every distinct training of a scale, and keeps what was measured for `pointrend plan`.

    Args:
        checked: the scale.
        on_end: called when the check of a training has ended.

    Raises:
        CheckError: listing everything that is missing; nothing is submitted then.
        ClusterTooSmallError: if a training could never run on the cluster; nothing is submitted then.
        KeyboardInterrupt: after Ctrl-C; the jobs continue.
    """
    checked.check_resources()
    stage, name = checked.stage, checked.stage.params.cluster
    report = Report(checked.stage.params.scale, name)
    code = {task: digest(code_of(stage.root, "train", task)) for task in _tasks_of(checked.kinds)}
    requests: list[Request] = []
    known: dict[str, tuple[Kind, CheckTask]] = {}
    for kind in checked.kinds:
        task = task_of(checked, kind, code[kind.first.model.task])
        requests.append(_request(checked, task))
        known[requests[-1].name] = kind, task

    def ended(request: Request, job: JobDetails | None, jobs: Jobs) -> None:
        kind, task = known[request.name]
        if task.result.is_file():
            outcome = Outcome(kind, load(Found, task.result))
        else:
            outcome = Outcome(kind, failure=explain(_failure(task, request, job, jobs), task, name))
        report.outcomes.append(outcome)
        on_end(outcome)

    def begin(request: Request) -> None:
        shutil.rmtree(known[request.name][1].path, ignore_errors=True)
        known[request.name][1].path.mkdir(parents=True)

    try:
        report.runs_at_a_time = run_all(requests, place_of(stage, checked.cluster_option), begin, ended)
    except KeyboardInterrupt:
        print("\nThe jobs go on: `pointrend jobs list` shows them, `pointrend jobs stop` stops them.", flush=True)
        raise
    order = {kind.key: number for number, kind in enumerate(checked.kinds)}
    report.outcomes.sort(key=lambda outcome: order[outcome.kind.key])
    found = [(outcome.kind, outcome.found) for outcome in report.outcomes if outcome.found is not None]
    measured.keep_measurements(
        stage.home,
        [
            measured.Measurement(
                kind=kind.key,
                code=code[kind.first.model.task],
                cluster=name,
                speed=measured.speed_of(stage.cluster),
                place=measured.place(),
                device=each.device,
                workers=each.workers,
                seconds_per_update=each.seconds_per_update,
                memory=each.memory,
                date=datetime.date.today().isoformat(),
            )
            for kind, each in found
        ],
    )
    return report


def _tasks_of(kinds: Sequence[Kind]) -> set[str]:
    return {kind.first.model.task for kind in kinds}


def task_of(checked: CheckedScale, kind: Kind, code: str) -> CheckTask:
    """The check of a training, in a folder of its own beside the project's trainings.

    Args:
        checked: the scale.
        kind: the training.
        code: a hash of the code that trains.
    """
    stage, first = checked.stage, kind.first
    config = first.model_copy(update={"schedule": three_updates(first.schedule), "validation": None})
    weights, start = checked.start(first)
    prepared = stage.outputs.prepared(first.dataset).resolve()
    dataset = stage.project.dataset(first.dataset)
    root = Path(stage.cluster.storage or stage.home / ".pointrend").resolve() / "check" / stage.params.scale
    about = f"{kind.key} {code} {data_digest(prepared)} {stage.cluster.model_dump_json()} {start} {weights}"
    key = hashlib.sha256(about.encode()).hexdigest()[:16]
    return CheckTask(
        name=first.run,
        key=key,
        config=config,
        start=start,
        settings=kind.settings,
        cluster=stage.cluster,
        prepared=str(prepared),
        images=Storage(join(stage.data_root(dataset), dataset.root)).root,
        weights=weights,
        folder=str(root / f"{first.run}-{key}"),
    )


def _request(checked: CheckedScale, task: CheckTask) -> Request:
    """The request for the job of a check, for which its folder holds what it reads."""
    stage, cluster = checked.stage, checked.stage.cluster
    file = task.path.with_suffix(".json")
    with atomic_file(file) as stream:
        stream.write(task.model_dump_json(indent=1))
    needs = needs_of_run(cluster, workers_for_batch(cluster, task.config.schedule.batch_size))
    name = f"check-{task.name}"
    return Request(
        name=name,
        job=job_of(stage, name, needs, {"check": task.key}, ["run_check", "--task", str(file)]),
        work=task.config.schedule.batch_size,
        is_done=task.result.is_file,
        minimum_needs=needs.with_workers(cluster.min_workers) if cluster.min_workers else None,
    )


def run_all(
    requests: Sequence[Request],
    where: Place,
    begin: Callable[[Request], None],
    on_end: Callable[[Request, JobDetails | None, Jobs], None],
) -> int:
    """Submits requests and waits until the job of each has ended, whether or not it failed.

    Args:
        requests: what to run.
        where: the cluster.
        begin: called with each request that no job works at yet, before anything is submitted.
        on_end: called with each request that has ended, its job, and the cluster's jobs.

    Returns:
        how many jobs like the largest one the cluster has room for.

    Raises:
        ClusterTooSmallError: if a request could never run on the cluster; nothing is submitted then.
    """
    if not requests:
        return 1
    waiting = in_order(requests)
    largest = max((request.job.needs for request in requests), key=lambda needs: (needs.total.gpus, needs.total.cpus))
    with where.jobs(largest) as jobs:
        room = where.cluster.runs_at_once or count_that_fit(jobs.nodes(), largest)
        live = {job for each in jobs.live() for job in (each.metadata or {}).get("results", "").split()}
        for request in requests:
            if not live.intersection(request.job.results):
                begin(request)
        waiting = submit_what_fits(jobs, waiting, where)
    running = [request for request in requests if request not in waiting]
    while running or waiting:
        time.sleep(POLL_SECONDS)
        for request in list(running):
            job = jobs.find(request.job.id)
            if job is None or job.status.is_terminal():
                running.remove(request)
                on_end(request, job, jobs)
        if waiting:
            with where.jobs(largest) as jobs:
                left = submit_what_fits(jobs, waiting, where)
            running += [request for request in waiting if request not in left]
            waiting = left
    return room


def count_that_fit(nodes: Sequence[Resources], needs: Needs) -> int:
    """How many jobs with these needs run at a time on an empty cluster."""
    free, count = place(nodes, needs), 0
    while free is not None:
        free, count = place(free, needs), count + 1
    return max(count, 1)


def _failure(task: CheckTask, request: Request, job: JobDetails | None, jobs: Jobs) -> Failure:
    """Why a check failed: as its processes said it, or as far as Ray knows."""
    if (said := read_failure(task.path)) is not None:
        return said
    if job is None:
        return Failure(kind="lost", message="its job was lost with Ray or its node; check it again", fixable=True)
    if job.status == JobStatus.STOPPED:
        return Failure(kind="stopped", message="its job was stopped; check it again", fixable=True)
    if (job.driver_exit_code or 0) > 0:
        written: list[str] = []
        jobs.follow(request.job.id, written.append)
        lines = [line for line in "".join(written).splitlines() if line.strip()]
        message = f"{lines[-1] if lines else 'no output'} (`pointrend jobs follow {request.job.id}` shows all)"
        return Failure(kind="job", message=message, fixable=True)
    return Failure(
        kind="killed",
        message=f"its process was killed, as the system does when memory is out: give it more memory, or fewer images "
        f"in a pass (images_per_worker). Ray says: {job.message}",
        fixable=True,
    )
