import base64
import io
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.config.evaluations import EvaluationConfig, RenderingConfig
from pipeline.config.project import Project
from pipeline.config.tables import TableConfig
from pipeline.data.annotations import Annotation
from pipeline.data.coco import Category, DatasetError, ImageRecord
from pipeline.data.manifest import SplitManifest, write_prepared
from pipeline.data.storage import Storage
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.files import write_json
from pipeline.report.figures.figure import Figure
from pipeline.report.findings import Finding
from pipeline.report.inputs import ReportInputs
from pipeline.report.page import build_report, duration, render_page
from pipeline.report.results import RunResult
from pipeline.report.tables.table import STAND_INS, build_table
from pipeline.training.model import build_run_model
from pointrend import save_weights

VOID = {"meta", "img", "br", "hr", "link", "input"}
CHECKOUT = Path(__file__).parents[3]
EVIL = "<script>alert('run')</script>"


class Page(HTMLParser):
    """The page's elements in order, its text, and its rows of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture
def table_1(repository: Path) -> TableConfig:
    return Project(repository).table("table1")


Render = Callable[..., str]


@pytest.fixture
def render(table_1: TableConfig, results: list[RunResult], tmp_path: Path) -> Render:
    def render(
        scale: str = "demo",
        table: TableConfig = table_1,
        runs: list[RunResult] = results,
        figures: list[Figure] | None = None,
        uri: str = "sqlite:///mlflow.db",
        lost: dict[str, str] | None = None,
    ) -> str:
        tables = [build_table("table1", table, runs, lost, stand_ins=scale != "paper")]
        inputs = ReportInputs(scale, {}, Project(CHECKOUT).figures(), uri, tmp_path, results=runs)
        return render_page(inputs, tables, [], figures or [], [], tmp_path)

    return render


def references(text: str) -> list[str]:
    """Everything that a browser would fetch for the page by itself."""
    found = [
        value or ""
        for tag, attributes in Page(text).elements
        for name, value in attributes.items()
        if tag != "a" and name in ("src", "href", "srcset", "data", "poster", "action")
    ]
    assert not re.search(r"fetch\(|import\(|XMLHttpRequest|WebSocket", text)
    return found + re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")]+)", text)


def table_rows(text: str) -> list[list[str]]:
    """The page's rows of cells, without what only breaks lines."""
    return [[" ".join(cell.split()) for cell in row] for row in Page(text).rows]


# What stands in the page


def test_a_table_says_how_many_seeds_its_medians_are_of(render: Render, results: list[RunResult]) -> None:
    text = render()
    assert text.count("Numbers are medians over 3 seeds.") == 1
    assert "of 3 seeds)" not in text
    first = results[0].experiment
    text = render(runs=[run for run in results if (run.experiment, run.seed) != (first, 2)])
    assert "Numbers are medians over 3 seeds. Rows with fewer say so." in text
    marked = [row for row in table_rows(text) if any("of 3 seeds)" in cell for cell in row)]
    assert len(marked) == 1


def test_the_page_is_well_formed(render: Render) -> None:
    text = render()
    page = Page(text)
    assert page.open == []
    assert text.lstrip().lower().startswith("<!doctype html>")
    assert ("meta", {"charset": "utf-8"}) in page.elements


def test_our_numbers_stand_beside_the_papers(render: Render) -> None:
    # Of boundary AP the paper has no numbers.
    head, under, *rows = table_rows(render())
    assert head == ["mask head", "output resolution", "COCO AP", "COCO AP*", "COCO boundary AP", "Cityscapes AP"]
    both = ["ours", "paper"]
    assert under == [*both, *both, "ours", *both]
    assert rows[:3] == [
        ["4×conv", "28×28", "31.0 ±2.5", "35.2", "–", "37.6", "–", "–", "33.0"],
        ["PointRend", "28×28", "33.0 ±1.9 (+2.0)", "36.1 (+0.9)", "–", "39.2 (+1.6)", "–", "–", "35.5 (+2.5)"],
        ["PointRend", "224×224", "34.5 ±1.5 (+3.5)", "36.3 (+1.1)", "–", "39.7 (+2.1)", "–", "–", "35.8 (+2.8)"],
    ]


def test_ours_minus_the_papers_is_shown_at_the_papers_scale(render: Render) -> None:
    _, under, first, *_ = table_rows(render("paper"))
    three = ["ours", "paper", "Δ"]
    assert under == [*three, *three, "ours", *three]
    assert first[2:5] == ["31.0 ±2.5", "35.2", "-4.2"]
    for scale in ("demo", "nuclei"):
        assert "Δ" not in Page(render(scale)).text


def test_gains_are_drawn_with_the_papers(render: Render) -> None:
    text = render()
    labels = [
        attributes["aria-label"] for tag, attributes in Page(text).elements if tag == "svg" and "role" in attributes
    ]
    assert labels == ["gain +2.0; the paper's +0.9", "gain +3.5; the paper's +1.1"]
    # The axis is from 0 to 3.5, and 0.28 on both sides.
    dots = [attributes["cx"] for tag, attributes in Page(text).elements if attributes.get("class") == "dot"]
    assert [f"{round(100 * (gain + 0.28) / 4.06, 2)}%" for gain in (2.0, 3.5)] == dots[-2:]


def test_a_gain_has_its_interval(
    render: Render, table_1: TableConfig, results: list[RunResult], tmp_path: Path
) -> None:
    table = build_table("table1", table_1, results)
    labels, values = table.rows[1]
    table.rows[1] = (labels, {**values, "coco_ap": replace(values["coco_ap"], gain_interval=(-0.5, 4.25))})
    inputs = ReportInputs("demo", {}, Project(CHECKOUT).figures(), "sqlite:///x.db", tmp_path, results=results)
    page = Page(render_page(inputs, [table], [], [], [], tmp_path))
    titles = [attributes.get("title") for _, attributes in page.elements if attributes.get("class") == "gain"]
    # In the headline and in the table.
    assert titles.count("95% interval: -0.5 to +4.2") == 2
    labels_of_charts = [attributes.get("aria-label") for tag, attributes in page.elements if tag == "svg"]
    assert "gain +2.0, 95% interval -0.5 to +4.2; the paper's +0.9" in labels_of_charts


@pytest.mark.parametrize(("ap", "shown"), [(31.04, "31.0 (+0.0)"), (30.96, "31.0 (+0.0)"), (30.5, "30.5 (-0.5)")])
def test_a_small_gain_is_never_minus_zero(
    render: Render, made_up: Callable[..., RunResult], ap: float, shown: str
) -> None:
    runs = [
        made_up("coco_4xconv_r50", 0, {"28x28": {"AP": 31.0}}),
        made_up("coco_pointrend_r50", 0, {"28x28": {"AP": ap}}),
    ]
    text = render(runs=runs)
    assert table_rows(text)[3][2] == shown
    assert "The paper reports 1 differences between rows that were also measured here. 0 of them" in Page(text).text


FINDINGS = [
    Finding("a", f"A beats B {EVIL}", "Table 1", 3.0, 1.0, 5.0, 0.0, "more than", "holds", "", True),
    Finding("b", "C is like D", "Section 4.2", 0.1, -0.6, 0.8, 0.5, "within", "cannot be told", "wide interval", True),
    Finding("c", "E beats F", "here", None, None, None, 0.0, "more than", "not measured", "E is not trained", False),
    Finding("d", "G beats H", "Table 3", -2.0, -3.0, -1.0, 0.0, "more than", "does not hold", "", True),
]


def test_findings_have_their_verdicts_in_words(results: list[RunResult], tmp_path: Path) -> None:
    inputs = ReportInputs("demo", {}, Project(CHECKOUT).figures(), "sqlite:///x.db", tmp_path, results=results)
    text = render_page(inputs, [], FINDINGS, [], [], tmp_path)
    page = Page(text)
    assert page.open == []
    assert "1 of 4 claims holds, 1 does not, 1 cannot be told, 1 was not measured." in page.text
    _, *rows = table_rows(text)
    assert [row[3] for row in rows[:4]] == [
        "✓ holds", "? cannot be toldwide interval", "– not measuredE is not trained", "✗ does not hold",
    ]  # fmt: skip
    assert [row[2] for row in rows[:4]] == [
        "+3.0 (+1.0 to +5.0)expected: more than 0",
        "+0.1 (-0.6 to +0.8)expected: within ±0.5",
        "–expected: more than 0",
        "-2.0 (-3.0 to -1.0)expected: more than 0",
    ]
    assert [row[0] for row in rows[1:3]] == ["C is like DSection 4.2", "E beats Fhere · not a claim of the paper"]
    # Estimate in percent of an axis of 5 and 16% of that to both sides of the threshold.
    dots = [
        attributes["cx"]
        for _, attributes in page.elements
        if attributes.get("class") == "dot" and "%" in str(attributes)
    ]
    assert dots[0] == f"{round(50 + 50 * 3 / 5.8, 2)}%"
    # What was not measured has no bar.
    assert len(dots) == 3


def test_without_findings_there_is_no_section_about_them(render: Render) -> None:
    assert "claims" not in Page(render()).text


def test_what_the_headline_misses_is_said(render: Render, made_up: Callable[..., RunResult]) -> None:
    runs = [made_up("coco_pointrend_r50", 0, {"28x28": {"AP": 33.0}})]
    text = render(runs=runs, lost={"coco_4xconv_r50-0": "its loss diverged after update 7"})
    headline = text[text.index('id="headline"') : text.index('id="table1"')]
    assert "its loss diverged after update 7." in headline
    assert "AP_star was not measured." in headline


def test_empty_cells_are_explained(render: Render) -> None:
    text = Page(render()).text
    assert "Cityscapes AP: no run of cityscapes_4xconv_r50 was selected" in text
    assert "COCO AP*: AP_star was not measured" in text


def test_a_lost_run_is_explained_at_its_cells_and_below_the_table(
    render: Render, made_up: Callable[..., RunResult]
) -> None:
    reason = "its loss diverged after update 7"
    runs = [made_up("coco_4xconv_r50", 0, {"28x28": {"AP": 31.0}})]
    page = Page(render(runs=runs, lost={"coco_pointrend_r50-0": reason}))
    # Two rows of COCO's AP, AP* and boundary AP.
    assert [attributes.get("title") for tag, attributes in page.elements if tag == "td"].count(reason) == 6
    assert f"COCO AP, COCO AP*, COCO boundary AP: {reason}" in page.text


def test_every_run_is_listed(render: Render, results: list[RunResult]) -> None:
    rows = [[cell.strip() for cell in row] for row in Page(render()).rows]
    for result in results:
        (row,) = [row for row in rows if row[:1] == [result.run]]
        shown = ["PointRend", "tiny_fpn", "shapes", "600", "4", "13 min", "2 CPU threads (x86_64)"]
        assert row[1:] == [*shown, "abcdef123456", "0123abcd", "01234567"]


def test_a_page_without_runs(render: Render) -> None:
    page = Page(render(runs=[]))
    assert page.open == []
    assert "35.2" in page.text


def test_every_table_of_the_repository_is_shown(repository: Path, tmp_path: Path) -> None:
    project = Project(repository)
    tables = [build_table(name, project.table(name), [], stand_ins=True) for name in project.table_names()]
    text = render_page(
        ReportInputs("demo", {}, project.figures(), "sqlite:///x.db", tmp_path), tables, [], [], [], tmp_path
    )
    page = Page(text)
    assert page.open == []
    sections = [attributes["id"] for tag, attributes in page.elements if tag == "section" and "id" in attributes]
    assert sections == ["headline", *project.table_names(), "runs"]
    assert "Section 4.2. Training points and the point head" in page.text
    rows = table_rows(text)
    assert rows[page_row(rows, "FLOPs, 10⁹") + 2][:4] == ["4×conv", "28×28", "0.5 (-33.4)", "0.5 (-33.5)"]
    # Where the paper has no number of a column it takes one column.
    at = page_row(rows, "change")
    assert [len(row) for row in rows[at : at + 3]] == [4, 2, 4]


def page_row(rows: list[list[str]], head: str) -> int:
    return next(index for index, row in enumerate(rows) if head in row)


@pytest.mark.parametrize("scale", ["demo", "nuclei", "coco8"])
def test_a_stand_in_says_so(render: Render, scale: str) -> None:
    text = Page(render(scale)).text
    assert "not the paper's setting" in text
    assert STAND_INS in text
    assert scale in text


def test_the_papers_scale_is_no_stand_in(render: Render) -> None:
    page = Page(render("paper"))
    assert "stand-in" not in page.text
    assert not any(attributes.get("class") == "notice" for _, attributes in page.elements)


# Safety


def test_names_are_escaped(render: Render, made_up: Callable[..., RunResult], table_1: TableConfig) -> None:
    run = made_up(
        "coco_4xconv_r50",
        0,
        {"28x28": {"AP": 31.0}},
        run=EVIL,
        dataset=EVIL,
        hardware=EVIL,
        code=EVIL,
        data=EVIL[:8],
        parameters={"head": EVIL, "backbone": EVIL, "updates": EVIL, "batch_size": EVIL},
    )
    table = table_1.model_copy(update={"title": f"A title {EVIL} & more"})
    page = Page(render(runs=[run], table=table, uri=EVIL))
    # The page's own, which sorts tables.
    assert [attributes for tag, attributes in page.elements if tag == "script"] == [{}]
    # The run's name stands over its configuration, too, and the table's title over the first numbers.
    assert page.text.count("alert('run')") == 8 + 1 + 2 + 1
    assert f"A title {EVIL} & more" in page.text


def test_attributes_are_escaped(render: Render, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "f.png")
    page = Page(render(figures=[Figure('"><img src="http://evil">', "caption", "f.png", 4)]))
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(images) == 1
    assert images[0]["alt"] == '"><img src="http://evil">'


def test_nothing_is_fetched(render: Render, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "f.png")
    text = render(figures=[Figure("A figure", "caption", "f.png", 4)])
    found = references(text)
    assert len(found) == 1
    assert found[0].startswith("data:image/png;base64,")
    assert not {"link", "iframe", "object"} & {tag for tag, _ in Page(text).elements}


def test_a_password_of_the_tracking_server_is_not_shown(render: Render) -> None:
    text = render(uri="https://someone:hunter2@mlflow.example.org")
    assert "hunter2" not in text
    assert "mlflow.example.org" in text


# The whole report


@pytest.fixture(scope="module")
def report(repository: Path, tmp_path_factory: pytest.TempPathFactory, made_up: Callable[..., RunResult]) -> Path:
    """A report on two runs over three images of 40x30 with one object each, found by both."""
    folder = tmp_path_factory.mktemp("report")
    mask = np.zeros((30, 40), dtype=np.uint8, order="F")
    mask[5:20, 8:30] = 1
    encoded = coco_mask.encode(mask)
    segmentation = {"size": [30, 40], "counts": encoded["counts"].decode("ascii")}
    images = []
    for i in range(3):
        thing = Annotation(i, 1, (8, 5, 22, 15), 330, False, encoded["counts"])
        images.append(ImageRecord(i, f"{i}.png", 30, 40, [thing]))
        Image.new("RGB", (40, 30), "gray").save(folder / f"{i}.png")
    write_prepared(folder, [Category(1, "a")], {"val": SplitManifest(images)})
    settings = {f"{side}x{side}": RenderingConfig(resolution=side, num_points=784) for side in (28, 224)}
    results = [
        made_up("coco_4xconv_r50", 0, {"28x28": {"AP": 31.0}},
                settings=EvaluationConfig({"28x28": RenderingConfig(resolution=28)})),
        made_up("coco_pointrend_r50", 0, {"28x28": {"AP": 33.0}, "224x224": {"AP": 34.5}},
                settings=EvaluationConfig(settings)),
    ]  # fmt: skip
    found = [{"image_id": i, "category_id": 1, "score": 0.9, "segmentation": segmentation} for i in range(3)]
    for result in results:
        for setting in result.evaluations:
            write_json(folder / "predictions" / result.run / f"predictions_{setting}.json", found)
    weights = folder / "model.safetensors"
    pointrend = results[1].config
    save_weights(build_run_model(pointrend, 1, pretrained=False), weights)
    four_conv = pointrend.model_copy(update={"model": Project(repository).model("mask_rcnn_tiny_shapes")})
    networks = {results[0].run: four_conv, results[1].run: pointrend}
    trained = {
        result.run: TrainedRun(networks[result.run], folder, Storage(str(folder)), weights) for result in results
    }
    tables = {name: Project(repository).table(name) for name in ("table1", "table2", "table5")}
    inputs = ReportInputs(
        "demo",
        tables,
        Project(repository).figures(),
        "sqlite:///mlflow.db",
        folder / "predictions",
        experiments={"coco_4xconv_r50", "coco_pointrend_r50", "cityscapes_pointrend_r50"},
        results=results,
        trained=trained,
        missing={"cityscapes_pointrend_r50-0": "its loss diverged"},
        findings=Project(repository).findings(),
    )
    build_report(inputs, folder / "out")
    return folder / "out"


def test_the_report_s_files(report: Path) -> None:
    assert sorted(path.name for path in report.iterdir()) == [
        "accuracy_shapes.png",
        "findings.csv",
        "findings.md",
        "headline.webp",
        *(f"headline_0_{column}.webp" for column in range(3)),
        "index.html",
        "objects_shapes.webp",
        "plots",
        "results.parquet",
        "scenes_shapes.webp",
        "tables",
        "training_curves.png",
    ]
    # None of Table 5's experiments was selected; Table 2 needs none.
    assert sorted(path.name for path in (report / "tables").iterdir()) == [
        f"{table}.{suffix}" for table in ("table1", "table2") for suffix in ("csv", "md", "tex")
    ]


def test_the_tables_files_say_what_the_page_says(report: Path) -> None:
    page = Page((report / "index.html").read_text()).text
    for table, stands_in in (("table1", True), ("table2", False)):
        for suffix in ("csv", "md", "tex"):
            assert (STAND_INS in (report / "tables" / f"{table}.{suffix}").read_text()) is stands_in
    assert page.count(STAND_INS) == 1
    assert "Table 2. FLOPs" in page
    assert "Table 5" not in page
    reasons = "Cityscapes AP: no run of cityscapes_4xconv_r50 was selected; its loss diverged"
    assert reasons in page
    assert f"- {reasons}\n" in (report / "tables" / "table1.md").read_text()


def test_the_reports_numbers_in_one_file(report: Path) -> None:
    rows = pq.read_table(report / "results.parquet").to_pylist()
    # Three rows of four columns and three of two; no cell has two runs.
    assert [row["table"] for row in rows] == ["table1"] * 12 + ["table2"] * 6
    measured = {(row["run"], row["value"]) for row in rows if row["table"] == "table1" and row["value"] is not None}
    assert measured == {
        ("coco_4xconv_r50-0", 31.0),
        ("coco_pointrend_r50-0", 33.0),
        ("coco_pointrend_r50-0", 34.5),
    }
    assert [row["missing"] for row in rows if row["column"] == "cityscapes_ap"] == [
        "no run of cityscapes_4xconv_r50 was selected",
        "its loss diverged",
        "its loss diverged",
    ]


def test_the_page_holds_all_pictures_itself(report: Path) -> None:
    found = references((report / "index.html").read_text())
    files = [f"headline_0_{column}.webp" for column in range(3)]
    files += ["objects_shapes.webp", "scenes_shapes.webp", "accuracy_shapes.png", "training_curves.png"]
    for reference, name in zip(found, files, strict=True):
        kind, _, data = reference.partition(",")
        assert kind == f"data:image/{name.rpartition('.')[2]};base64"
        assert base64.b64decode(data) == (report / name).read_bytes()


def test_the_pictures_have_a_column_for_each_setting(report: Path) -> None:
    with Image.open(report / "scenes_shapes.webp") as picture:
        # The image, the truth and three settings, at 12 times 40x30; three rows.
        assert picture.size == (2 * (5 * 240 + 4 * 6), 2 * (20 + 3 * 180 + 2 * 6))
    # The file has twice the pixels that the page shows.
    images = [attributes for tag, attributes in Page((report / "index.html").read_text()).elements if tag == "img"]
    assert images[4]["width"] == str(5 * 240 + 4 * 6)


def test_the_page_begins_with_an_object_of_every_head(report: Path) -> None:
    text = (report / "index.html").read_text()
    assert text.index('id="headline"') < text.index('id="table1"')
    images = [attributes["alt"] for tag, attributes in Page(text).elements if tag == "img"]
    assert images[:3] == ["a, image", "a, 4×conv 28×28: IoU 1.00", "a, PointRend 224×224: IoU 1.00"]
    assert "this is the largest object in the val images that every head has found" in Page(text).text


def test_the_report_is_whole_or_not_at_all(
    report: Path, tmp_path: Path, contents: Callable[[Path], Any], table_1: TableConfig, results: list[RunResult]
) -> None:
    output = tmp_path / "reports" / "demo"
    output.mkdir(parents=True)
    (output / "index.html").write_text("an earlier report")
    before = contents(tmp_path)
    gone, nowhere = Storage(str(tmp_path)), tmp_path / "nowhere"
    inputs = ReportInputs(
        "demo",
        {"table1": table_1},
        Project(CHECKOUT).figures(),
        "sqlite:///mlflow.db",
        tmp_path / "predictions",
        experiments={"coco_4xconv_r50"},
        results=results,
        trained={result.run: TrainedRun(result.config, nowhere, gone, nowhere) for result in results},
    )
    with pytest.raises(DatasetError, match=r"nowhere/dataset\.json"):
        build_report(inputs, output)
    assert contents(tmp_path) == before


def test_the_findings_are_those_about_selected_experiments(report: Path, repository: Path) -> None:
    lines = (report / "findings.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| PointRend draws better masks")]
    # The runs of this report kept no resamples, and one of the street scenes is missing.
    assert [row.rsplit(" | ", 1)[1] for row in rows] == ["cannot be told |", "not measured |", "not measured |"]
    assert any("its loss diverged" in line for line in lines)
    findings = pd.read_csv(report / "findings.csv")
    selected = {"coco_4xconv_r50", "coco_pointrend_r50", "cityscapes_pointrend_r50"}
    claims = Project(repository).findings().root
    assert list(findings["name"]) == [name for name, claim in claims.items() if claim.experiments & selected]
    assert "DeepLabV3" not in (report / "findings.md").read_text()


def test_a_report_on_nothing_has_what_needs_no_run(tmp_path: Path, repository: Path) -> None:
    tables = {name: Project(repository).table(name) for name in ("table1", "table2")}
    figures = Project(repository).figures()
    inputs = ReportInputs("demo", tables, figures, "sqlite:///x.db", tmp_path / "predictions")
    build_report(inputs, tmp_path / "out")
    page = Page((tmp_path / "out" / "index.html").read_text())
    assert page.open == []
    assert "Table 1" not in page.text
    assert "Table 2" in page.text
    assert {path.stem for path in (tmp_path / "out" / "tables").iterdir()} == {"table2"}
    assert not (tmp_path / "out" / "findings.md").exists()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (40.4, "40 s"), (89, "89 s"), (90, "2 min"), (720, "12 min"), (3569, "59 min"),
        (3599, "1 h 00 min"), (3900, "1 h 05 min"), (100_000, "27 h 47 min"),
    ],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_pictures_are_pictures(report: Path) -> None:
    for path in (*report.glob("*.png"), *report.glob("*.webp")):
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
            picture.load()
            # The images themselves are grey all over.
            assert np.asarray(picture.convert("RGB")).std() > 0 or path.name == "headline_0_0.webp"
