"""``pointrend score``: computes metrics from files alone, whatever program made the predictions."""

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from pipeline.errors import UserError
from pointrend.cli import fail

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
Resamples = Annotated[
    int, typer.Option(min=0, metavar="N", help="number of resamples of the images for 95% bootstrap intervals")
]


@app.command("ap")
def ap(annotations: Annotations, predictions: Predictions, resamples: Resamples = 0, as_json: AsJson = False) -> None:
    """COCO mask AP."""
    with _errors_shown():
        from pipeline.metrics.coco_ap import coco_ap

        _show(coco_ap(annotations, predictions, resamples=resamples), as_json)


@app.command("ap-star")
def ap_star(
    annotations: LvisAnnotations, predictions: Predictions, resamples: Resamples = 0, as_json: AsJson = False
) -> None:
    """AP*: predictions of COCO's categories against LVIS's annotations."""
    with _errors_shown():
        from pipeline.metrics.lvis_ap import ap_star

        _show(ap_star(annotations, predictions, resamples=resamples), as_json)


@app.command("boundary-ap")
def boundary_ap(
    annotations: Annotations,
    predictions: Predictions,
    dilation_ratio: Annotated[
        float, typer.Option(help="width of the boundary as a fraction of the image's diagonal")
    ] = 0.02,
    resamples: Resamples = 0,
    as_json: AsJson = False,
) -> None:
    """Boundary AP: COCO mask AP by the smaller of mask IoU and boundary IoU."""
    if not (math.isfinite(dilation_ratio) and dilation_ratio > 0):
        raise typer.BadParameter(f"{dilation_ratio} is not a positive number", param_hint="--dilation-ratio")

    with _errors_shown():
        from pipeline.metrics.boundary_ap import boundary_ap

        _show(boundary_ap(annotations, predictions, dilation_ratio=dilation_ratio, resamples=resamples), as_json)


@app.command("miou")
def miou(
    truth: Truth,
    predictions: PredictionsFolder,
    trimap: Annotated[
        list[int] | None, typer.Option(min=1, help="also mIoU within this many pixels of a boundary; can be repeated")
    ] = None,
    resamples: Resamples = 0,
    as_json: AsJson = False,
) -> None:
    """Mean IoU of semantic segmentation; with --trimap also near the boundaries."""
    with _errors_shown():
        from pipeline.metrics.segmentation_iou import miou

        _show(miou(truth, predictions, trimap_widths=trimap or (), resamples=resamples), as_json)


@app.command("cityscapes-ap")
def cityscapes_ap(
    truth: Truth, predictions: PredictionsFolder, resamples: Resamples = 0, as_json: AsJson = False
) -> None:
    """Cityscapes' AP of instance masks."""
    with _errors_shown():
        from pipeline.metrics.cityscapes_ap import cityscapes_ap

        _show(cityscapes_ap(truth, predictions, resamples=resamples), as_json)


@contextmanager
def _errors_shown() -> Iterator[None]:
    """Shows errors that the user can fix as one message, and exits with status 1; and warnings without their code."""
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


def _show(scores: Mapping[str, Any], as_json: bool) -> None:
    from pipeline.metrics.bootstrap import with_intervals

    scores = with_intervals(scores)
    if as_json:
        typer.echo(json.dumps(_plain(scores), allow_nan=False))
    else:
        Console().print(_table(scores))


def _plain(value: Any) -> Any:
    """Converts a value to plain JSON types; NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _table(scores: Mapping[str, Any]) -> Table:
    end = "_interval"
    intervals = {name.removesuffix(end): value for name, value in scores.items() if name.endswith(end)}
    rows = list(_rows({name: value for name, value in scores.items() if not name.endswith(end)}, intervals))
    table = Table(Column("metric", no_wrap=True), Column("value", justify="right"), box=None, pad_edge=False)
    if any(interval for _, _, interval in rows):
        table.add_column("95% interval", justify="right", no_wrap=True)
    for name, value, interval in rows:
        table.add_row(*(name, value, interval)[: len(table.columns)])
    return table


def _rows(scores: Mapping[str, Any], intervals: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Name, value and interval of each number; the names of a nested mapping, such as IoU by class, follow its own."""
    for name, value in scores.items():
        if isinstance(value, Mapping):
            yield from _rows(value, intervals.get(name, {}), f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", _number(value), " – ".join(map(_number, intervals.get(name, ())))


def _number(value: Any) -> str:
    return ("–" if math.isnan(value) else f"{value:.2f}") if isinstance(value, float) else str(value)
