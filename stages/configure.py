"""Writes the resolved configuration, a file per dataset, run, evaluation and sweep, and the code of each stage."""

from pipeline.config.batch_norm import check_batch_norm
from pipeline.config.code import KINDS, code_of
from pipeline.config.exclusions import select_command
from pipeline.config.raw_data import missing_raw_data, refuse_missing
from pipeline.config.sweep_tasks import resolve_selected, sweep_file
from pipeline.config.sweeps import ShownSweep, load_sweep
from pipeline.files import atomic_folder, write_json
from pipeline.graph import goes_on_after_failure, stages_in_scope
from pipeline.stage import Stage, run_stage


def main() -> None:
    stage = Stage()
    project, params, selection = stage.project, stage.params, stage.selection
    project.check(params, selection)
    command = select_command(params, without=selection.excluded)
    check_batch_norm(project, params.scale, selection, params.cluster, params, command)
    elsewhere = select_command(params.model_copy(update={"data_root": "FOLDER"}), without=selection.excluded)
    missing = missing_raw_data(project, selection, params.data_root, elsewhere)
    if missing and not goes_on_after_failure():
        needed = stages_in_scope(f"prepare@{name}" for name in missing)
        refuse_missing([text for name, text in missing.items() if f"prepare@{name}" in needed])
    with atomic_folder(stage.outputs.root / "config", replace=True) as folder:
        for kind in ("synthetic", "datasets", "train", "evaluate", "sweep", "code"):
            (folder / kind).mkdir()
        for stage_and_task in KINDS:
            write_json(folder / "code" / f"{'-'.join(stage_and_task)}.json", code_of(stage.root, *stage_and_task))
        for name in selection.synthetic:
            (folder / "synthetic" / f"{name}.json").write_text(project.synthetic(name).model_dump_json(indent=1))
        for name in selection.datasets:
            (folder / "datasets" / f"{name}.json").write_text(project.dataset(name).model_dump_json(indent=1))
        for name, selected in selection.runs.items():
            run, evaluation = project.run(params.scale, name, selected, params)
            (folder / "train" / f"{name}.json").write_text(run.model_dump_json(indent=1))
            (folder / "evaluate" / f"{name}.json").write_text(evaluation.model_dump_json(indent=1))
        for name in selection.sweeps:
            task = resolve_selected(project, params.scale, name, selection, params)
            (folder / "sweep" / f"{name}.json").write_text(task.model_dump_json(indent=1))
    # Written to the folder of the sweeps' outputs, because `report` needs that folder even if no sweep is selected.
    sweeps = {name: load_sweep(sweep_file(project, params.scale, name)) for name in selection.sweeps}
    shown = {name: sweep.model_dump(include=set(ShownSweep.model_fields)) for name, sweep in sweeps.items()}
    write_json(stage.outputs.shown_sweeps, shown)


if __name__ == "__main__":
    run_stage(main)
