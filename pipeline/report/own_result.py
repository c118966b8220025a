"""The result of a run on somebody's own data in words, for the page and for the end of `pointrend train`."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Column, Table

from pipeline.config.project import Project
from pipeline.data.contents import classes_with
from pipeline.data.manifest import read_prepared
from pipeline.evaluation.class_scores import SHOWN_METRICS, class_scores
from pipeline.evaluation.record import EvaluationRecord
from pipeline.metrics.confusion import Confusion
from pipeline.report.confusion import json_file, read_confusion
from pipeline.report.confusion_table import Mistake, confusion_table, mistakes, percent_text
from pipeline.stage import Outputs
from pipeline.training.record import TrainingRecord
from pointrend.wording import counted

#: AP in percent below which a detector has found about nothing.
LITTLE = 1.0
ADVICE = (
    "Almost nothing was found. Train longer (--updates), with larger images if the objects are small (--image-size), "
    "or from weights of similar pictures (--from); pointrend data check shows whether the masks lie on the objects."
)
LISTED = 5  # classes in a sentence
MANY_CLASSES, NAMED = 6, 3  # from so many classes on, this many of the best and of the worst are named


def in_words(
    metrics: Mapping[str, float],
    metric: str,
    by_class: Mapping[str, float],
    found: Confusion,
    untrained: Sequence[str] = (),
) -> list[str]:
    """The result of a run in sentences: its score, what it finds best and worst, and what it gets wrong.

    Args:
        metrics: of all classes together, in percent.
        metric: the name of the scores by class.
        by_class: the score of each class, in percent.
        found: the confusion matrix.
        untrained: the classes of the val images that no image to train on has.
    """
    objects = found.unit == "objects"
    name = "AP" if objects else "mIoU"
    images = counted(found.images, "val image")
    if name not in metrics:
        return [f"{name} is not defined: the {images} have nothing to measure."]
    lines = [f"{'Mask AP' if objects else name} is {metrics[name]:.1f} on {images}."]
    if untrained:
        named = ", ".join(untrained[:LISTED]) + (", ..." if len(untrained) > LISTED else "")
        which = f"{len(untrained)} of the {counted(len(by_class), 'class')} in the val images"
        verb, they = ("is", "it") if len(untrained) == 1 else ("are", "they")
        lines.append(f"{which} {verb} in no image to train on, so {they} cannot be found: {named}.")
        if len(untrained) == len(by_class):
            return lines
    if objects and max([metrics[name], *by_class.values()]) < LITTLE:
        return [*lines, ADVICE]
    if len(by_class) > 1:
        number = NAMED if len(by_class) >= MANY_CLASSES else 1
        ranked = sorted(by_class, key=by_class.__getitem__, reverse=True)
        best, worst = (
            ", ".join(f"{each} ({by_class[each]:.1f})" for each in part)
            for part in (ranked[:number], ranked[::-1][:number])
        )
        lines.append(f"Best by {metric}: {best}. Worst: {worst}.")
    truth = int(found.truth.sum())
    share = 100 * found.right / max(1, truth)
    if objects:
        right = " with their class" if len(found.classes) > 1 else ""
        invented, predictions = int(found.counts[-1].sum()), found.predictions
        lines.append(
            f"At a score of {found.score:.2f} or more, where F1 is best ({found.f1:.2f}), {found.right:,} of {truth:,} "
            f"objects ({share:.0f}%) are found{right}, and {invented:,} of {predictions:,} predictions match no object."
        )
    else:
        lines.append(f"{share:.1f}% of the pixels have the right class.")
    if wrong := mistakes(found, NAMED):
        lines.append(f"Most often confused: {'; '.join(mistake_text(each, found) for each in wrong)}.")
    return lines


def mistake_text(mistake: Mistake, found: Confusion) -> str:
    """A confusion of two classes: "van taken for car (12 of 80)"."""
    if found.unit == "objects":
        how = f"{mistake.count:,} of {mistake.of:,}"
    else:
        of_all = percent_text(mistake.count / max(1, int(found.truth.sum())))
        how = f"{of_all}% of all pixels, {percent_text(mistake.count / mistake.of)}% of its own"
    return f"{mistake.true} taken for {mistake.predicted} ({how})"


def predict_command(run: str) -> str:
    """The command that predicts with a run; it takes the score threshold with the best F1 by itself."""
    return f"pointrend predict PICTURES --weights {run}"


#: The most classes of which the end of `pointrend train` has the scores, and the confusion matrix.
LISTED_CLASSES, TABLE_CLASSES = 30, 10


def show_result(console: Console, project: Project, name: str) -> None:
    """Prints the scores of a run, by class, what it confuses, and how to predict with it.

    Args:
        console: where to print.
        project: the project.
        name: the scale of somebody's own data.

    Raises:
        UserError: if the report lacks the confusion matrix.
    """
    run, outputs = f"{name}-0", Outputs(project.root, name)
    record = EvaluationRecord.read(outputs.evaluation_record(run))
    setting = list(project.experiment(name, name).evaluations)[-1]
    report = project.root / "reports" / name
    confusion = read_confusion(report / json_file(run))
    metrics, by_class = record.metrics(setting), class_scores(record, setting)
    console.print("  ".join(f"{key} {value:.1f}" for key, value in metrics.items() if key in SHOWN_METRICS))
    splits = read_prepared(outputs.prepared(project.experiment(name, name).dataset)).summary["splits"]
    untrained = classes_with(splits, train=False, val=True)
    for line in in_words(metrics, by_class.metric, by_class.values_by_class, confusion, untrained):
        console.print(line, markup=False, soft_wrap=True)
    if len(by_class.values_by_class) <= LISTED_CLASSES:
        table = Table("class", Column(by_class.metric, justify="right"), box=None, pad_edge=False)
        for class_name, value in by_class.values_by_class.items():
            table.add_row(class_name, f"{value:.1f}")
        console.print(table)
    if len(confusion.classes) <= TABLE_CLASSES:
        _print_confusion(console, confusion)
    trained = TrainingRecord.read(outputs.trained(run))
    if trained.stopped is not None:
        console.print(f"stopped early {trained.stopped}")
    if trained.best is not None:
        console.print(
            f"these are the weights after update {trained.best.update}, the best of all validations; they were chosen "
            "on the same images, so the scores are slightly flattering",
            soft_wrap=True,
        )
    page = f"reports/{name}/index.html"
    console.print(f"report: {page}, with the best and the worst images and the confusion matrix", soft_wrap=True)
    console.print(f"predict: {predict_command(run)}", soft_wrap=True)


def _print_confusion(console: Console, confusion: Confusion) -> None:
    shown = confusion_table(confusion, TABLE_CLASSES)
    what = "number of objects" if confusion.unit == "objects" else "percent of the row's pixels"
    console.print(f"{what}: true class by row, predicted class by column")
    table = Table(
        "",
        *(Column(name, justify="right") for name in shown.columns),
        box=None,
        pad_edge=False,
    )
    for name, cells, _ in shown.rows:
        table.add_row(name, *(cell.text or ("" if cell.kind == "none" else "0") for cell in cells))
    console.print(table)
