"""The confusion matrix of a run: its files, the part that is shown, and its words."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from made_up_configs import copied_project
from rich.console import Console

from pipeline.config.evaluations import EvaluationConfig, RenderingConfig
from pipeline.config.project import Project
from pipeline.data.coco import Category
from pipeline.data.manifest import SplitManifest, write_prepared
from pipeline.errors import UserError
from pipeline.evaluation.record import EvaluationRecord
from pipeline.metrics.confusion import Confusion
from pipeline.report.confusion import read_confusion, write_confusion
from pipeline.report.confusion_table import OTHERS, confusion_table, mistakes
from pipeline.report.own_result import ADVICE, in_words, show_result
from pipeline.report.results import RunResult
from pipeline.stage import Outputs
from pipeline.training.record import BestScore, TrainingRecord

SPLITS = ("train", "val")


def objects(counts: list[list[int]], *classes: str, score: float = 0.6) -> Confusion:
    return Confusion("objects", classes, np.array(counts), 4, score, np.zeros(len(classes), np.int64))


FOUND = objects([[6, 2, 2], [0, 5, 1], [3, 0, 0]], "cat", "dog")
PIXELS = Confusion(
    "pixels", ("sky", "road"), np.array([[90, 10, 0], [1, 399, 0], [0, 0, 0]]), 1, None, np.zeros(2, int)
)


@pytest.mark.parametrize("confusion", [FOUND, PIXELS])
def test_the_files_hold_the_matrix(confusion: Confusion, tmp_path: Path) -> None:
    write_confusion(confusion, "mine-0", tmp_path)
    read = read_confusion(tmp_path / "confusion_mine-0.json")
    assert (read.unit, read.classes, read.images, read.score) == (
        confusion.unit, confusion.classes, confusion.images, confusion.score,
    )  # fmt: skip
    assert np.array_equal(read.counts, confusion.counts)
    rows = list(csv.reader((tmp_path / "confusion_mine-0.csv").open()))
    assert rows[0] == ["true class", *confusion.classes, "missed"]
    assert [row[0] for row in rows[1:]] == [*confusion.classes, "background"]
    assert [[int(cell) for cell in row[1:]] for row in rows[1:]] == confusion.counts.tolist()


def test_the_json_is_small_with_many_classes(tmp_path: Path) -> None:
    counts = np.zeros((1204, 1204), np.int64)
    counts[7, 900] = 3
    write_confusion(objects(counts.tolist(), *map(str, range(1203))), "many", tmp_path)
    about = json.loads((tmp_path / "confusion_many.json").read_text())
    assert about["true_predicted_count"] == [[7, 900, 3]]
    assert read_confusion(tmp_path / "confusion_many.json").counts[7, 900] == 3


@pytest.mark.parametrize("text", ["", "{}", '{"classes": ["a"], "true_predicted_count": [[5, 0, 1]]}'])
def test_a_damaged_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x\.json: no readable confusion matrix .*run `dvc repro -f report`"):
        read_confusion(tmp_path / "x.json")


def test_the_table_of_objects() -> None:
    table = confusion_table(FOUND)
    assert table.columns == ["cat", "dog", "missed"]
    assert [(name, [cell.text for cell in cells], whole) for name, cells, whole in table.rows] == [
        ("cat", ["6", "2", "2"], 10),
        ("dog", ["", "5", "1"], 6),
        ("background", ["3", "", ""], 3),
    ]
    assert [[cell.kind for cell in cells] for _, cells, _ in table.rows] == [
        ["right", "wrong", "wrong"],
        ["wrong", "right", "wrong"],
        ["wrong", "wrong", "none"],
    ]
    # Of the row's objects, in the last row of the column's predictions.
    assert [cells[0].share for _, cells, _ in table.rows] == [0.6, 0.0, 0.333]
    assert table.rows[0][1][2].title == "cat, missed: 2 (20%)"


def test_the_table_of_pixels_is_in_percent_and_has_no_background() -> None:
    table = confusion_table(PIXELS)
    assert table.columns == ["sky", "road"]
    assert [[cell.text for cell in cells] for _, cells, _ in table.rows] == [["90", "10"], ["", "100"]]


def test_of_many_classes_those_that_are_confused_most_are_shown() -> None:
    counts = np.diag([9, 9, 9, 9, 0])
    counts[3, 1], counts[0, 2], counts[2, 4] = 5, 1, 7
    table = confusion_table(objects(counts.tolist(), "a", "b", "c", "d"), most=2)
    assert (table.columns, table.left_out) == (["b", "d", OTHERS, "missed"], 2)
    assert [[cell.text for cell in cells] for _, cells, _ in table.rows] == [
        ["9", "", "", ""],
        ["5", "9", "", ""],
        ["", "", "", "7"],
        ["", "", "", ""],
    ]
    # The others are right and wrong among themselves.
    assert table.rows[2][1][2].kind == "none"
    assert [whole for _, _, whole in table.rows] == [9, 14, 26, 0]


def test_mistakes_fall() -> None:
    assert [(each.true, each.predicted, each.count, each.of) for each in mistakes(FOUND, 3)] == [("cat", "dog", 2, 10)]
    assert [(each.true, each.count) for each in mistakes(PIXELS, 1)] == [("sky", 10)]


def test_the_result_in_words() -> None:
    assert in_words({"AP": 41.23}, "AP", {"dog": 50.0, "cat": 32.5}, FOUND) == [
        "Mask AP is 41.2 on 4 val images.",
        "Best by AP: dog (50.0). Worst: cat (32.5).",
        "At a score of 0.60 or more, where F1 is best (0.69), 11 of 16 objects (69%) are found with their class, and 3 "
        "of 16 predictions match no object.",
        "Most often confused: cat taken for dog (2 of 10).",
    ]
    assert in_words({"mIoU": 90.0}, "IoU", {"sky": 88.0, "road": 92.0}, PIXELS) == [
        "mIoU is 90.0 on 1 val image.",
        "Best by IoU: road (92.0). Worst: sky (88.0).",
        "97.8% of the pixels have the right class.",
        "Most often confused: sky taken for road (2% of all pixels, 10% of its own); road taken for sky (0.2% of all "
        "pixels, 0.2% of its own).",
    ]


def test_classes_that_nothing_can_find_are_said_first() -> None:
    scores = {"cat": 0.0, "dog": 0.0}
    some = in_words({"AP": 0.0}, "AP", scores, FOUND, ["dog"])
    assert some[1:] == [
        "1 of the 2 classes in the val images is in no image to train on, so it cannot be found: dog.", ADVICE
    ]  # fmt: skip
    # Then no longer training helps.
    assert ADVICE not in in_words({"AP": 0.0}, "AP", scores, FOUND, ["cat", "dog"])


def test_classes_without_anything_are_not_in_the_table() -> None:
    table = confusion_table(objects([[5, 0, 0, 1], [0, 0, 0, 0], [1, 0, 3, 0], [0, 0, 0, 0]], "a", "b", "c"))
    assert (table.columns, table.left_out) == (["a", "c", "missed"], 0)
    assert [name for name, _, _ in table.rows] == ["a", "c", "background"]


def test_without_a_find_the_words_say_what_to_do() -> None:
    nothing = objects([[0, 5], [2, 0]], "cat")
    assert in_words({"AP": 0.02}, "AP", {"cat": 0.02}, nothing) == ["Mask AP is 0.0 on 4 val images.", ADVICE]
    # One class of many is enough.
    assert ADVICE not in in_words({"AP": 0.5}, "AP", {"cat": 0.0, "dog": 20.0}, FOUND)
    assert in_words({}, "AP", {}, nothing) == ["AP is not defined: the 4 val images have nothing to measure."]


@pytest.mark.parametrize(("classes", "listed"), [(2, True), (40, False)])
def test_what_a_training_ends_with(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    made_up: Callable[..., RunResult],
    classes: int,
    listed: bool,
) -> None:
    copied_project(tmp_path)
    (tmp_path / "configs/experiments/mine").mkdir()
    experiment = yaml.safe_load((tmp_path / "configs/experiments/nuclei/coco_4xconv_r50.yaml").read_text())
    experiment["evaluations"] = {"28x28": {"resolution": 28}}
    (tmp_path / "configs/experiments/mine/mine.yaml").write_text(yaml.safe_dump(experiment))
    names = [f"class_{number}" for number in range(classes)]
    counts = np.diag([4] * classes + [0])
    counts[0, 1] = 2
    split = SplitManifest([])
    prepared = Outputs(tmp_path, "mine").prepared(experiment["dataset"])
    prepared.mkdir(parents=True)
    write_prepared(
        prepared, [Category(number, name) for number, name in enumerate(names)], dict.fromkeys(SPLITS, split)
    )
    report = tmp_path / "reports/mine"
    report.mkdir(parents=True)
    write_confusion(objects(counts.tolist(), *names), "mine-0", report)
    EvaluationRecord(
        run="mine-0",
        mlflow_run_id="x",
        training="y",
        settings=EvaluationConfig({"28x28": RenderingConfig(resolution=28)}),
        evaluations={"28x28": {"mlflow_run_id": "z", "AP": 43.21, "AP_by_class": dict.fromkeys(names, 43.21)}},
        started=0,
        ended=1,
    ).write(Outputs(tmp_path, "mine").evaluation_record("mine-0"))
    TrainingRecord(
        run="mine-0", key="y", mlflow_run_id="x", config=made_up("mine", 0, {}).config, data="d", code="c",
        parameters={}, tags={}, started=0, ended=1, seconds=1.0, hardware="2 CPU threads",
        best=BestScore(update=40, metric="AP", score=43.21),
    ).write(Outputs(tmp_path, "mine").trained("mine-0"))  # fmt: skip
    show_result(Console(highlight=False, width=100), Project(tmp_path), "mine")
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "Mask AP is 43.2 on 4 val images." in lines
    assert "Most often confused: class_0 taken for class_1 (2 of 6)." in lines
    assert ("class_0 4 2 0" in lines) == ("class_1 43.2" in lines) == ("background 0 0" in lines) == listed
    assert any("the weights after update 40, the best of all validations" in line for line in lines)
    assert lines[-1] == "predict: pointrend predict PICTURES --weights mine-0"
