from pathlib import Path

import pytest
from made_up_configs import copied_project

from pipeline.cli import write_selection
from pipeline.config.project import Project
from pipeline.errors import UserError
from pipeline.report.build import report_of
from pipeline.report.sweep_results import read_sweeps
from pipeline.stage import Stage


def test_a_scale_without_results_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_selection(Project(tmp_path), "demo", "data", None)
    with pytest.raises(UserError, match="scale demo has no results yet; run `dvc repro`"):
        report_of(Stage())
    assert not (tmp_path / "reports").exists()


def test_sweeps_without_results_are_named(tmp_path: Path) -> None:
    shown = tmp_path / "sweeps.json"
    shown.write_text('{"k_beta": {"title": "k and beta"}, "subdivision": {"title": "Subdivision"}}')
    (tmp_path / "subdivision").mkdir()
    with pytest.raises(UserError, match="no results yet of sweeps k_beta, subdivision; run `dvc repro`"):
        read_sweeps(shown, tmp_path)
