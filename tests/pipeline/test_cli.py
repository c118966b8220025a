"""`pointrend select`."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cli import select
from pipeline.config.project import Project

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import typer

    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(select)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_the_committed_parameters_are_those_of_the_demo(run, tmp_path: Path) -> None:
    assert run("demo").exit_code == 0
    assert (tmp_path / "params.yaml").read_text() == (REPOSITORY / "params.yaml").read_text()


def test_paper_scale_has_a_run_per_experiment_and_seed(run, tmp_path: Path) -> None:
    assert run("paper", "--data-root", "/datasets", "--cluster", "eight_gpus").exit_code == 0
    params = Project(tmp_path).params()
    experiments = Project(tmp_path).experiment_names("paper")
    assert {f"coco_{head}_r50" for head in ("4xconv", "pointrend")} <= set(experiments)
    # Section 4: three seeds on COCO, five on Cityscapes.
    assert sorted(params.runs) == sorted(
        f"{name}-{seed}" for name in experiments for seed in range(3 if name.startswith("coco") else 5)
    )
    assert params.datasets["coco2017"].train == "/datasets/coco/annotations/instances_train2017.json"
    assert params.synthetic == []


@pytest.mark.parametrize(
    ("arguments", "word"), [(["nowhere"], "nowhere"), (["demo", "--cluster", "moon"], "moon.yaml")]
)
def test_what_does_not_exist_is_named_and_nothing_is_written(
    run, tmp_path: Path, arguments: list[str], word: str
) -> None:
    (tmp_path / "params.yaml").write_text("scale: before\n")
    result = run(*arguments)
    assert result.exit_code == 1
    assert word in result.output + result.stderr
    assert yaml.safe_load((tmp_path / "params.yaml").read_text()) == {"scale": "before"}
