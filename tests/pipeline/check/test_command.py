"""`pointrend check`, shrunk and refused."""

import re
from pathlib import Path

import pytest
import typer
import yaml
from made_up_configs import copied_project
from typer.testing import CliRunner

from pipeline.cli import check
from pipeline.config.project import Project
from pipeline.config.selection_files import params_text, selection_text


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = copied_project(tmp_path)
    project.selection_file.write_text(selection_text("demo", project.select("demo", "data")))
    project.params_file.write_text(params_text(project.initial_params("demo", "data", "laptop")))
    monkeypatch.chdir(tmp_path)
    return project


def pointrend(*arguments: str):
    app = typer.Typer()
    app.command()(check)
    return CliRunner().invoke(app, list(arguments))


def files(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file() and not path.is_relative_to(root / "configs")}


class TestRefusals:
    def test_all_that_is_missing_is_one_error_before_anything_runs(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from pipeline.check import submit

        monkeypatch.setattr(submit, "run_all", lambda *arguments: pytest.fail("something was submitted"))
        before = files(project.root)
        result = pointrend()
        assert result.exit_code == 1
        error = " ".join(result.stderr.split())
        assert error.count("error:") == 1
        assert "nothing was submitted" in error
        for dataset in ("shapes", "streets_instance", "streets_semantic"):
            assert f"dataset {dataset} is not prepared: run `dvc repro prepare@{dataset}`" in error
        assert files(project.root) == before

    def test_raw_data_that_is_not_there(self, project: Project) -> None:
        result = pointrend("paper", "--cluster", "eight_gpus")
        assert result.exit_code == 1
        error = " ".join(result.stderr.split())
        assert "coco2017 is not prepared, and" in error
        assert "https://cocodataset.org" in error
        assert "run `pointrend select paper --cluster eight_gpus`, then `dvc repro prepare@coco2017`" in error

    def test_a_cluster_that_splits_the_batches_of_a_batch_norm(self, project: Project) -> None:
        error = " ".join(pointrend("paper", "--cluster", "one_gpu").stderr.split())
        assert "experiment cityscapes_deeplabv3_pointrend_r103 has norm 'batch'" in error
        assert "pointrend check paper --cluster one_gpu --without '*deeplabv3*'" in error
        # What is not checked, or left out, is no problem; the data are.
        for options in (["--run", "coco_pointrend_r50"], ["--without", "*deeplabv3*"]):
            error = pointrend("paper", "--cluster", "one_gpu", *options).stderr
            assert "norm" not in error
            assert "is not prepared" in error

    def test_an_unknown_run(self, project: Project) -> None:
        result = pointrend("--run", "coco_pointrend_r5")
        assert result.exit_code == 1
        assert "no run or experiment of scale demo" in " ".join(result.stderr.split())


def test_a_training_that_fails_is_named_and_the_others_go_on(project: Project) -> None:
    # The first update makes the weights so large that the second one has no finite loss.
    schedule = project.schedule("demo").model_dump(mode="json", exclude_none=True)
    schedule["warmup"] = {"updates": 1, "learning_rate": 1e30}
    schedule["momentum"] = 0.8  # another kind of training
    (project.configs / "schedules" / "wild.yaml").write_text(yaml.safe_dump(schedule))
    file = project.configs / "experiments" / "demo" / "coco_pointrend_r50_k2.yaml"
    file.write_text(re.sub(r"(?m)^schedule: .*\n", "", file.read_text()) + "schedule: wild\n")
    before = files(project.root)

    names = ["coco_pointrend_r50_k2", "cityscapes_semantic_fpn_pointrend_r101"]
    result = pointrend("--shrink", *(word for name in names for word in ("--run", name)))
    assert result.exit_code == 1, result.output
    lines = result.stdout.splitlines()
    (failed,) = [line for line in lines if line.startswith("failed:")]
    assert failed.startswith("failed: coco_pointrend_r50_k2: update 2: not finite")
    (passed,) = [line for line in lines if line.startswith("cityscapes_semantic_fpn_pointrend_r101 ")]
    assert "equal bits" in passed
    assert any(line.startswith("demo: 1 of 2 distinct trainings passed") for line in lines)
    assert files(project.root) == before, "neither results nor figures stay"
