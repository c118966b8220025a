"""Where the models of runs are registered."""

import shutil
from pathlib import Path

from pipeline.config.project import Project
from pipeline.tracking.models import Registration
from pipeline.tracking.products import products_of


def test_the_alias_is_the_scale_s_for_the_first_seed(repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository / "configs", tmp_path / "configs")
    project = Project(tmp_path)
    runs = project.select("paper", "data").runs
    configs = {
        seed: project.run("paper", f"coco_4xconv_r50-{seed}", runs[f"coco_4xconv_r50-{seed}"])[0] for seed in (0, 2)
    }
    assert products_of(project, "paper", configs[0]).registration is None, (
        "nothing is registered unless it is asked for"
    )
    file = tmp_path / "configs/tracking.yaml"
    file.write_text(file.read_text().replace("registry: null", "registry: ours"))
    found = {seed: products_of(project, "paper", config).registration for seed, config in configs.items()}
    assert found == {
        0: Registration("ours-coco_4xconv_r50", "paper"),
        2: Registration("ours-coco_4xconv_r50", "paper-seed2"),
    }
