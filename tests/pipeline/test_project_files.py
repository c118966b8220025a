from pathlib import Path

import pytest

from pipeline.project_files import find_project_files, project_files

REPOSITORY = Path(__file__).parents[2]


def test_a_checkout_has_them_at_its_root() -> None:
    assert find_project_files() == REPOSITORY


def test_they_are_what_a_project_needs() -> None:
    files = {path.as_posix() for path in project_files(REPOSITORY)}
    assert files >= {".dvc/config", ".dvc/plots/by_experiment.json", ".dvcignore", ".gitignore", "dvc.yaml"}
    assert files >= {"stages/run", "configs/experiments/demo/coco_pointrend_r50.yaml", "configs/scales.yaml"}
    # What DVC and users write there stays out.
    assert not {file for file in files if file.startswith(".dvc/")} - {
        ".dvc/.gitignore",
        ".dvc/config",
        ".dvc/plots/by_experiment.json",
        ".dvc/plots/over_resolution.json",
    }


def test_a_folder_without_them_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").touch()
    with pytest.raises(FileNotFoundError, match=r"has no \.dvc/\.gitignore, .*, stages/run; expected"):
        project_files(tmp_path)
