"""Files and projects to change."""

from collections.abc import Callable
from pathlib import Path

import pytest
from made_up_configs import chained_project, copied_project

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
    return copied_project(tmp_path)


@pytest.fixture
def chain(tmp_path: Path) -> Project:
    """A copy, to change, whose demo's runs start from other runs of the demo."""
    return chained_project(tmp_path)
