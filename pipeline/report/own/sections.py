"""What the page says about each dataset of a scale about somebody's own data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.contents import classes_with
from pipeline.data.manifest import FINER_VAL, PreparedDataset
from pipeline.data.outlines import Outlines
from pipeline.data.problems import Group, group
from pipeline.data.survey import Survey, survey
from pipeline.evaluation.outputs import labels_folder, predictions_file
from pipeline.metrics.confusion import Confusion
from pipeline.metrics.precision_recall import Curves, read_curves
from pipeline.report.confusion import run_confusion, write_confusion
from pipeline.report.confusion_table import ConfusionTable, confusion_table
from pipeline.report.figures.figure import Figure
from pipeline.report.figures.overlays import MIN_SCORE, Source
from pipeline.report.figures.ranked_images import QUALITY, ImageGroup, ShownImage, image_groups
from pipeline.report.inputs import ReportInputs
from pipeline.report.own.charts import ScoreChart, draw_precision_recall, score_chart
from pipeline.report.own.classes import ScoreTable, class_table, size_table, untrained_text, weakest
from pipeline.report.own.comparison import (
    Comparison,
    Row,
    compare,
    decisive_metric,
    head,
    ranked,
    rows_of,
    shown_metrics,
)
from pipeline.report.own_result import ADVICE, in_words, predict_command
from pipeline.report.results import RunResult

PICTURED = 3  # models whose predictions stand side by side


@dataclass(frozen=True)
class ShownConfusion:
    """The confusion matrix of the first run of an experiment, under its finest setting."""

    run: str
    lines: list[str]
    table: ConfusionTable
    confusion: Confusion


@dataclass(frozen=True)
class Star:
    """What AP* is measured against: an instances file with finer masks, or LVIS annotations.

    Attributes:
        file: the name of the finer file; empty for LVIS.
        outlines: of the finer file; None where they are not polygons.
    """

    file: str = ""
    outlines: Outlines | None = None


@dataclass(frozen=True)
class OwnDataset:
    """What the page says about one dataset and the experiments on it.

    Attributes:
        name: of the dataset.
        task: of the dataset.
        images: how many val images it has.
        metrics: the columns of the table of experiments: the metrics' names and their heads.
        rows: the rows of that table.
        decisive: the head of the metric that decides which experiment is best; empty if it was not measured.
        chart: the experiments by that metric.
        interval: the 95% interval of the best experiment's score.
        comparisons: the best experiment with the others.
        by_class, by_size: the scores by class and by size of the objects.
        absent: the classes that no image has, which have no row.
        curve: precision over recall; None for semantic labels, and where nothing is right.
        confusions: of each experiment, the best one first.
        groups: the val images that are shown.
        quality: what is meant by their quality.
        found: what is in the dataset.
        odd: what looks wrong in it, by kind.
        outlines: how coarse the outlines of the val annotations are; None where they are not polygons.
        star: what AP* is measured against; None where it was not measured.
        runs: the runs on this dataset.
        command: how to predict with the best one.
        weakest: what the best one is worst at, so that it is worth annotating; None where almost nothing was found.
    """

    name: str
    task: str
    images: int
    metrics: list[tuple[str, str]]
    rows: list[Row]
    decisive: str
    chart: ScoreChart | None
    interval: tuple[float, float] | None
    comparisons: list[Comparison]
    by_class: ScoreTable
    absent: list[str]
    by_size: ScoreTable | None
    curve: Figure | None
    confusions: list[ShownConfusion]
    groups: list[ImageGroup]
    quality: str
    found: Survey
    odd: list[Group]
    outlines: Outlines | None
    star: Star | None
    runs: list[RunResult]
    command: str
    weakest: str | None

    @property
    def best_experiment(self) -> str:
        """The name of the best experiment."""
        return self.comparisons[0].best.experiment

    @property
    def typical(self) -> ShownImage | None:
        """An image about the median of the best model; None where no image can be ranked."""
        groups = [group for group in self.groups if "median" in group.title] or self.groups[:1]
        return groups[0].images[len(groups[0].images) // 2] if groups else None

    @property
    def best(self) -> ShownConfusion:
        return self.confusions[0]


def own_datasets(report: ReportInputs, folder: Path) -> list[OwnDataset]:
    """Draws the pictures and writes the confusion matrices of every dataset with results into a folder."""
    names = dict.fromkeys(result.dataset for result in report.results if result.evaluations)
    return [
        _dataset(name, number, [result for result in report.results if result.dataset == name], report, folder)
        for number, name in enumerate(names)
    ]


def _dataset(name: str, number: int, results: list[RunResult], report: ReportInputs, folder: Path) -> OwnDataset:
    rows = rows_of(results)
    best_first = ranked(rows)
    # Experiments without the decisive metric have no rank, but are shown.
    shown = best_first + [row for row in rows if row.finest and row not in best_first]
    network = report.trained[shown[0].run.run]
    prepared = network.dataset()
    images = prepared.manifest("val").num_rows
    metric = decisive_metric(rows)
    instance = prepared.task == "instance"
    curves = [_curves(prepared, row, report.predictions) for row in shown] if instance else []
    scores = [curve.together.best_score() for curve in curves] or [MIN_SCORE] * len(shown)
    splits = prepared.summary["splits"]
    untrained, absent = (classes_with(splits, train=False, val=val) for val in (True, False))
    confusions = []
    for row, score in zip(shown, scores, strict=True):
        predictions = report.predictions / row.run.run
        confusion = run_confusion(report.trained[row.run.run], row.setting, predictions, score)
        write_confusion(confusion, row.run.run, folder)
        evaluation = row.run.evaluations[row.setting]
        classes = evaluation.classes
        lines = in_words(evaluation.metrics, classes.metric, classes.values_by_class, confusion, untrained)
        confusions.append(ShownConfusion(row.run.run, lines, confusion_table(confusion), confusion))
    curve = None
    if any(found.confusion.right for found in confusions) and any(of.together.objects for of in curves):
        file = f"precision_recall_{name}.png"
        drawn = {row.experiment: (of.together, score) for row, of, score in zip(shown, curves, scores, strict=True)}
        curve = Figure("Precision and recall", "", file, draw_precision_recall(drawn, folder / file))
    found = survey(prepared, network.images)
    by_size = size_table(shown, prepared)
    to_annotate = None
    if untrained:
        to_annotate = untrained_text(untrained)
    elif ADVICE not in confusions[0].lines:
        to_annotate = weakest(shown[0], found, by_size)
    return OwnDataset(
        name=name,
        task=prepared.task,
        images=images,
        metrics=[(key, head(key)) for key in shown_metrics(results)],
        rows=rows,
        decisive="" if metric is None else head(metric),
        chart=None if metric is None else score_chart(best_first, metric),
        interval=None if metric is None else shown[0].cells[metric].interval,
        comparisons=compare(rows, results, images),
        by_class=class_table(shown, found, absent, curves[0] if curves else confusions[0].confusion, scores[0]),
        absent=absent,
        by_size=by_size,
        curve=curve,
        confusions=confusions,
        groups=image_groups(
            prepared, network.images, _sources(shown, scores, report.predictions, instance), folder, name
        ),
        quality=QUALITY[prepared.task],
        found=found,
        odd=group(found.odd),
        outlines=_outlines(prepared.val_annotations),
        star=_star(prepared) if "AP_star" in shown_metrics(results) else None,
        runs=results,
        command=predict_command(shown[0].run.run),
        weakest=to_annotate,
    )


def _outlines(content: Mapping[str, Any]) -> Outlines | None:
    """The outlines in ``val_annotations.json``, or in its part about the finer ones."""
    found = content.get("outlines")
    return None if found is None else Outlines(**found)


def _star(prepared: PreparedDataset) -> Star:
    finer = prepared.val_annotations.get(FINER_VAL)
    return Star() if finer is None else Star(finer["file"], _outlines(finer))


def _curves(prepared: PreparedDataset, row: Row, predictions: Path) -> Curves:
    file = predictions_file(predictions / row.run.run, row.setting)
    return read_curves(prepared.manifest("val"), prepared.categories, file)


def _sources(rows: Sequence[Row], scores: Sequence[float], predictions: Path, instance: bool) -> list[Source]:
    place = predictions_file if instance else labels_folder
    return [
        Source(row.experiment, place(predictions / row.run.run, row.setting), score)
        for row, score in list(zip(rows, scores, strict=True))[:PICTURED]
    ]
