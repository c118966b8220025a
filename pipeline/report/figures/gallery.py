"""Chooses the figures of a report and the runs that they show."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.config.evaluations import RenderingConfig
from pipeline.config.tables import TableConfig
from pipeline.evaluation.outputs import labels_folder, predictions_file
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.report.figures.accuracy import draw_accuracy_figure
from pipeline.report.figures.curves import training_curves, validation_curves
from pipeline.report.figures.figure import Figure, save_picture
from pipeline.report.figures.instance_figures import draw_instance_figures
from pipeline.report.figures.overlays import FoundObject, Scenes, Source, found_objects, object_panels, scene_panels
from pipeline.report.figures.semantic_figures import draw_semantic_figures
from pipeline.report.figures.semantic_overlays import label_panels, with_legend
from pipeline.report.inputs import ReportInputs
from pipeline.report.results import RunResult
from pipeline.report.tables.table import row_label

SCENES, OBJECTS = 4, 8  # how many of each are shown
CANDIDATES = 200  # images that the objects are chosen from
ACCURACIES = {"AP": "AP", "AP_star": "AP*", "boundary_AP": "boundary AP"}  # metrics drawn over settings


class Column(NamedTuple):
    """A column of the pictures that compare models: one evaluation setting of one run."""

    caption: str
    run: RunResult
    setting: str


def compared_columns(tables: Mapping[str, TableConfig], results: Sequence[RunResult]) -> list[Column]:
    """A column for each row of the tables with overlays, of the first run with results of the row's experiment."""
    first_runs: dict[str, RunResult] = {}
    for result in results:
        first_runs.setdefault(result.experiment, result)
    found: dict[tuple[str, str], Column] = {}
    for row in (row for table in tables.values() if table.overlays for row in table.rows):
        for cell in row.measured.values():
            run = first_runs.get(cell.experiment)
            if run is not None and cell.evaluation in run.evaluations:
                column = Column(row_label(row, results), run, cell.evaluation)
                found.setdefault((cell.experiment, cell.evaluation), column)
    return list(found.values())


def draw_figures(report: ReportInputs, folder: Path) -> list[Figure]:
    """Draws all figures as PNG and WebP files into a folder."""
    figures = []
    columns = compared_columns(report.tables, report.results)
    for dataset in dict.fromkeys(column.run.dataset for column in columns):
        of_dataset = [column for column in columns if column.run.dataset == dataset]
        network = report.trained[of_dataset[0].run.run]
        compare = _compare_labels if network.config.model.task == "semantic" else _compare_masks
        figures += compare(dataset, network, of_dataset, report.predictions, folder)
    figures += _drawn_by_networks(columns, report, folder)
    figures += _accuracy_over_settings(report.results, folder)
    width = training_curves(report.results, folder / "training_curves.png")
    heads = {result.parameters["head"] for result in report.results}
    caption = "Total loss." + (" PointRend's has one more term, the loss at its points." if len(heads) > 1 else "")
    figures.append(Figure("Training curves", caption, "training_curves.png", width))
    if any(result.validations for result in report.results):
        width = validation_curves(report.results, folder / "validation_curves.png")
        caption = "Scores on the val images while the network was trained. The circle marks the weights that were kept."
        figures.append(Figure("Validation curves", caption, "validation_curves.png", width))
    return figures


def _compare_labels(
    dataset: str, network: TrainedRun, columns: Sequence[Column], predictions: Path, folder: Path
) -> list[Figure]:
    """The label maps of semantic models side by side; dataset and storage are those of ``network``."""
    prepared = network.dataset()
    sources = [Source(caption, labels_folder(predictions / run.run, setting)) for caption, run, setting in columns]
    caption = (
        "Below each image, enlarged, is its square with the most boundary pixels of the ground truth. Predictions are "
        "also drawn where the ground truth is ignored; no score counts them there."
    )
    sheet = with_legend(label_panels(prepared, network.images, sources, SCENES).render(), prepared.labels)
    file = f"labels_{dataset}.webp"
    width = save_picture(sheet, folder / file)
    return [Figure(f"The same images from every model: {dataset}", caption, file, width)]


def _compare_masks(
    dataset: str, network: TrainedRun, columns: Sequence[Column], predictions: Path, folder: Path
) -> list[Figure]:
    """The masks of instance models side by side; dataset and storage are those of ``network``."""
    sources = [Source(caption, predictions_file(predictions / run.run, setting)) for caption, run, setting in columns]
    prepared = network.dataset()
    scenes = Scenes(prepared.manifest("val"), network.images, sources, reading=prepared.reading)
    figures = []
    if objects := found_objects(scenes, CANDIDATES):
        caption = _mean_overlaps(objects, [source.caption for source in sources])
        file = f"objects_{dataset}.webp"
        width = save_picture(object_panels(scenes, objects, OBJECTS).render(), folder / file)
        figures.append(Figure(f"The same objects from every head: {dataset}", caption, file, width))
    if (panels := scene_panels(scenes, scenes.choose(SCENES))).rows:
        caption = (
            "Predictions with a score of 0.5 or more. Colours are the objects': one that is "
            "found with its category has its colour in every column; other predictions have others."
        )
        file = f"scenes_{dataset}.webp"
        width = save_picture(panels.render(), folder / file)
        figures.append(Figure(f"Whole images: {dataset}", caption, file, width))
    return figures


def _mean_overlaps(objects: Sequence[FoundObject], captions: Sequence[str]) -> str:
    means = [sum(column) / len(objects) for column in zip(*(found.overlaps for found in objects), strict=True)]
    figures = ", ".join(f"{caption} {mean:.3f}" for caption, mean in zip(captions, means, strict=True))
    return (
        "The objects of each category whose boxes all columns have located best, whatever the masks are; enlarged, "
        f"and cut out by each mask. Mean mask IoU over all {len(objects)} objects that every column has "
        f"found: {figures}."
    )


def _drawn_by_networks(columns: Sequence[Column], report: ReportInputs, folder: Path) -> list[Figure]:
    """Subdivision and training points, drawn by the first compared run with PointRend of each dataset."""
    figures, datasets = [], set()
    for column in columns:
        run = report.trained[column.run.run]
        if run.config.model.has_point_head and column.run.dataset not in datasets:
            datasets.add(column.run.dataset)
            if run.config.model.task == "instance":
                figures += draw_instance_figures(run, report.figures, folder)
            else:
                figures += draw_semantic_figures(run, folder)
    return figures


def _accuracy_over_settings(results: Sequence[RunResult], folder: Path) -> list[Figure]:
    """Metrics over resolution and N (Table 3), of the first run on each dataset that has several of either."""
    figures, datasets = [], set()
    for result in results:
        settings = {
            name: rendering
            for name, setting in result.settings.root.items()
            if isinstance(setting, RenderingConfig) and name in result.evaluations and (rendering := setting.build())
        }
        if result.dataset in datasets or not settings:
            continue
        finest = max(setting.resolution for setting in settings.values())
        # Over resolution, N is the one that the coarser settings have.
        usual = [s.num_points for s in settings.values() if s.resolution != finest] or [0]
        by_resolution: dict[str, list[tuple[int, float]]] = {}
        by_points: dict[str, list[tuple[int, float]]] = {}
        for name, setting in settings.items():
            metrics = result.evaluations[name].metrics
            for key, label in ACCURACIES.items():
                if key not in metrics:
                    continue
                if setting.num_points == usual[0]:
                    by_resolution.setdefault(label, []).append((setting.resolution, metrics[key]))
                if setting.resolution == finest:
                    by_points.setdefault(label, []).append((setting.num_points, metrics[key]))
        if any(len(pairs) > 1 for pairs in (*by_resolution.values(), *by_points.values())):
            datasets.add(result.dataset)
            figures += draw_accuracy_figure(result.dataset, "percent", by_resolution, by_points, folder)
    return figures
