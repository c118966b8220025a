"""`pointrend train` and `pointrend data check`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
import yaml
from made_up_configs import copied_project
from PIL import Image
from typer.testing import CliRunner, Result

from pipeline.cli import select
from pipeline.config.project import Project
from pipeline.own_data import data as data_commands
from pipeline.own_data import find_weights, train
from pointrend import build_model, save_weights

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    copied_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command("train")(train)
    app.command("select")(select)
    app.add_typer(data_commands, name="data")
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def instances(tmp_path: Path, coco_folder: Callable[..., Any]) -> Any:
    return coco_folder(tmp_path / "raw", "train")


def prepared_to_train(instances: Any, *options: Any) -> tuple[Any, ...]:
    return ("train", "--data", instances.annotations, "--no-run", "--updates", 2, *options)


def files(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (root / "configs").rglob("*.yaml")}


def test_train_writes_and_selects_a_scale(run: Run, instances: Any, tmp_path: Path) -> None:
    before = files(tmp_path)
    result = run(*prepared_to_train(instances, "--val-share", 0.4, "--seed", 3, "--batch", 1, "--image-size", 64))
    assert result.exit_code == 0, result.output
    after = files(tmp_path)
    assert before.items() <= after.items()
    new = {str(path.relative_to(tmp_path / "configs")) for path in after.keys() - before.keys()}
    kinds = ("clusters", "datasets", "models", "schedules", "experiments/mine")
    assert new == {f"{kind}/mine.yaml" for kind in kinds}
    project = Project(tmp_path)
    assert project.params().scale == project.params().cluster == "mine"
    assert run("select", "mine").exit_code == 0
    assert project.params().cluster == "mine", "its own cluster, not the usual one"
    assert list(project.selection().runs) == ["mine-0"]
    assert project.experiment("mine", "mine").fine_tune
    words = " ".join(result.output.split())
    for said in (
        "2 images to train on, 1 to measure on (a share of 0.4, seed 3)",
        "2 updates of 1 images",
        "bolt, nut",
    ):
        assert said in words
    assert "redrawn, because they predict classes" in words


def test_validation_during_training(run: Run, instances: Any, tmp_path: Path) -> None:
    result = run(*prepared_to_train(instances, "--validate-every", 1, "--stop-early", 2))
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert "every 1 updates on 1 images (--validate-every), stops after 2 without a better score" in words
    schedule = Project(tmp_path).schedule("mine")
    assert (schedule.validate_every, schedule.stop_early) == (1, 2)
    result = run(*prepared_to_train(instances, "--validate-every", 0, "--name", "other"))
    assert "validation none (--validate-every)" in " ".join(result.output.split())
    assert Project(tmp_path).schedule("other").validate_every is None


def test_the_same_settings_go_on_and_others_are_an_error(run: Run, instances: Any, tmp_path: Path) -> None:
    run(*prepared_to_train(instances))
    before = files(tmp_path)
    again = run(*prepared_to_train(instances))
    assert (again.exit_code, files(tmp_path)) == (0, before)
    assert "has these settings already, and goes on" in again.output
    other = run(*prepared_to_train(instances, "--batch", 1))
    assert (other.exit_code, files(tmp_path)) == (1, before)
    assert run(*prepared_to_train(instances, "--batch", 1, "--name", "other")).exit_code == 0


def test_problems_of_the_data_come_before_anything_is_written(run: Run, instances: Any, tmp_path: Path) -> None:
    instances.find("annotations", 21)["segmentation"] = [[1, 2, 3, 4]]
    instances.write()
    before = files(tmp_path)
    result = run(*prepared_to_train(instances))
    assert (result.exit_code, files(tmp_path)) == (1, before)
    assert "a polygon needs at least 3" in result.stderr
    assert "--drop-invalid" in result.stderr
    assert run(*prepared_to_train(instances, "--drop-invalid")).exit_code == 0


def test_weights_of_another_network_are_refused_before_anything_is_written(
    run: Run, instances: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    save_weights(build_model("maskrcnn_tiny18_fpn", num_classes=2), tmp_path / "deeper.safetensors")
    before = files(tmp_path)
    result = run(*prepared_to_train(instances, "--from", "deeper.safetensors"))
    assert (result.exit_code, files(tmp_path)) == (1, before)
    assert "of another backbone" in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--name", "größe x"), "--name größe x: expected letters without accents, digits and _"),
        (("--val-share", 2), "--val-share 2: expected a share between 0 and 1"),
        (("--val-share", 0), "--val-share 0: expected a share between 0 and 1"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    run: Run, instances: Any, tmp_path: Path, options: tuple[Any, ...], said: str
) -> None:
    before = files(tmp_path)
    result = run(*prepared_to_train(instances, *options))
    assert (result.exit_code, files(tmp_path)) == (1, before)
    assert said in result.stderr


def test_a_contact_sheet_that_could_not_be_written_is_refused_first(run: Run, instances: Any) -> None:
    result = run("data", "check", "--data", instances.annotations, "--sheet", "sheet.txt")
    assert result.exit_code == 1
    assert "--sheet sheet.txt: expected a name that ends in .webp or .png" in result.stderr
    assert "train" not in result.stdout


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nothing.pth", r"no such file; expected a file, scratch, imagenet, or one of shapes_detector,"),
        ("imagenet", "there are no ImageNet weights for backbone tiny"),
    ],
)
def test_weights_that_there_are_not(run: Run, tmp_path: Path, source: str, message: str) -> None:
    from pipeline.errors import UserError

    with pytest.raises(UserError, match=message):
        find_weights(Project(tmp_path), source, "instance", "tiny")


def test_label_pngs(run: Run, tmp_path: Path) -> None:
    for number in range(5):
        for folder, pixels in (("images", np.zeros((40, 60, 3), np.uint8)), ("labels", np.resize([0, 4], (40, 60)))):
            (tmp_path / "streets" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "streets" / folder / f"{number}.png")
    folder = tmp_path / "streets"
    result = run("train", "--data", folder, "--classes", "sky,road=4", "--no-run", "--from", "scratch", "--name", "s")
    assert result.exit_code == 0, result.output
    assert yaml.safe_load((tmp_path / "configs/datasets/s.yaml").read_text())["classes"] == {"sky": 0, "road": 4}
    assert Project(tmp_path).model("s").name == "pointrend_semantic_fpn_tiny"
    result = run("data", "check", "--data", folder)
    assert result.exit_code == 0, result.output
    assert "class_4" in result.output


def test_check_shows_what_is_there(run: Run, instances: Any, tmp_path: Path) -> None:
    result = run("data", "check", "--data", instances.annotations, "--sheet", "sheet.png")
    assert result.exit_code == 0, result.output
    assert "gear" in result.output
    assert Image.open(tmp_path / "sheet.png").width > 200


def test_check_reports_what_prepare_refuses(run: Run, instances: Any) -> None:
    instances.find("annotations", 21)["segmentation"] = [[1, 2, 3, 4]]
    instances.write()
    result = run("data", "check", "--data", instances.annotations)
    assert result.exit_code == 1
    assert "`prepare` refuses: 1 of" in result.output
    assert "annotation 21 (image 7): polygon 0 has 2 points" in result.output
    assert "contact sheet" in result.output
    (instances.images / "tall.jpg").unlink()
    result = run("data", "check", "--data", instances.annotations)
    assert result.exit_code == 1
    assert "no such file" in result.output
