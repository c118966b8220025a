"""Makes the plan of a scale: from its configuration, what was measured, the throughput figures and what DVC has."""

from collections.abc import Sequence

from pipeline.config.batch_norm import check_batch_norm
from pipeline.config.exclusions import command_text, exclude
from pipeline.config.project import Project
from pipeline.config.reader import load
from pipeline.plan.cached import cached_stages
from pipeline.plan.estimates import Estimates
from pipeline.plan.measured import Measured
from pipeline.plan.plan import Plan
from pipeline.plan.throughput import Throughput
from pipeline.stage import original_project


def make_plan(
    project: Project,
    scale: str | None,
    cluster: str | None,
    nodes: int,
    without: Sequence[str] = (),
    gpu: str | None = None,
) -> Plan:
    """Plans what `dvc repro` would run.

    Args:
        project: the project. Its folder must be the working directory, or DVC cannot tell what is cached.
        scale: plans all that `pointrend select` selects at this scale; if None, what is selected.
        cluster: a file of ``configs/clusters``; if None, the selected one, or the scale's own if none is selected.
        nodes: the number of nodes, each with as many GPUs as one run asks for.
        without: experiments and sweeps to leave out, see :func:`pipeline.config.exclusions.exclude`.
        gpu: a GPU of ``configs/throughput.yaml`` to estimate all hours for, whatever `pointrend check` has measured;
            if None, its own GPU where nothing was measured.

    Raises:
        UserError: if a configuration is wrong or missing, the cluster cannot train a selected network, or
            ``configs/throughput.yaml`` has no image size for a dataset.
    """
    throughput = load(Throughput, project.configs / "throughput.yaml").chosen(gpu)
    params = project.params() if project.params_file.is_file() else None
    given = command_text("plan", scale, {"cluster": cluster, "gpu": gpu}, without)
    if scale is None:
        params = params or project.params()
        scale, selection = params.scale, project.selection()
    else:
        # Only what DVC watches depends on the data root.
        selection = project.select(scale, params.data_root if params else "")
    name = cluster or (params.cluster if params else project.default_cluster(scale))
    if params is not None and params.scale != scale:
        params = None
    selection = exclude(project, selection, without)
    check_batch_norm(project, scale, selection, name, params, given)
    if params is not None and project.selection_file.is_file():
        cached, unknown = cached_stages(project, params, selection)
    else:
        cached, unknown = {}, f"scale {scale} is not the selected one, and DVC knows of no other"
    chosen = project.cluster(name)
    measured = Measured(project.root, original_project(project.root), name, chosen) if gpu is None else None
    estimates = Estimates(project, scale, selection, params, throughput, chosen, nodes, measured)
    runs = [estimates.run(run, cached.get(f"train@{run}")) for run in selection.runs]
    sweeps = [estimates.sweep(sweep, cached.get(f"sweep@{sweep}")) for sweep in selection.sweeps]
    experiments = {run.experiment for run in runs}
    tables = {table: project.table(table).experiments & experiments for table in project.table_names()}
    return Plan(
        scale=scale,
        cluster=name,
        nodes=nodes,
        gpu=throughput.gpus[throughput.gpu].name,
        gpu_key=throughput.gpu,
        has_gpus=chosen.gpus_per_worker > 0,
        runs_at_a_time=estimates.runs_at_a_time,
        runs=runs,
        sweeps=sweeps,
        tables={table: found for table, found in tables.items() if found},
        missing_figures=estimates.missing_figures,
        unused_measurements=measured.unused if measured else [],
        logs_models=project.tracking().models,
        unknown=unknown if None in {run.cached for run in runs} | {sweep.cached for sweep in sweeps} else None,
    )
