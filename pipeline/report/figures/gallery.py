"""Chooses the figures of a report and the runs that they show."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.config.evaluations import RenderingConfig
from pipeline.config.figures import FiguresConfig
from pipeline.config.tables import TableConfig
from pipeline.data.manifest import PreparedDataset
from pipeline.data.storage import Storage
from pipeline.evaluation.outputs import labels_folder, predictions_file
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.report.figures.accuracy import draw_accuracy_figure
from pipeline.report.figures.curves import training_curves
from pipeline.report.figures.figure import Figure
from pipeline.report.figures.instance_figures import draw_instance_figures
from pipeline.report.figures.overlays import FoundObject, Scenes, Source, found_objects, object_panels, scene_panels
from pipeline.report.figures.semantic_figures import draw_semantic_figures
from pipeline.report.figures.semantic_overlays import LabelSource, label_panels, with_legend
from pipeline.report.results import RunResult
from pipeline.report.tables.table import row_label

SCENES, OBJECTS = 4, 8  # how many of each are shown
CANDIDATES = 200  # images that the objects are chosen from
ACCURACIES = {"AP": "AP", "AP_star": "AP*", "boundary_AP": "boundary AP"}  # metrics drawn over settings


class ReportedDataset(NamedTuple):
    """A prepared dataset, and the storage that the file names of its manifests are relative to."""

    prepared: PreparedDataset
    images: Storage


def compared(tables: dict[str, TableConfig], results: Sequence[RunResult]) -> list[tuple[str, RunResult, str]]:
    """The (caption, run, setting) triples in the rows of tables: of each experiment its first run with results."""
    first_runs: dict[str, RunResult] = {}
    for result in results:
        first_runs.setdefault(result.experiment, result)
    found: dict[tuple[str, str], tuple[str, RunResult, str]] = {}
    for table in tables.values():
        for row in table.rows:
            for cell in row.measured.values():
                run = first_runs.get(cell.experiment)
                if run is not None and cell.evaluation in run.evaluations:
                    found.setdefault(
                        (cell.experiment, cell.evaluation), (row_label(row, results), run, cell.evaluation)
                    )
    return list(found.values())


def draw_figures(
    tables: dict[str, TableConfig],
    results: Sequence[RunResult],
    datasets: dict[str, ReportedDataset],
    trained: Mapping[str, TrainedRun],
    predictions: Path,
    shown: FiguresConfig,
    folder: Path,
) -> list[Figure]:
    """Draws all figures into a folder.

    Args:
        tables: the tables by name; the rows of those with overlays are the columns of the pictures.
        results: the results of the runs.
        datasets: by name.
        trained: the runs' networks, by the names of the runs.
        predictions: the folder of all runs' predictions.
        shown: what the figures of PointRend's masks show.
        folder: the folder of the PNG files.
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
    figures += _drawn_by_networks(columns, trained, shown, folder)
    figures += _accuracy_over_settings(results, folder)
    training_curves(results, folder / "training_curves.png")
    caption = "Total loss. PointRend's has one more term, the loss at its points."
    figures.append(Figure("Training curves", caption, "training_curves.png"))
    return figures


_LABELS = (
    "Below each image, enlarged, is its square with the most boundary pixels of the ground truth. Predictions are also "
    "drawn where the ground truth is ignored; no score counts them there."
)


def _mean_overlaps(objects: Sequence[FoundObject], captions: Sequence[str]) -> str:
    means = [sum(column) / len(objects) for column in zip(*(found.overlaps for found in objects), strict=True)]
    figures = ", ".join(f"{caption} {mean:.3f}" for caption, mean in zip(captions, means, strict=False))
    return (
        "The objects of each category whose boxes all columns have located best, whatever the masks are; enlarged, "
        f"with a line along the mask's edge. Mean mask IoU over all {len(objects)} objects that every column has "
        f"found: {figures}."
    )


def _drawn_by_networks(
    columns: Sequence[tuple[str, RunResult, str]],
    trained: Mapping[str, TrainedRun],
    shown: FiguresConfig,
    folder: Path,
) -> list[Figure]:
    """Subdivision and training points, drawn by the first compared run with PointRend of each dataset."""
    figures, datasets = [], set()
    for _, result, _ in columns:
        run = trained[result.run]
        if run.config.model.has_point_head and result.dataset not in datasets:
            datasets.add(result.dataset)
            if run.config.model.task == "instance":
                figures += draw_instance_figures(run, shown, folder)
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
