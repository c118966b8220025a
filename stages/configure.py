"""Resolves the configuration into one file per dataset and run, so that each stage depends on its own part only."""

from pipeline.files import atomic_folder
from pipeline.stage import Stage, run_stage


def main() -> None:
    stage = Stage()
    with atomic_folder(stage.outputs.root / "config") as folder:
        for kind in ("synthetic", "datasets", "train", "evaluate"):
            (folder / kind).mkdir()
        for name in stage.params.synthetic:
            (folder / "synthetic" / f"{name}.json").write_text(stage.project.synthetic(name).model_dump_json(indent=1))
        for name in stage.params.datasets:
            (folder / "datasets" / f"{name}.json").write_text(stage.project.dataset(name).model_dump_json(indent=1))
        for name, params in stage.params.runs.items():
            run, evaluation = stage.project.run(stage.params.scale, name, params)
            (folder / "train" / f"{name}.json").write_text(run.model_dump_json(indent=1))
            (folder / "evaluate" / f"{name}.json").write_text(evaluation.model_dump_json(indent=1))


if __name__ == "__main__":
    run_stage(main)
