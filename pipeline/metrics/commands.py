"""``pointrend score``: computes metrics from files alone, whatever program made the predictions."""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from pipeline.errors import UserError
from pointrend.cli import fail

if TYPE_CHECKING:
    from pipeline.metrics.choice import Choice

app = typer.Typer(help="Score predictions against ground truth, from files alone.", no_args_is_help=True)

# The metrics are imported inside the commands, so that the other commands start without them.

Annotations = Annotated[Path, typer.Argument(metavar="GT.json", help="a COCO instances file")]
LvisAnnotations = Annotated[
    Path, typer.Argument(metavar="GT.json", help="an LVIS file, v0.5 or v1, as it is published")
]
Predictions = Annotated[Path, typer.Argument(metavar="PREDICTIONS.json", help="a COCO results file")]
Truth = Annotated[Path, typer.Option("--gt", help="the folder of the ground truth")]
PredictionsFolder = Annotated[Path, typer.Option("--pred", help="the folder of the predictions")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object")]
AsCsv = Annotated[bool, typer.Option("--csv", help="print CSV: metric, class, value")]
ByClass = Annotated[bool, typer.Option("--by-class", help="also the AP of each class")]
Resamples = Annotated[
    int, typer.Option(min=0, metavar="N", help="number of resamples of the images for 95% bootstrap intervals")
]
Images = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="score these images alone: ids or file names, one a line, or a COCO or LVIS file"
    ),
]
Classes = Annotated[str, typer.Option(metavar="NAME,...", help="score these classes alone")]


class Ids(StrEnum):
    """What the values of Cityscapes' label PNGs are."""

    LABEL = "label"
    TRAIN = "train"


@app.command("ap")
def ap(
    annotations: Annotations,
    predictions: Predictions,
    images: Images = None,
    classes: Classes = "",
    by_class: ByClass = False,
    resamples: Resamples = 0,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """COCO mask AP."""
    with _errors_shown(as_json, as_csv):
        from pipeline.metrics.coco_ap import coco_ap
        from pipeline.metrics.explained import explained_instances

        options: dict[str, Any] = {"by_class": by_class, "choice": _choice(images, classes), "with_counts": True}
        with explained_instances(annotations, predictions, _note) as check:
            scores = check(coco_ap(annotations, predictions, resamples=resamples, **options))
        _show(scores, as_json, as_csv)


@app.command("ap-star")
def ap_star(
    annotations: LvisAnnotations,
    predictions: Predictions,
    images: Images = None,
    classes: Classes = "",
    by_class: ByClass = False,
    resamples: Resamples = 0,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """AP*: predictions of COCO's categories against LVIS's annotations."""
    with _errors_shown(as_json, as_csv):
        from pipeline.metrics.explained import explained_instances
        from pipeline.metrics.lvis_ap import ap_star

        options: dict[str, Any] = {"by_class": by_class, "choice": _choice(images, classes), "with_counts": True}
        with explained_instances(annotations, predictions, _note, lvis=True) as check:
            scores = check(ap_star(annotations, predictions, resamples=resamples, **options))
        _show(scores, as_json, as_csv)


@app.command("boundary-ap")
def boundary_ap(
    annotations: Annotations,
    predictions: Predictions,
    dilation_ratio: Annotated[
        float, typer.Option(help="width of the boundary as a fraction of the image's diagonal")
    ] = 0.02,
    images: Images = None,
    classes: Classes = "",
    by_class: ByClass = False,
    resamples: Resamples = 0,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Boundary AP: COCO mask AP by the smaller of mask IoU and boundary IoU."""
    if not (math.isfinite(dilation_ratio) and dilation_ratio > 0):
        raise typer.BadParameter(f"{dilation_ratio} is not a positive number", param_hint="--dilation-ratio")

    with _errors_shown(as_json, as_csv):
        from pipeline.metrics.boundary_ap import boundary_ap
        from pipeline.metrics.explained import explained_instances

        options: dict[str, Any] = {"by_class": by_class, "choice": _choice(images, classes), "with_counts": True}
        options["dilation_ratio"] = dilation_ratio
        with explained_instances(annotations, predictions, _note) as check:
            scores = check(boundary_ap(annotations, predictions, resamples=resamples, **options))
        _show(scores, as_json, as_csv)


@app.command("miou")
def miou(
    truth: Truth,
    predictions: PredictionsFolder,
    classes: Annotated[
        str,
        typer.Option(
            metavar="K|NAMES",
            help="classes other than Cityscapes': how many, or their names by id from 0 (sky,road), or 7=road,26=car",
        ),
    ] = "",
    ignored: Annotated[
        str,
        typer.Option(
            metavar="ID,...", help="ids in the ground truth that do not count; with --classes, by default 255, or none"
        ),
    ] = "",
    gt_suffix: Annotated[
        str,
        typer.Option(
            metavar="END",
            help="ground truth is NAME+END, such as _mask.png, its prediction NAME*.png; by default, with --classes, "
            "both have the same path",
        ),
    ] = "",
    gt_ids: Annotated[Ids, typer.Option(help="Cityscapes' ids in the ground truth: label or train ids")] = Ids.LABEL,
    pred_ids: Annotated[Ids, typer.Option(help="Cityscapes' ids in the predictions")] = Ids.LABEL,
    trimap: Annotated[
        list[int] | None, typer.Option(min=1, help="also mIoU within this many pixels of a boundary; can be repeated")
    ] = None,
    images: Images = None,
    resamples: Resamples = 0,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Mean IoU of semantic segmentation; with --trimap also near the boundaries."""
    if classes and Ids.TRAIN in (gt_ids, pred_ids):
        raise typer.BadParameter("train ids are Cityscapes' own, and --classes says other ids", param_hint="--classes")
    with _errors_shown(as_json, as_csv):
        from pipeline.metrics.explained import explained_labels
        from pipeline.metrics.label_classes import label_table, same_classes
        from pipeline.metrics.segmentation_iou import miou

        try:
            table = label_table(classes, ignored, gt_suffix, train=gt_ids is Ids.TRAIN)
            predicted = table if gt_ids is pred_ids else same_classes(table, train=pred_ids is Ids.TRAIN)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--classes, --ignored") from error
        chosen, widths = _choice(images, "").images, trimap or ()
        with explained_labels(truth, predictions, table, predicted, chosen, _note) as check:
            options: dict[str, Any] = {"resamples": resamples, "predicted_table": predicted, "images": chosen}
            scores = check(miou(truth, predictions, table=table, trimap_widths=widths, **options))
        _show(scores, as_json, as_csv)


@app.command("cityscapes-ap")
def cityscapes_ap(
    truth: Truth,
    predictions: PredictionsFolder,
    images: Images = None,
    classes: Classes = "",
    resamples: Resamples = 0,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Cityscapes' AP of instance masks."""
    with _errors_shown(as_json, as_csv):
        from pipeline.metrics.cityscapes_ap import cityscapes_ap
        from pipeline.metrics.explained import check_cityscapes

        choice = _choice(images, classes)
        scores = cityscapes_ap(truth, predictions, resamples=resamples, choice=choice, with_counts=True)
        check_cityscapes(scores, truth, predictions, _note)
        _show(scores, as_json, as_csv)


def _choice(images: Path | None, classes: str) -> "Choice":
    from pipeline.metrics.choice import Choice, ImageList

    names = tuple(name.strip() for name in classes.split(",") if name.strip())
    return Choice(ImageList.read(images) if images else None, names)


@contextmanager
def _errors_shown(as_json: bool, as_csv: bool) -> Iterator[None]:
    """Shows errors that the user can fix as one message, and exits with status 1; and warnings without their code."""
    if as_json and as_csv:
        raise typer.BadParameter("give --json or --csv, but not both", param_hint="--csv")
    try:
        with warnings.catch_warnings(record=True) as caught:
            yield
        for warning in caught:
            typer.echo(f"warning: {warning.message}", err=True)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] in ("pipeline", "pointrend"):
            raise
        fail(f"scoring needs {error.name}: pip install 'pointrend[pipeline]'")
    except (UserError, OSError) as error:
        fail(error)


def _note(text: str) -> None:
    """Says something beside the scores."""
    Console(stderr=True, highlight=False).print(f"note: {text}", style="yellow", markup=False, soft_wrap=True)


def _show(scores: Mapping[str, Any], as_json: bool, as_csv: bool) -> None:
    from pipeline.metrics import shown_scores
    from pipeline.metrics.bootstrap import with_intervals

    scores = with_intervals(scores)
    if as_json:
        typer.echo(shown_scores.as_json(scores))
    elif as_csv:
        typer.echo(shown_scores.as_csv(scores), nl=False)
    else:
        Console().print(shown_scores.as_table(scores))
        if shown_scores.has_undefined(scores):
            typer.echo(shown_scores.UNDEFINED)
