"""The `report` step: tables, pictures and one self-contained page."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.config import Params, TableConfig
from pipeline.data.manifest import PreparedDataset
from pipeline.evaluation.outputs import labels_folder, predictions_file
from pipeline.files import atomic_folder
from pipeline.report.curves import training_curves
from pipeline.report.figure import Figure
from pipeline.report.overlays import FoundObject, Scenes, Source, found_objects, object_panels, scene_panels
from pipeline.report.results import RunResult
from pipeline.report.semantic_overlays import LabelSource, label_panels, with_legend
from pipeline.report.sweeps import SweepResult, SweepSection, sweep_section
from pipeline.report.tables import (
    Table,
    build_table,
    format_difference,
    format_number,
    format_spread,
    notes,
    to_arrow,
    to_csv,
    to_latex,
    to_markdown,
)
from pipeline.storage import Storage

SCENES, OBJECTS = 4, 8  # how many of each are shown
PAPER_SCALE = "paper"  # the one whose numbers are to be the paper's
CANDIDATES = 200  # images to take the objects from


class ReportedDataset(NamedTuple):
    """A prepared dataset, and what the file names of its manifests are relative to."""

    prepared: PreparedDataset
    images: Storage


def duration(seconds: float) -> str:
    """Seconds as "1 h 05 min", "12 min" or "40 s"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def compared(tables: dict[str, TableConfig], results: Sequence[RunResult]) -> list[tuple[str, RunResult, str]]:
    """The (caption, run, setting) triples that tables compare and that exist, one run of each experiment."""
    first_runs: dict[str, RunResult] = {}
    for result in results:
        first_runs.setdefault(result.experiment, result)
    found: dict[tuple[str, str], tuple[str, RunResult, str]] = {}
    for table in tables.values():
        for row in table.rows:
            for cell in row.measured.values():
                run = first_runs.get(cell.experiment)
                if run is not None and cell.evaluation in run.evaluations:
                    found.setdefault((cell.experiment, cell.evaluation), (" ".join(row.labels), run, cell.evaluation))
    return list(found.values())


def draw_figures(
    tables: dict[str, TableConfig],
    results: Sequence[RunResult],
    datasets: dict[str, ReportedDataset],
    predictions: Path,
    folder: Path,
) -> list[Figure]:
    """Draws the pictures into a folder.

    Args:
        tables: the tables by name; the rows of those with overlays are the columns of the pictures.
        results: the runs.
        datasets: by name.
        predictions: the folder of all runs' predictions.
        folder: where the PNG files go.
    """
    figures = []
    columns = compared({name: table for name, table in tables.items() if table.overlays}, results)
    for dataset in dict.fromkeys(run.dataset for _, run, _ in columns):
        prepared, images = datasets[dataset]
        if prepared.task == "semantic":
            label_sources = [
                LabelSource(caption, labels_folder(predictions / run.run, setting))
                for caption, run, setting in columns
                if run.dataset == dataset
            ]
            file = f"labels_{dataset}.png"
            sheet = label_panels(prepared, images, label_sources, SCENES).render()
            with_legend(sheet, prepared.labels).save(folder / file)
            figures.append(Figure(f"The same images from every model: {dataset}", _LABELS, file))
            continue
        sources = [
            Source(caption, predictions_file(predictions / run.run, setting))
            for caption, run, setting in columns
            if run.dataset == dataset
        ]
        scenes = Scenes(prepared.manifest("val"), images, sources)
        objects = found_objects(scenes, CANDIDATES)
        for kind, panels, title, caption in (
            (
                "objects",
                object_panels(scenes, objects, OBJECTS),
                f"The same objects from every head: {dataset}",
                _mean_overlaps(objects, [source.caption for source in sources]),
            ),
            (
                "scenes",
                scene_panels(scenes, SCENES),
                f"Whole images: {dataset}",
                "Predictions with a score of 0.5 or more. An object has the same colour in every column.",
            ),
        ):
            if panels.rows:
                file = f"{kind}_{dataset}.png"
                panels.render().save(folder / file)
                figures.append(Figure(title, caption, file))
    training_curves(results, folder / "training_curves.png")
    caption = "Total loss; PointRend's has a term more, that of its points."
    figures.append(Figure("Training curves", caption, "training_curves.png"))
    return figures


_LABELS = (
    "Below each image, enlarged, the square of it in which the ground truth has the most boundary pixels. Predictions "
    "are drawn where the ground truth is ignored, too; no score counts them there."
)


def _mean_overlaps(objects: Sequence[FoundObject], captions: Sequence[str]) -> str:
    means = [sum(column) / len(objects) for column in zip(*(found.overlaps for found in objects), strict=True)]
    figures = ", ".join(f"{caption} {mean:.3f}" for caption, mean in zip(captions, means, strict=False))
    return (
        "Of each category those that all columns have located best, judged by their boxes alone; enlarged, a solid "
        f"line at the mask's edge. Mean IoU of the masks of all {len(objects)} objects that every column has found: "
        f"{figures}."
    )


def build_report(
    params: Params,
    tables: dict[str, TableConfig],
    results: Sequence[RunResult],
    datasets: dict[str, ReportedDataset],
    predictions: Path,
    output: Path,
    tracking_uri: str,
    sweeps: Sequence[SweepResult] = (),
    lost: Mapping[str, str] | None = None,
) -> None:
    """Writes the report's folder, whole or not at all.

    It has ``index.html``, ``tables/``, ``results.parquet`` with the numbers of all tables, and the pictures.

    Args:
        params: what was selected.
        tables: the tables' configurations by name.
        results: of the selected runs.
        datasets: by name.
        predictions: the folder of all runs' predictions.
        output: the folder to write.
        tracking_uri: for the page's hint on `mlflow ui`.
        sweeps: the selected ones.
        lost: why runs that were selected have no results.
    """
    with atomic_folder(output) as folder:
        selected = {run.experiment for run in params.runs.values()}
        filled = [
            build_table(name, table, results, lost, stand_ins=params.scale != PAPER_SCALE)
            for name, table in tables.items()
            if not table.experiments or selected & table.experiments
        ]
        write_tables(filled, folder)
        figures = draw_figures(tables, results, datasets, predictions, folder)
        sections = [sweep_section(sweep, folder) for sweep in sweeps]
        page = render_page(params, filled, figures, results, folder, tracking_uri, sections)
        (folder / "index.html").write_text(page, encoding="utf-8")


def write_tables(tables: Sequence[Table], folder: Path) -> None:
    """Writes ``tables/<name>.{md,csv,tex}`` and ``results.parquet`` into an existing folder."""
    (folder / "tables").mkdir()
    for table in tables:
        for suffix, text in (("md", to_markdown(table)), ("csv", to_csv(table)), ("tex", to_latex(table))):
            (folder / "tables" / f"{table.name}.{suffix}").write_text(text, encoding="utf-8")
    pq.write_table(to_arrow(tables), folder / "results.parquet")


def render_page(
    params: Params,
    tables: Sequence[Table],
    figures: Sequence[Figure],
    results: Sequence[RunResult],
    folder: Path,
    tracking_uri: str,
    sweeps: Sequence[SweepSection] = (),
) -> str:
    """The HTML page, pictures included."""
    environment = Environment(loader=PackageLoader("pipeline.report", "."), autoescape=True, undefined=StrictUndefined)
    environment.globals.update(number=format_number, signed=format_difference, spread=format_spread, duration=duration)
    return environment.get_template("page.html.j2").render(
        scale=params.scale,
        notice=(
            "This is not the paper's setting: the data, the backbones and the schedules are stand-ins that fit a small "
            "machine. Compare the differences between rows with the paper's, not the numbers themselves."
            if params.scale != PAPER_SCALE
            else ""
        ),
        tables=[(table, notes(table)) for table in tables],
        figures=[{**asdict(figure), "data": _encoded(folder / figure.file)} for figure in figures],
        sweeps=[{**asdict(sweep), "pictures": [_encoded(folder / file) for file in sweep.files]} for sweep in sweeps],
        runs=results,
        # Without the password that a server's address may hold.
        tracking_uri=re.sub(r"(?<=://)[^/@]*@", "", tracking_uri),
    )


def _encoded(picture: Path) -> str:
    return base64.b64encode(picture.read_bytes()).decode()
