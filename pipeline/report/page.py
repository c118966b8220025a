"""Writes the report: tables, figures, plots for DVC, and one self-contained page."""

import base64
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.config.figures import FiguresConfig
from pipeline.config.tables import TableConfig
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.files import atomic_folder
from pipeline.report.figures.figure import Figure
from pipeline.report.figures.gallery import ReportedDataset, draw_figures
from pipeline.report.figures.sweeps import SweepSection, sweep_section
from pipeline.report.plots import write_plots
from pipeline.report.results import RunResult
from pipeline.report.sweep_results import SweepResult
from pipeline.report.tables.formats import (
    format_difference,
    format_number,
    format_spread,
    to_arrow,
    to_csv,
    to_latex,
    to_markdown,
)
from pipeline.report.tables.table import Table, build_table, notes

LOCAL_MLFLOW = "http://127.0.0.1:5000"  # the address of a local `mlflow ui`
PAPER_SCALE = "paper"  # the scale whose numbers should be the paper's


def duration(seconds: float) -> str:
    """Seconds as "1 h 05 min", "12 min" or "40 s"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def build_report(
    scale: str,
    experiments: Set[str],
    tables: dict[str, TableConfig],
    results: Sequence[RunResult],
    datasets: dict[str, ReportedDataset],
    trained: Mapping[str, TrainedRun],
    predictions: Path,
    output: Path,
    tracking_uri: str,
    shown: FiguresConfig,
    sweeps: Sequence[SweepResult] = (),
    lost: Mapping[str, str] | None = None,
) -> None:
    """Writes the report's folder, whole or not at all.

    It holds ``index.html``, ``tables/``, ``plots/`` for `dvc plots`, the pictures, and ``results.parquet`` with the
    numbers of all tables.

    Args:
        scale: the scale of the runs.
        experiments: the selected experiments; tables without any of them are left out, unless they need no run.
        tables: the tables' configurations by name.
        results: the results of the selected runs.
        datasets: by name.
        trained: the runs' networks, by the names of the runs.
        predictions: the folder of all runs' predictions.
        output: the folder to write.
        tracking_uri: the address of MLflow, which the page names.
        shown: what the figures of PointRend's masks show.
        sweeps: the results of the selected sweeps.
        lost: why selected runs have no results, by run.
    """
    with atomic_folder(output, replace=True) as folder:
        filled = [
            build_table(name, table, results, lost, stand_ins=scale != PAPER_SCALE)
            for name, table in tables.items()
            if not table.experiments or experiments & table.experiments
        ]
        write_tables(filled, folder)
        write_plots(results, folder / "plots")
        figures = draw_figures(tables, results, datasets, trained, predictions, shown, folder)
        sections = [sweep_section(sweep, folder) for sweep in sweeps]
        page = render_page(scale, filled, figures, results, folder, tracking_uri, sections, lost)
        (folder / "index.html").write_text(page, encoding="utf-8")


def write_tables(tables: Sequence[Table], folder: Path) -> None:
    """Writes ``tables/<name>.{md,csv,tex}`` and ``results.parquet`` into an existing folder."""
    (folder / "tables").mkdir()
    for table in tables:
        for suffix, text in (("md", to_markdown(table)), ("csv", to_csv(table)), ("tex", to_latex(table))):
            (folder / "tables" / f"{table.name}.{suffix}").write_text(text, encoding="utf-8")
    pq.write_table(to_arrow(tables), folder / "results.parquet")


def render_page(
    scale: str,
    tables: Sequence[Table],
    figures: Sequence[Figure],
    results: Sequence[RunResult],
    folder: Path,
    tracking_uri: str,
    sweeps: Sequence[SweepSection] = (),
    lost: Mapping[str, str] | None = None,
) -> str:
    """The HTML page, with all pictures inside."""
    environment = Environment(loader=PackageLoader("pipeline.report", "."), autoescape=True, undefined=StrictUndefined)
    environment.globals.update(number=format_number, signed=format_difference, spread=format_spread, duration=duration)
    # A server's address may hold a password, which is not shown.
    shown_uri = re.sub(r"(?<=://)[^/@]*@", "", tracking_uri)
    return environment.get_template("page.html.j2").render(
        scale=scale,
        notice=(
            "This is not the paper's setting: the data, the backbones and the schedules are stand-ins that fit a small "
            "machine. Compare the differences between rows with the paper's, not the numbers themselves."
            if scale != PAPER_SCALE
            else ""
        ),
        tables=[(table, notes(table)) for table in tables],
        signs=[
            value.agrees
            for table in tables
            for _, values in table.rows
            for value in values.values()
            if value.agrees is not None
        ],
        figures=[{**asdict(figure), "data": _encoded(folder / figure.file)} for figure in figures],
        sweeps=[{**asdict(sweep), "pictures": [_encoded(folder / file) for file in sweep.files]} for sweep in sweeps],
        runs=results,
        lost=lost or {},
        configuration=lambda run: yaml.safe_dump(
            run.config.model_dump(mode="json", exclude_none=True), sort_keys=False
        ),
        tracking_uri=shown_uri,
        mlflow_url=shown_uri if shown_uri.startswith(("http://", "https://")) else LOCAL_MLFLOW,
    )


def _encoded(picture: Path) -> str:
    return base64.b64encode(picture.read_bytes()).decode()
