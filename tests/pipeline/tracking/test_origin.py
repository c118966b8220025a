"""Who made a run, how and from which code, and the sentence about it."""

import getpass
from pathlib import Path

import pytest

from pipeline.config.project import Project
from pipeline.tracking.origin import origin_tags, run_tags

NOTE = "mlflow.note.content"


def test_who_made_a_run_how_and_from_which_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")
    assert origin_tags("dvc repro train@a", "0123456789ab") == {
        "mlflow.user": "ada",
        "mlflow.source.name": "dvc repro train@a",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": "0123456789ab",
        "mlflow.source.git.dirty": "false",
    }
    dirty = origin_tags("a", "0123456789ab-dirty")
    assert (dirty["mlflow.source.git.commit"], dirty["mlflow.source.git.dirty"]) == ("0123456789ab", "true")
    for version in ("unknown", "pointrend 0.1.0"):
        assert not any("git" in key for key in origin_tags("a", version)), "no commit is made up"
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "grace")
    assert origin_tags("a", "unknown")["mlflow.user"] == "grace"


@pytest.mark.parametrize("error", [KeyError("uid"), OSError("no username set")])
def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail() -> str:
        raise error

    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.setattr(getpass, "getuser", fail)
    assert origin_tags("a", "unknown")["mlflow.user"] == "unknown"


def test_the_note_names_the_tables_that_show_a_run(repository: Path) -> None:
    project = Project(repository)
    note = run_tags(project, "demo", "coco_pointrend_r50_uniform", 0)[NOTE]
    assert note.endswith(", seed 0. Shown in Table 4.")
    assert note.startswith(project.experiment("demo", "coco_pointrend_r50_uniform").description.rstrip("."))
    shown = run_tags(project, "paper", "coco_4xconv_r50", 2)[NOTE]
    assert shown.endswith("R50-FPN, COCO 1x, seed 2. Shown in Table 1 and Section 4.1.")
    assert run_tags(project, "pretraining", "shapes_detector", 0)[NOTE].endswith("seed 0."), "in no table"


def test_an_experiment_s_seeds_are_a_tag_where_there_are_several(repository: Path) -> None:
    project = Project(repository)
    seeds = project.experiment("paper", "coco_4xconv_r50").seeds
    assert len(seeds) > 1
    assert run_tags(project, "paper", "coco_4xconv_r50", 2)["seeds"] == ", ".join(map(str, seeds))
    assert "seeds" not in run_tags(project, "pretraining", "shapes_detector", 0)
