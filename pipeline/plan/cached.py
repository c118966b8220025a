"""Finds the trainings and sweeps whose results DVC has."""

import json
from functools import cache

from pydantic import BaseModel

from pipeline.config.code import KINDS, code_of
from pipeline.config.params import Params
from pipeline.config.project import Project
from pipeline.config.selection import Selection
from pipeline.config.sweep_tasks import resolve_selected
from pipeline.graph import GraphError, stages_to_run, unchanged_stages
from pipeline.stage import Outputs


def cached_stages(project: Project, params: Params, planned: Selection) -> tuple[dict[str, bool], str]:
    """Whether `dvc repro` would skip the stages of trainings and sweeps, or take their results from its cache.

    DVC compares a stage with the files in the workspace. The answer is only right if those files are current: the
    resolved configuration, the prepared dataset, and the weights that a run starts from. Other stages are left out.

    Args:
        project: the project.
        params: ``params.yaml``.
        planned: the selection to plan for.

    Returns:
        the answers by stage, and the reason why other stages have none.
    """
    # DVC's graph has only the stages that are selected now.
    outputs, selected = Outputs(project.root, params.scale), project.selection()

    @cache
    def has_code(*kind: str) -> bool:
        """Whether the code of a kind of stage is what `configure` has listed last, which is what DVC sees."""
        file = outputs.root / "config" / "code" / f"{'-'.join(kind)}.json"
        return file.is_file() and json.loads(file.read_text(encoding="utf-8")) == code_of(project.root, *kind)

    def is_current(kind: str, name: str, resolved: BaseModel) -> bool:
        file = outputs.config(kind, name)
        return file.is_file() and file.read_text(encoding="utf-8") == resolved.model_dump_json(indent=1)

    makers: dict[str, set[str]] = {}  # for each dataset with a current configuration, the stages that make it
    for name in selected.datasets:
        dataset = project.dataset(name)
        if not (is_current("datasets", name, dataset) and has_code("prepare")):
            continue
        if not dataset.synthetic:
            makers[name] = {f"prepare@{name}"}
        elif is_current("synthetic", dataset.root, project.synthetic(dataset.root)) and has_code("generate"):
            makers[name] = {f"prepare@{name}", f"generate@{dataset.root}"}
    runs = {
        f"train@{name}": run
        for name, run in selected.runs.items()
        if planned.runs.get(name) == run
        and has_code("train", run.task)
        and is_current("train", name, project.run(params.scale, name, run, params)[0])
    }
    sweeps = {
        f"sweep@{name}": sweep
        for name, sweep in selected.sweeps.items()
        if planned.sweeps.get(name) == sweep
        and has_code("sweep", sweep.task)
        and is_current("sweep", name, resolve_selected(project, params.scale, name, selected, params))
    }
    try:
        made = set(unchanged_stages(project.root, sorted({stage for stages in makers.values() for stage in stages})))
        ready = {name for name, stages in makers.items() if stages <= made}
        starts = {f"data/{name}" for name in ready}
        prepared = {stage: run for stage, run in runs.items() if run.dataset in ready}
        first = [stage for stage, run in prepared.items() if run.starts_from in starts]
        starts |= {stage.replace("@", "/") for stage in unchanged_stages(project.root, first)}
        trainings = [stage for stage, run in prepared.items() if run.starts_from in starts]
        starts |= {stage.replace("@", "/") for stage in unchanged_stages(project.root, trainings)}
        asked = trainings + [s for s, sweep in sweeps.items() if sweep.dataset in ready and sweep.starts_from in starts]
        to_run = stages_to_run(project.root, asked)
    except GraphError as error:
        return {}, str(error)
    why = "stages that they depend on have to run first"
    if outputs.root.is_dir() and not all(has_code(*kind) for kind in KINDS if kind != ("report",)):
        why = "code was edited since `dvc repro configure` listed it; run that first"
    return {stage: stage not in to_run for stage in asked}, why
