"""The page about somebody's own data, on predictions whose quality is known."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_instances import disc, rle
from PIL import Image

from pipeline.config.evaluations import EvaluationConfig, RenderingConfig
from pipeline.config.project import Project
from pipeline.data.coco import Annotation, Category, ImageRecord
from pipeline.data.manifest import FINER, VAL_ANNOTATIONS, PreparedDataset, SplitManifest, write_prepared
from pipeline.data.outlines import Outlines
from pipeline.data.storage import Storage
from pipeline.data.survey import Survey
from pipeline.evaluation.class_scores import entry_class_scores
from pipeline.evaluation.instance_scores import score_instances
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.files import write_json
from pipeline.metrics.confusion import Confusion
from pipeline.report.inputs import ReportInputs
from pipeline.report.own.classes import class_table
from pipeline.report.own.comparison import Row
from pipeline.report.own.sections import own_datasets
from pipeline.report.page import build_report
from pipeline.report.results import RunResult

SIDE, IMAGES = 64, 24
SETTINGS = EvaluationConfig({"28x28": RenderingConfig(resolution=28)})
NAMES = {1: "<b>cell</b>", 2: "nut"}


def counts(mask: np.ndarray) -> bytes:
    found = rle(mask)["counts"]
    return found.encode() if isinstance(found, str) else found


def place(image: int, number: int) -> tuple[float, float, float]:
    """The centre and the radius of one of the two discs of an image."""
    return 16 + 3 * (image % 5), 16 + 31 * number, 9 + image % 4


class Own:
    """A dataset of two discs an image, one of each class, and models that draw them moved by so many pixels."""

    def __init__(self, folder: Path, repository: Path, made_up: Callable[..., RunResult], images: int) -> None:
        self.folder, self.made_up, self.images = folder, made_up, images
        self.project = Project(repository)
        records = []
        for image in range(images):
            Image.new("RGB", (SIDE, SIDE), "gray").save(folder / f"{image}.png")
            objects = []
            for number in (0, 1):
                mask = disc(SIDE, SIDE, *place(image, number))
                box = (0.0, 0.0, 1.0, 1.0)
                objects.append(
                    Annotation(2 * image + number + 1, number + 1, box, int(mask.sum()), False, counts(mask))
                )
            records.append(ImageRecord(image, f"{image}.png", SIDE, SIDE, objects))
        split = SplitManifest(records)
        categories = [Category(id_, name) for id_, name in NAMES.items()]
        write_prepared(folder, categories, {"train": split, "val": split})
        truth = {
            "images": [{"id": i, "file_name": f"{i}.png", "height": SIDE, "width": SIDE} for i in range(images)],
            "annotations": [
                {
                    "id": a.id,
                    "image_id": record.id,
                    "category_id": a.category_id,
                    "area": a.area,
                    "iscrowd": 0,
                    "bbox": list(a.bbox),
                    "segmentation": {"size": [SIDE, SIDE], "counts": a.counts.decode()},
                }
                for record in records
                for a in record.annotations
            ],
            "categories": [{"id": c.id, "name": c.name} for c in categories],
        }
        write_json(folder / "truth" / "instances.json", truth)
        self.prepared = PreparedDataset(folder, categories)

    def annotate_finer(self, by: float) -> None:
        """Adds finer annotations, in which all objects are moved to the right by so many pixels."""
        truth = json.loads((self.folder / "truth" / "instances.json").read_text())
        for entry in truth["annotations"]:
            x, y, radius = place(entry["image_id"], entry["category_id"] - 1)
            entry["segmentation"]["counts"] = counts(disc(SIDE, SIDE, x + by, y, radius)).decode()
        write_json(self.folder / FINER, truth)
        fine, coarse = Outlines(48, 0, 60, 0.0), Outlines(48, 0, 6, 0.9)
        said = {"outlines": asdict(coarse), "finer_val": {"file": "fine.json", "outlines": asdict(fine)}}
        write_json(self.folder / VAL_ANNOTATIONS, said)

    def model(self, name: str, moved: Callable[[int], float], **changes: Any) -> RunResult:
        """The result of a model whose masks are moved to the right by so many pixels in each image."""
        found = []
        for image in range(self.images):
            for number in (0, 1):
                x, y, radius = place(image, number)
                mask = disc(SIDE, SIDE, x + moved(image), y, radius)
                segmentation = {"size": [SIDE, SIDE], "counts": counts(mask).decode()}
                score = 0.9 - 0.01 * (image % 7)
                found.append(
                    {"image_id": image, "category_id": number + 1, "score": score, "segmentation": segmentation}
                )
        path = self.folder / "predictions" / f"{name}-0" / "predictions_28x28.json"
        write_json(path, found)
        scores = score_instances(self.prepared, path, resamples=100)
        result = self.made_up(
            name,
            0,
            {"28x28": scores.metrics},
            {"28x28": scores.resamples},
            settings=SETTINGS,
            dataset="cells",
            **changes,
        )
        evaluation = result.evaluations["28x28"]
        classes = entry_class_scores(scores.details)
        return replace(result, evaluations={"28x28": replace(evaluation, classes=classes)})

    def inputs(self, *results: RunResult) -> ReportInputs:
        trained = {
            result.run: TrainedRun(result.config, self.folder, Storage(str(self.folder)), self.folder / "none")
            for result in results
        }
        return ReportInputs(
            "mine",
            {},
            self.project.figures(),
            "sqlite:///x.db",
            self.folder / "predictions",
            {result.experiment for result in results},
            list(results),
            trained,
            own=True,
        )


@pytest.fixture
def own(tmp_path: Path, repository: Path, made_up: Callable[..., RunResult]) -> Own:
    return Own(tmp_path, repository, made_up, IMAGES)


def text_of(html: str) -> str:
    plain = re.sub(r"<(script|style).*?</\1>", "", html, flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", plain).split())


def test_a_model_that_is_truly_better_is_said_to_be(own: Own) -> None:
    good, bad = own.model("good", lambda image: 0.5), own.model("bad", lambda image: 3.0 + image % 2)
    report = own.inputs(bad, good)
    (data,) = own_datasets(report, own.folder)
    (comparison,) = data.comparisons
    assert (comparison.best.experiment, comparison.other.experiment) == ("good", "bad")
    difference = good.evaluations["28x28"].metrics["AP"] - bad.evaluations["28x28"].metrics["AP"]
    assert comparison.difference == pytest.approx(difference)
    assert comparison.is_told
    assert comparison.in_words().startswith(f"good is better than bad, by {difference:.1f} AP: the 95% interval")
    assert data.command == "pointrend predict PICTURES --weights good-0"


def test_what_cannot_be_told_is_said_so(own: Own) -> None:
    # Each is better in half of the images, by as much.
    first = own.model("first", lambda image: 0.5 if image % 2 else 3.0)
    second = own.model("second", lambda image: 3.0 if image % 2 else 0.5)
    (data,) = own_datasets(own.inputs(first, second), own.folder)
    (comparison,) = data.comparisons
    assert comparison.interval is not None
    assert comparison.interval[0] < 0 < comparison.interval[1]
    assert not comparison.is_told
    assert "cannot be told" in comparison.in_words()
    assert "contains 0, on 24 val images" in comparison.in_words()
    build_report(own.inputs(first, second), own.folder / "out")
    text = text_of((own.folder / "out" / "index.html").read_text())
    assert comparison.in_words() in text
    assert "is better than first, by" not in text
    assert "is better than second, by" not in text


def test_few_images_tell_nothing(tmp_path: Path, repository: Path, made_up: Callable[..., RunResult]) -> None:
    own = Own(tmp_path, repository, made_up, 4)
    good, bad = own.model("good", lambda image: 0.5), own.model("bad", lambda image: 4.0)
    (data,) = own_datasets(own.inputs(good, bad), own.folder)
    assert not data.comparisons[0].is_told
    assert "4 val images are too few; take 10 or more" in data.comparisons[0].in_words()
    every, differing = data.groups
    assert every.title == "All val images, the worst of good first"
    assert [len(group.images) for group in (every, differing)] == [4, 4]
    assert data.typical in every.images


def test_the_page(own: Own) -> None:
    good, bad = own.model("good", lambda image: 0.5), own.model("bad", lambda image: 3.0 + image % 2)
    build_report(own.inputs(bad, good), own.folder / "out")
    html = (own.folder / "out" / "index.html").read_text()
    text = text_of(html)
    assert NAMES[1] not in html
    assert "good is better than bad" in text
    for paper in ("paper", "Kirillov", "Table 1", "stand-in", "Δ"):
        assert paper not in text
    assert "Scores on 24 val images of cells, in percent" in text
    assert "Where good and bad differ most" in text
    scores = good.evaluations["28x28"].classes.values_by_class
    name = min(scores, key=scores.__getitem__)
    worst = f"more {name}, whose AP is lowest ({scores[name]:.1f}, with 24 objects to train on)"
    assert f"To annotate next: images like the worst ones , and {worst}" in unescape(text)
    assert "The worst images of good (8)" in text
    assert "missed" in text
    assert "background" in text
    assert "The val annotations are masks, not polygons" in text
    assert not re.findall(r'(?:src|href)="(?!data:|#|http://127\.0\.0\.1:5000)', html)
    interval = np.quantile(good.evaluations["28x28"].resamples["AP50"], [0.025, 0.975])
    assert f"{interval[0]:.1f} to {interval[1]:.1f}" in text
    written = {path.name for path in (own.folder / "out").iterdir()}
    assert {"confusion_good-0.csv", "confusion_bad-0.json", "precision_recall_cells.png"} <= written
    assert not {"tables", "findings.md", "results.parquet"} & written


def test_against_finer_annotations(own: Own) -> None:
    own.annotate_finer(by=3)
    # What is nearer to the coarse annotations is further from the finer ones.
    near, fine = own.model("near", lambda image: 0.5), own.model("fine", lambda image: 2.5)
    scores = [model.evaluations["28x28"].metrics for model in (near, fine)]
    assert scores[0]["AP"] > scores[1]["AP"]
    assert scores[0]["AP_star"] < scores[1]["AP_star"]
    build_report(own.inputs(near, fine), own.folder / "out")
    text = text_of((own.folder / "out" / "index.html").read_text())
    assert "AP*: against fine.json's finer outlines of the same images" in text
    (data,) = own_datasets(own.inputs(near, fine), own.folder)
    assert ("AP_star", "AP*") in data.metrics
    assert data.by_class.scores[:4] == ["AP, near", "AP, fine", "AP*, near", "AP*, fine"]
    name, _, values = data.by_class.rows[1]
    assert (name, values[3]) == ("nut", pytest.approx(fine.evaluations["28x28"].classes.star_by_class["nut"]))
    assert "Outlines that coarse may be worse than the predictions" in text
    assert "AP* is against fine.json: polygons of 60 points (median), 0% of their outline straight" in text


def test_where_outlines_are_coarse_the_page_says_how_to_get_ap_star(own: Own) -> None:
    write_json(own.folder / VAL_ANNOTATIONS, {"outlines": asdict(Outlines(48, 0, 6, 0.9))})
    build_report(own.inputs(own.model("good", lambda image: 0.5)), own.folder / "out")
    text = text_of((own.folder / "out" / "index.html").read_text())
    assert "The val annotations are polygons of 6 points (median). 90% of their outline are straight edges" in text
    assert "finer_val: FILE in the dataset's YAML) give AP*" in text.replace(" )", ")")


def test_one_experiment_without_a_right_prediction(own: Own) -> None:
    lost = own.model("lost", lambda image: 30.0)
    build_report(own.inputs(lost), own.folder / "out")
    text = text_of((own.folder / "out" / "index.html").read_text())
    assert "Almost nothing was found." in text
    assert "To annotate next" not in text
    assert "is better than" not in text


def test_one_model_has_its_interval_and_no_comparison(own: Own) -> None:
    result = own.model("good", lambda image: 0.5)
    build_report(own.inputs(result), own.folder / "out")
    text = text_of((own.folder / "out" / "index.html").read_text())
    low, high = np.percentile(result.evaluations["28x28"].resamples["AP"], [2.5, 97.5])
    assert f"Its 95% interval over the val images is {low:.1f} to {high:.1f}. This scale has no other model" in text
    assert "Each table has an MLflow experiment" not in text


def test_classes_without_an_image_to_train_on(own: Own) -> None:
    summary = json.loads((own.folder / "dataset.json").read_text())
    first = NAMES[max(NAMES)]
    for key in ("objects", "images"):
        summary["splits"]["train"]["classes"][first][key] = 0
    write_json(own.folder / "dataset.json", summary)
    build_report(own.inputs(own.model("good", lambda image: 0.5)), own.folder / "out")
    text = text_of((own.folder / "out" / "index.html").read_text())
    assert f"1 of the 2 classes in the val images is in no image to train on, so it cannot be found: {first}." in text
    assert f"and more {first} (in no image to train on)" in text


def test_precision_and_recall_of_pixels(made_up: Callable[..., RunResult]) -> None:
    run = made_up("mine", 0, {"full": {"mIoU": 50.0}})
    pixels = Confusion(
        "pixels", ("sky", "road", "car"), np.array([[6, 2, 0, 0], [4, 12, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]), 1, None,
        np.zeros(3, int),
    )  # fmt: skip
    found = Survey({}, {name: {"val pixels": "1%"} for name in pixels.classes}, [])
    table = class_table([Row("mine", "full", True, 1, run, {})], found, ["car"], pixels, 0.5)
    assert table.scores[-2:] == ["precision", "recall"]
    assert [(name, values[-2:]) for name, _, values in table.rows] == [
        ("sky", [60.0, 75.0]), ("road", [pytest.approx(100 * 12 / 14), 75.0])
    ]  # fmt: skip


def test_a_run_with_a_kept_checkpoint(own: Own) -> None:
    from pipeline.training.record import BestScore

    best = BestScore(update=40, metric="AP", score=31.0)
    stopped = own.model(
        "good", lambda image: 0.5, best=best, stopped="after update 60 of 600: no better mask AP in 1 validations"
    )
    build_report(own.inputs(stopped), own.folder / "out")
    text = text_of((own.folder / "out" / "index.html").read_text())
    assert "good-0 stopped early after update 60 of 600: no better mask AP in 1 validations. It is measured" in text
    assert "its weights after update 40, the best of its validations. They were chosen on these val images" in text
