"""Files and projects to change."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from made_up_configs import CONFIGS

from pipeline.config.project import Project


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "subject.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A copy of the project's own configuration, to change."""
    shutil.copytree(CONFIGS, tmp_path / "configs")
    return Project(tmp_path)
