"""`pointrend select`."""

from pathlib import Path

import pytest
import yaml
from made_up_configs import linked_project
from typer.testing import CliRunner

from pipeline.cli import select
from pipeline.config.project import Project

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import typer

    linked_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(select)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_the_committed_parameters_are_those_of_the_demo(run, tmp_path: Path) -> None:
    assert run("demo").exit_code == 0
    for name in ("params.yaml", "selection.yaml"):
        assert (tmp_path / name).read_text() == (REPOSITORY / name).read_text()


def test_what_is_written_is_what_loads(run, tmp_path: Path) -> None:
    project = Project(tmp_path)
    run("paper", "--data-root", "s3://my bucket/data?region=x", "--cluster", "eight_gpus")
    assert project.selection() == project.select("paper", "s3://my bucket/data?region=x")
    params = project.params()
    assert params == project.initial_params("paper", "s3://my bucket/data?region=x", "eight_gpus")
    assert (params.scale, params.data_root, params.cluster) == ("paper", "s3://my bucket/data?region=x", "eight_gpus")


def test_select_says_what_it_chose_in_a_few_lines(run) -> None:
    lines = run("paper").stdout.splitlines()
    assert len(lines) < 10
    assert "scale paper on cluster laptop" in lines[0]
    assert any(line.split() == ["coco2017", "22", "66"] for line in lines), lines


def test_paper_scale_has_a_run_per_experiment_and_seed(run, tmp_path: Path) -> None:
    assert run("paper", "--data-root", "/datasets", "--cluster", "eight_gpus").exit_code == 0
    selection = Project(tmp_path).selection()
    experiments = Project(tmp_path).experiment_names("paper")
    assert {f"coco_{head}_r50" for head in ("4xconv", "pointrend")} <= set(experiments)
    # Section 4: three seeds on COCO, five on Cityscapes.
    assert sorted(selection.runs) == sorted(
        f"{name}-{seed}" for name in experiments for seed in range(3 if name.startswith("coco") else 5)
    )
    assert selection.datasets["coco2017"].train == "/datasets/coco/annotations/instances_train2017.json"
    assert selection.synthetic == []


def test_seeds_are_chosen_with_an_option(run, tmp_path: Path) -> None:
    assert run("demo", "--seeds", "3").exit_code == 0
    project = Project(tmp_path)
    selection = project.selection()
    experiments = project.experiment_names("demo")
    assert sorted(selection.runs) == sorted(f"{name}-{seed}" for name in experiments for seed in range(3))
    assert {project.run("demo", name, selection.runs[name])[0].seed for name in selection.runs} == {0, 1, 2}


def test_selecting_again_says_what_it_resets(run, tmp_path: Path) -> None:
    assert "no longer" not in run("demo").stdout
    selection, params = tmp_path / "selection.yaml", tmp_path / "params.yaml"
    kept = [line for line in selection.read_text().splitlines() if not line.startswith("  coco_4xconv_r50-0:")]
    selection.write_text("\n".join(kept))
    changed = yaml.safe_load(params.read_text())
    changed["schedule"] = "demo_3x"
    changed["experiments"]["coco_pointrend_r50"]["sampling"]["num_points"] = 49
    params.write_text(yaml.safe_dump(changed))
    lines = run("demo", "--cluster", "one_gpu").stdout.splitlines()
    settings = "schedule=demo_3x, experiments.coco_pointrend_r50.sampling.num_points=49"
    assert lines[-2:] == [f"params.yaml no longer has: {settings}", "selection.yaml also has now: coco_4xconv_r50-0"]
    assert "also" not in run("demo").stdout
    names = Project(tmp_path).experiment_names("demo")
    assert run("demo", "--seeds", "2").stdout.splitlines()[-1].endswith(f"and {len(names) - 4} more")


def test_what_is_left_out_is_written_and_said(run, tmp_path: Path) -> None:
    result = run("paper", "--cluster", "one_gpu", "--without", "*deeplabv3*", "--without", "subdivision")
    assert result.exit_code == 0
    excluded = ["cityscapes_deeplabv3_pointrend_r103", "cityscapes_deeplabv3_r103", "subdivision"]
    assert f"left out: {', '.join(excluded)}" in result.stdout.splitlines()
    selection = Project(tmp_path).selection()
    assert selection.excluded == excluded
    assert "subdivision" not in selection.sweeps
    assert len(selection.experiments) == 31
    assert run("paper").exit_code == 0
    assert not Project(tmp_path).selection().excluded


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nowhere"], "nowhere"),
        (["demo", "--cluster", "moon"], "moon.yaml"),
        (["paper", "--cluster", "spot_gpus"], "these clusters can train it: eight_gpus"),
        (
            ["paper", "--cluster", "one_gpu", "--seeds", "1", "--without", "*x101*"],
            "pointrend select paper --cluster one_gpu --seeds 1 --without '*x101*' --without '*deeplabv3*'",
        ),
        (["paper", "--without", "deeplab"], "near it: cityscapes_deeplabv3_"),
        (["paper", "--without", "coco_pointrend_r50"], "sweep point_head and 2 more would start from its run"),
    ],
)
def test_what_cannot_be_selected_is_named_and_nothing_is_written(
    run, tmp_path: Path, arguments: list[str], word: str
) -> None:
    for name in ("params.yaml", "selection.yaml"):
        (tmp_path / name).write_text("scale: before\n")
    result = run(*arguments)
    assert result.exit_code == 1
    assert word in result.output + result.stderr
    for name in ("params.yaml", "selection.yaml"):
        assert yaml.safe_load((tmp_path / name).read_text()) == {"scale": "before"}
