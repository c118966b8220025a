"""`pointrend train` and `pointrend data check`."""

import unicodedata
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
        "2 updates of 1 image, 1 epoch (",
        "bolt, nut",
    ):
        assert said in words
    assert "redrawn, because they predict classes" in words


def test_validation_during_training(run: Run, instances: Any, tmp_path: Path) -> None:
    result = run(*prepared_to_train(instances, "--validate-every", 1, "--stop-early", 2))
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert "every 1 update on 1 image (--validate-every), stops after 2 without a better score" in words
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
    assert "configs/schedules/mine.yaml: batch_size is 2, not 1\n" in other.stderr
    assert "choose another name with --name; to go on with what is there, run `pointrend select mine`" in other.stderr
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
        (("--name", "paper"), "--name paper: configs/experiments/paper is a scale with other experiments (c"),
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
        ("nothing.pth", r"no such file or run; expected one of these, scratch, imagenet, or one of shapes_d"),
        ("imagenet", "there are no ImageNet weights for backbone tiny"),
    ],
)
def test_weights_that_there_are_not(run: Run, tmp_path: Path, source: str, message: str) -> None:
    from pipeline.errors import UserError

    with pytest.raises(UserError, match=message):
        find_weights(Project(tmp_path), source, "instance", "tiny")


def test_weights_of_a_run_are_found_by_its_name(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "outputs" / "cells" / "train" / "cells-0" / "model.safetensors"
    file.parent.mkdir(parents=True)
    save_weights(build_model("maskrcnn_tiny_fpn", num_classes=2, norm="group"), file)
    found = find_weights(Project(tmp_path), "cells-0", "instance", "tiny")
    assert (found.file, found.norm) == ("outputs/cells/train/cells-0/model.safetensors", "group")


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
    assert "error: annotation 21 (image 7): polygon 0 has 2 points" in result.output
    assert f"{instances.annotations}: refused, 1 error" in result.output
    assert "contact sheet" in result.output
    (instances.images / "tall.jpg").unlink()
    result = run("data", "check", "--data", instances.annotations)
    assert result.exit_code == 1
    assert "no such file" in result.output


def shown(result: Result) -> str:
    """Everything printed, with lines joined."""
    return " ".join((result.output + result.stderr).split())


def labelled(folder: Path, **labels: np.ndarray) -> Path:
    """A folder of images of 40x30 pixels and label PNGs."""
    for name, pixels in labels.items():
        for kind, content in (("images", np.zeros((30, 40, 3), np.uint8)), ("labels", pixels.astype(np.uint8))):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(folder / kind / f"{name}.png")
    return folder


FOREIGN: dict[str, tuple[str, str]] = {
    "empty": ("", "the file is empty"),
    "an empty object": ("{}", "an empty JSON object; expected COCO instances"),
    "a list": ("[]", "a list of 0, so not a COCO instances file"),
    "another object": ('{"a": 1}', "a JSON object with 'a'; expected COCO instances"),
    "labelme": ('{"version": "5", "shapes": [], "imagePath": "a.jpg"}', "labelme's JSON of one image"),
    "Label Studio": ('[{"id": 1, "annotations": [], "data": {}}]', "in Label Studio choose Export, COCO"),
    "VIA's project": ('{"_via_settings": {}, "_via_img_metadata": {}}', "in VIA choose Annotation"),
    "VIA's regions": ('{"a.jpg1": {"filename": "a.jpg", "regions": []}}', "in VIA choose Annotation"),
    "CreateML": ('[{"image": "a.jpg", "annotations": []}]', "in Roboflow choose Download Dataset"),
    "results": ('[{"image_id": 1, "score": 0.5}]', "COCO results, which are predictions"),
    "captions": ('{"images": [], "annotations": [{"caption": "a"}]}', "COCO captions, which have no masks"),
    "CVAT's XML": ("<?xml?><annotations><version>1.1</version></annotations>", "in CVAT choose Export task dataset"),
    "a web page": ("<html>", "a web page or XML"),
    "cut off": ('{"images": [{"id": 1, "file_na', "the file is cut off after 30 bytes, at line 1"),
    "cut in a word": ('{"images": [], "a": tr', "the file is cut off after 22 bytes"),
    "a wrong comma": ('{"a": 1 "b": 2}', "not JSON: Expecting ',' delimiter at line 1, column 9"),
}


@pytest.mark.parametrize("with_images", [True, False])
@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_another_format_is_named(run: Run, tmp_path: Path, name: str, with_images: bool) -> None:
    content, said = FOREIGN[name]
    (tmp_path / "notes.json").write_text(content)
    result = run("data", "check", "--data", "notes.json", *(["--images", tmp_path] if with_images else []))
    assert result.exit_code == 1
    assert said in shown(result)
    assert shown(result).startswith("error: notes.json: ")


FOLDERS: dict[str, tuple[dict[str, str], str]] = {
    "nothing": ({}, "a folder without images (it has no file)"),
    "texts": ({"a.txt": ""}, "a folder without images (it has 1 .txt)"),
    "YOLO": ({"labels/a.txt": "0 0.5 0.5 1 1", "images/a.jpg": ""}, "is YOLO's format: export COCO"),
    "labelme": ({"a.jpg": "", "a.json": FOREIGN["labelme"][0]}, "a.json is labelme's JSON of one image"),
    "Pascal VOC": ({"a.jpg": "", "a.xml": "<annotation></annotation>"}, "a.xml is Pascal VOC's XML"),
    "COCO": (
        {"annotations/all.json": '{"images": [], "annotations": [], "categories": []}'},
        "it holds the instances file raw/annotations/all.json: give that with --data",
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_another_format_is_named(run: Run, tmp_path: Path, name: str) -> None:
    files, said = FOLDERS[name]
    (tmp_path / "raw").mkdir()
    for file, content in files.items():
        (tmp_path / "raw" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw" / file).write_text(content)
    result = run("data", "check", "--data", "raw")
    assert result.exit_code == 1
    assert said in shown(result)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("images", "no image: the list 'images' is empty"),
        ("categories", "no category: the list 'categories' is empty"),
        ("annotations", "nothing to learn from in the train split: no image has an annotation"),
    ],
)
@pytest.mark.parametrize("command", ["check", "train"])
def test_an_empty_list_is_one_error(run: Run, instances: Any, kind: str, said: str, command: str) -> None:
    instances.data[kind] = []
    instances.write()
    arguments = ("data", "check", "--data", instances.annotations) if command == "check" else (
        prepared_to_train(instances)
    )  # fmt: skip
    result = run(*arguments, "--images", instances.images)
    assert result.exit_code == 1
    assert said in shown(result)


def test_boxes_only_is_one_error_and_the_first(run: Run, instances: Any) -> None:
    for annotation in instances.data["annotations"]:
        annotation["segmentation"] = []
    instances.find("annotations", 21)["category_id"] = 99
    instances.write()
    for options in ((), ("--drop-invalid",)):
        result = run("data", "check", "--data", instances.annotations, *options)
        assert result.exit_code == 1
        first, second = [line for line in result.output.splitlines() if line.startswith("error: ")]
        assert first == "error: all 4 annotations have boxes but no masks"
        assert "unknown category id 99" in second


@pytest.mark.parametrize(
    ("rename", "said"),
    [
        (str.upper, "3 of 3 file names are not in the images' folder, differing only in upper and lower case"),
        (lambda name: f"photos/{name}", "differing only in the folders before the name: photos/wide.png is wide.png"),
        (lambda name: f"{name[:-4]}.webp", "differing only in the suffix: wide.webp is wide.png"),
        (lambda name: f"größe {name}", "e.g. größe wide.png, größe tall.jpg, ...; it has 3 images, e.g. empty.png"),
    ],
)
def test_names_that_match_no_image(run: Run, instances: Any, rename: Callable[[str], str], said: str) -> None:
    for image in instances.data["images"]:
        image["file_name"] = rename(image["file_name"])
    instances.write()
    result = run("data", "check", "--data", instances.annotations, "--images", instances.images)
    assert result.exit_code == 1
    assert said in shown(result)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_paths_are_shown_whole(run: Run, instances: Any, form: Any) -> None:
    name = unicodedata.normalize(form, "größte Übung 1.png")
    for id_ in (7, 12):
        instances.find("images", id_)["file_name"] = f"{id_} {name}"
    instances.write()
    result = run("data", "check", "--data", instances.annotations, "--images", instances.images)
    assert f"    image 7: 7 {name}; image 12: 12 {name}\n" in result.output
    assert "error: 2 images that are not there\n" in result.output
    assert "2 of 3 file names are not in the images' folder" in shown(result)


def test_all_faults_of_label_pngs_are_listed_by_kind(run: Run, tmp_path: Path) -> None:
    fine = np.zeros((30, 40))
    folder = labelled(
        tmp_path / "streets", a=fine, b=fine[1:], c=fine[:, 1:], d=fine + 9, e=fine + 8, f=np.zeros((30, 40, 3)), g=fine
    )
    (folder / "labels" / "g.png").unlink()
    result = run("data", "check", "--data", folder, "--classes", "sky,road")
    assert result.exit_code == 1
    for said in (
        "error: 2 label PNGs of another size than their image",
        "error: 2 label PNGs with an id that no class has",
        "labels/d.png: label id 9 at row 0, column 0",
        "labels/e.png: label id 8 at row 0, column 0",
        "error: labels/f.png: its pixels are RGB; expected one channel of ids -> export indexed masks",
        "no label file labels/g.png",
        "name every id with --classes NAME=ID",
    ):
        assert said in shown(result)


def test_classes_choose_categories(run: Run, instances: Any, tmp_path: Path) -> None:
    result = run("data", "check", "--data", instances.annotations, "--classes", "nut,gear")
    assert result.exit_code == 0, result.output
    assert "gear" in result.output
    assert "bolt" not in result.output
    assert run(*prepared_to_train(instances, "--classes", "nut,gear")).exit_code == 0
    assert yaml.safe_load((tmp_path / "configs/datasets/mine.yaml").read_text())["classes"] == ["nut", "gear"]
    for classes, said in (("bolt,screw", "no category is named 'screw'; its categories are"), ("bolt=2", "own ids")):
        result = run("data", "check", "--data", instances.annotations, "--classes", classes)
        assert result.exit_code == 1
        assert said in shown(result)


def test_a_contact_sheet_replaces_only_its_own(run: Run, instances: Any, coco_folder: Any, tmp_path: Path) -> None:
    other = coco_folder(tmp_path / "other", "train")
    sheets = [tmp_path / "reports" / f"contact_sheet_{name}_instances_train.webp" for name in ("raw", "other")]
    for split in (instances, instances, other):
        assert run("data", "check", "--data", split.annotations).exit_code == 0
    assert all(sheet.is_file() for sheet in sheets)
    mine = tmp_path / "mine.png"
    Image.new("RGB", (4, 4)).save(mine)
    for taken, said in ((mine, "did not write"), (sheets[1], "of other data")):
        before = taken.read_bytes()
        result = run("data", "check", "--data", instances.annotations, "--sheet", taken)
        assert (result.exit_code, taken.read_bytes()) == (1, before)
        assert said in shown(result)
        assert run("data", "check", "--data", instances.annotations, "--sheet", taken, "--overwrite").exit_code == 0
        assert taken.read_bytes() != before


def test_six_kinds_of_faults_fit_a_screen(run: Run, instances: Any) -> None:
    faults: list[dict[str, Any]] = [
        {"segmentation": []}, {"segmentation": [[1, 2, 3, 4]]}, {"segmentation": {"size": [1, 2], "counts": [2]}},
        {"category_id": 99}, {"image_id": 999}, {"bbox": [0, 0, 0, 0]},
    ]  # fmt: skip
    for number in range(30):
        fresh = instances.annotation(100 + number, 7, 9, (4, 5, 10, 8))
        instances.data["annotations"].append(fresh | faults[number % 6])
    instances.write()
    result = run("data", "check", "--data", instances.annotations)
    assert result.exit_code == 1
    assert len(result.output.splitlines()) < 25
    assert result.output.count("error: 5 annotations") == 6
    every = run("data", "check", "--data", instances.annotations, "--all")
    assert "annotation 129 (image 7): box [0, 0, 0, 0]" in every.output


def test_warnings_alone_do_not_fail(run: Run, instances: Any) -> None:
    instances.find("annotations", 21)["area"] = 9.0
    instances.write()
    result = run("data", "check", "--data", instances.annotations)
    assert result.exit_code == 0, result.output
    assert "areas do not fit their masks: annotation 21 (image 7): area 9, its mask has 80 pixels" in result.output
