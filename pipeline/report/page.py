"""Writes the report: tables, figures, plots for DVC, and one self-contained page."""

import base64
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from jinja2 import Environment, StrictUndefined

from pipeline.config.findings import FindingsConfig
from pipeline.data.outlines import LONG
from pipeline.data.problems import group
from pipeline.files import atomic_folder
from pipeline.metrics.confusion import MATCHING_IOU
from pipeline.report.charts import gain_chart, interval_bar
from pipeline.report.figures.figure import Figure
from pipeline.report.figures.gallery import draw_figures
from pipeline.report.figures.hero import Hero, draw_hero
from pipeline.report.figures.sweeps import SweepSection, sweep_section
from pipeline.report.findings import Finding, decide
from pipeline.report.findings import to_csv as findings_csv
from pipeline.report.findings import to_markdown as findings_markdown
from pipeline.report.headline import headline_of
from pipeline.report.inputs import ReportInputs
from pipeline.report.own.comparison import FEW_IMAGES
from pipeline.report.own.sections import OwnDataset, own_datasets
from pipeline.report.plots import write_plots
from pipeline.report.tables.formats import (
    format_difference,
    format_number,
    format_spread,
    to_arrow,
    to_csv,
    to_latex,
    to_markdown,
)
from pipeline.report.tables.seeds import row_seeds, seeds_note
from pipeline.report.tables.table import Table, build_table, notes
from pipeline.report.templates import page_loader

LOCAL_MLFLOW = "http://127.0.0.1:5000"  # the address of a local `mlflow ui`
PAPER_SCALE = "paper"  # the scale whose numbers should be the paper's
NOT_THE_PAPERS_SETTING = (
    "This is not the paper's setting: the data, the backbones and the schedules are stand-ins that fit a small "
    "machine. Compare the differences between rows with the paper's, not the numbers themselves."
)


SYMBOLS = {"holds": "✓", "does not hold": "✗", "cannot be told": "?", "not measured": "–"}  # of a finding's verdict


def duration(seconds: float) -> str:
    """Seconds as "1 h 05 min", "12 min" or "40 s"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def build_report(report: ReportInputs, output: Path) -> None:
    """Writes the report's folder, whole or not at all.

    It holds ``index.html``, ``tables/``, ``findings.md`` and ``findings.csv``, ``plots/`` for `dvc plots`, the
    pictures, and ``results.parquet`` with the numbers of all tables. A report on somebody's own data has only the
    tables that were asked for, and the confusion matrix of each experiment as ``confusion_<run>.csv`` and ``.json``.
    """
    stand_ins = report.scale != PAPER_SCALE
    with atomic_folder(output, replace=True) as folder:
        tables = [
            build_table(
                name,
                table,
                report.results,
                report.missing,
                stand_ins=stand_ins,
                defined=report.defined,
                excluded=report.excluded,
            )
            for name, table in report.tables.items()
            if report.own or report.experiments & table.experiments or not table.experiments
        ]
        write_tables(tables, folder)
        findings = decide(shown_findings(report), report.results, report.missing)
        write_findings(findings, folder)
        write_plots(report.results, folder / "plots")
        datasets = own_datasets(report, folder) if report.own else []
        hero = None if report.own else draw_hero(report, folder)
        figures = draw_figures(report, folder)
        sweeps = [sweep_section(sweep, folder) for sweep in report.sweeps]
        page = render_page(report, tables, findings, figures, sweeps, folder, hero, datasets)
        (folder / "index.html").write_text(page, encoding="utf-8")


def write_tables(tables: Sequence[Table], folder: Path) -> None:
    """Writes ``tables/<name>.{md,csv,tex}`` and ``results.parquet`` into an existing folder, unless there are none."""
    if not tables:
        return
    (folder / "tables").mkdir()
    for table in tables:
        for suffix, text in (("md", to_markdown(table)), ("csv", to_csv(table)), ("tex", to_latex(table))):
            (folder / "tables" / f"{table.name}.{suffix}").write_text(text, encoding="utf-8")
    pq.write_table(to_arrow(tables), folder / "results.parquet")


def shown_findings(report: ReportInputs) -> FindingsConfig:
    """The claims that some of the selected experiments are about."""
    shown = {name: claim for name, claim in report.findings.root.items() if claim.experiments & report.experiments}
    return FindingsConfig(shown)


def write_findings(findings: Sequence[Finding], folder: Path) -> None:
    """Writes ``findings.md`` and ``findings.csv`` into an existing folder, unless there are no findings."""
    if findings:
        (folder / "findings.md").write_text(findings_markdown(findings), encoding="utf-8")
        (folder / "findings.csv").write_text(findings_csv(findings), encoding="utf-8")


def render_page(
    report: ReportInputs,
    tables: Sequence[Table],
    findings: Sequence[Finding],
    figures: Sequence[Figure],
    sweeps: Sequence[SweepSection],
    folder: Path,
    hero: Hero | None = None,
    datasets: Sequence[OwnDataset] = (),
) -> str:
    """The HTML page. All pictures are read from ``folder`` and stored inside the page."""
    environment = Environment(
        loader=page_loader(),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(number=format_number, signed=format_difference, spread=format_spread, duration=duration)
    environment.globals.update(bar=interval_bar, symbols=SYMBOLS, matching_iou=MATCHING_IOU)
    environment.globals.update(few_images=FEW_IMAGES, long_edge=LONG)
    environment.globals.update(fewer_seeds=row_seeds, seeds_note=seeds_note)
    # A server's address may hold a password, which is not shown.
    shown_uri = re.sub(r"(?<=://)[^/@]*@", "", report.tracking_uri)
    values = [value for table in tables for _, row in table.rows for value in row.values()]
    return environment.get_template("own.html.j2" if report.own else "page.html.j2").render(
        scale=report.scale,
        datasets=datasets,
        encoded=lambda file: _encoded(folder / file),
        notice="" if report.scale == PAPER_SCALE else NOT_THE_PAPERS_SETTING,
        differences=report.scale == PAPER_SCALE,
        headline=None if report.own else headline_of(report.figures.headline, tables),
        hero=None if hero is None else _with_pictures(hero, folder),
        findings=findings,
        summary=summary(findings),
        tables=[(table, notes(table), gain_chart(table)) for table in tables],
        signs=[value.agrees for value in values if value.agrees is not None],
        figures=[{**asdict(figure), "data": _encoded(folder / figure.file)} for figure in figures],
        sweeps=[
            {**asdict(sweep), "pictures": [(_encoded(folder / file), width) for file, width in sweep.files.items()]}
            for sweep in sweeps
        ],
        runs=report.results,
        missing=report.missing,
        left_out=left_out(report),
        configuration=lambda run: yaml.safe_dump(
            run.config.model_dump(mode="json", exclude_none=True), sort_keys=False
        ),
        tracking_uri=shown_uri,
        mlflow_url=shown_uri if shown_uri.startswith(("http://", "https://")) else LOCAL_MLFLOW,
    )


def left_out(report: ReportInputs) -> dict[str, list[str]]:
    """What was left out of each dataset when it was prepared, by kind with its number."""
    shown = [result for result in report.results if result.run in report.trained]
    datasets = {result.dataset: report.trained[result.run].dataset() for result in shown}
    kinds = {name: [each.title for each in group(prepared.left_out)] for name, prepared in datasets.items()}
    return {name: titles for name, titles in kinds.items() if titles}


def summary(findings: Sequence[Finding]) -> str:
    """How many findings have each verdict, as a sentence: "21 claims hold, 1 does not, 3 cannot be told."."""
    counts: Counter[str] = Counter(finding.verdict for finding in findings)
    parts = [f"{counts['holds']} of {len(findings)} claims {'holds' if counts['holds'] == 1 else 'hold'}"]
    for verdict, one, several in (
        ("does not hold", "does not", "do not"),
        ("cannot be told", "cannot be told", "cannot be told"),
        ("not measured", "was not measured", "were not measured"),
    ):
        if number := counts[verdict]:
            parts.append(f"{number} {one if number == 1 else several}")
    return ", ".join(parts) + "."


def _with_pictures(hero: Hero, folder: Path) -> dict[str, Any]:
    objects = [
        {**asdict(shown), "pictures": [_encoded(folder / file) for file in shown.files]} for shown in hero.objects
    ]
    return {**asdict(hero), "objects": objects}


def _encoded(picture: Path) -> str:
    """A PNG or WebP file as a data URL."""
    return f"data:image/{picture.suffix[1:]};base64,{base64.b64encode(picture.read_bytes()).decode()}"
