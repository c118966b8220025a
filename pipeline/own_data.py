"""The commands for somebody's own data: `pointrend train` and `pointrend data check`."""

import re
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from pipeline.cli import write_selection
from pipeline.config.code import code_folder
from pipeline.config.datasets import CocoDataset, DatasetConfig, HeldOut
from pipeline.config.locations import join
from pipeline.config.own import Data, Device, Weights, Wishes, config_files, model_name, settings, write_files
from pipeline.config.project import Project
from pipeline.config.reader import NAME
from pipeline.data.coco import DatasetError
from pipeline.data.cpus import usable_cpus
from pipeline.data.discover import Source, discover, remedies_for_names
from pipeline.data.manifest import PreparedDataset, read_prepared
from pipeline.data.prepare import expected_images, prepare
from pipeline.data.storage import Storage
from pipeline.data.survey import survey
from pipeline.dvc_process import repro
from pipeline.errors import UserError
from pipeline.graph import refuse_while_running
from pipeline.progress import progress
from pipeline.report.dataset_check import check_sheet, sheet_path, show_left_out, show_problems, show_sheet, show_survey
from pipeline.stage import enter_project, errors_as_messages, seen_from
from pointrend.runs import run_weights
from pointrend.specs import Orientation, Task
from pointrend.wording import counted
from pointrend.zoo import ZOO, address, fetch

data = typer.Typer(help="Look at a dataset before training.", no_args_is_help=True)

KNOWN_PICTURES = Path(".pointrend") / "known_pictures.parquet"
#: What a training starts from by default, by task and backbone: a name of --from.
STARTS = {
    ("instance", "tiny"): "shapes_detector",
    ("semantic", "tiny"): "streets_segmenter",
    ("instance", "r50"): "pointrend_rcnn_R_50_FPN_3x_coco",
    ("instance", "r101"): "pointrend_rcnn_R_101_FPN_3x_coco",
    ("instance", "x101"): "pointrend_rcnn_X_101_32x8d_FPN_3x_coco",
    ("semantic", "r101"): "imagenet",
}

DataArgument = Annotated[
    Path,
    typer.Option(
        "--data", help="an instances file in COCO's format, a folder of images and label PNGs, or a dataset's YAML"
    ),
]
ImagesOption = Annotated[Path | None, typer.Option(help="the folder of the instances file's images")]
ValOption = Annotated[Path | None, typer.Option(help="a second instances file, to measure on")]
ValImagesOption = Annotated[Path | None, typer.Option(help="the folder of its images")]
FinerValOption = Annotated[
    Path | None, typer.Option(help="an instances file of the same val images with finer masks, to measure AP* on")
]
ValShareOption = Annotated[
    float, typer.Option(help="share of images held out to measure on, where there is no val split")
]
SeedOption = Annotated[int, typer.Option(help="decides which images are held out")]
ClassesOption = Annotated[
    str | None,
    typer.Option(
        help="classes of label PNGs: NAME,NAME (ids from 0) or NAME=ID,...; default: classes.txt. Of an instances "
        "file: the categories to keep"
    ),
]
IgnoreOption = Annotated[str, typer.Option(help="label ids to ignore, with commas")]
OrientationOption = Annotated[
    Orientation | None,
    typer.Option(help="annotations are of pictures as stored, or turned by EXIF; by default as their sizes tell"),
]
DropOption = Annotated[bool, typer.Option("--drop-invalid", help="leave out unusable annotations")]
DataRootOption = Annotated[str, typer.Option(help="folder or URI that the root in a dataset's YAML is relative to")]


def _source(
    data: Path,
    images: Path | None,
    val: Path | None,
    val_images: Path | None,
    finer_val: Path | None,
    val_share: float,
    seed: int,
    classes: str | None,
    ignore: str,
    drop_invalid: bool,
    orientation: Orientation | None,
) -> Source:
    if not 0 < val_share < 1:
        raise UserError(f"--val-share {val_share:g}: expected a share between 0 and 1, such as 0.2")
    names = tuple(name.strip() for name in classes.split(",")) if classes else ()
    try:
        ignored = tuple(int(number) for number in ignore.split(",") if number.strip())
    except ValueError as error:
        raise UserError(f"--ignore {ignore}: expected label ids with commas between them") from error
    options = (val_share, seed, names, ignored, drop_invalid, orientation, finer_val)
    return Source(data, images, val, val_images, *options)


@contextmanager
def prepared_dataset(dataset: DatasetConfig, data_root: str) -> Iterator[PreparedDataset]:
    """The dataset as `prepare` writes it, in a temporary folder, with the same errors.

    Raises:
        DatasetError: as :func:`prepare`.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "prepared"
        bar = progress("check the data", expected_images(dataset))
        prepare(dataset, data_root, output, KNOWN_PICTURES.absolute(), bar)
        yield read_prepared(output)


@data.command()
@errors_as_messages()
def check(
    data: DataArgument,
    images: ImagesOption = None,
    val: ValOption = None,
    val_images: ValImagesOption = None,
    finer_val: FinerValOption = None,
    val_share: ValShareOption = 0.2,
    seed: SeedOption = 0,
    classes: ClassesOption = None,
    ignore: IgnoreOption = "255",
    drop_invalid: DropOption = False,
    orientation: OrientationOption = None,
    data_root: DataRootOption = "data",
    sheet: Annotated[
        Path | None, typer.Option(help="the contact sheet: .webp or .png; default: reports/contact_sheet_NAME.webp")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="list every class, and every problem instead of two")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace any file that --sheet names")] = False,
) -> None:
    """Show what is in a dataset: the errors of `prepare`, counts by class, odd annotations, and a contact sheet.

    The exit status is 1 if there are errors; warnings do not change it.
    """
    console = Console(highlight=False)
    given = (data, images, val, val_images, finer_val)
    source = _source(*given, val_share, seed, classes, ignore, drop_invalid, orientation)
    sheet = sheet or sheet_path(data)
    check_sheet(sheet, data, overwrite=overwrite)
    dataset = discover(source)
    storage = Storage(join(data_root, dataset.root))
    where, errors, warnings, dropped = _look(console, dataset, data_root, storage, sheet, data, every=every)
    splits = [split for split in (dataset.train, dataset.val) if not isinstance(split, HeldOut)]
    below = [*(storage.where(split.images) for split in splits if len(splits) == 1), storage.where()]
    for label, messages in (("left out", dropped), ("warning", warnings), ("error", errors)):
        remedies = remedies_for_names(dataset) if label == "error" and messages else {}
        show_problems(console, label, messages, below, remedies, every=every)
    if errors:
        console.print(f"{where}: refused, {counted(len(errors), 'error')}", markup=False, soft_wrap=True)
        raise typer.Exit(1)


def _look(
    console: Console, dataset: DatasetConfig, data_root: str, storage: Storage, sheet: Path, data: Path, *, every: bool
) -> tuple[str, list[str], Sequence[str], list[str]]:
    """Shows a dataset as far as it can be read.

    Returns:
        where the errors are, the errors, the warnings, and messages about annotations that are left out.
    """
    where, errors = str(data), list[str]()
    attempts = [dataset]
    if isinstance(dataset, CocoDataset) and dataset.invalid_annotations == "error":
        # Where only annotations are unusable, all else can be shown without them.
        attempts.append(dataset.model_copy(update={"invalid_annotations": "drop"}))
    for attempt in attempts:
        try:
            with prepared_dataset(attempt, data_root) as prepared:
                found = survey(prepared, storage)
                show_survey(console, found, every=every)
                show_sheet(console, prepared, storage, sheet, data)
                dropped = prepared.left_out if attempt is dataset else []
                return where, errors, [*prepared.picture_notes, *found.odd], dropped
        except DatasetError as error:
            if not errors:
                where, errors = str(error.where), error.problems
    return where, errors, [], []


def measure(prepared: PreparedDataset) -> Data:
    """What the settings of a training depend on."""
    rows, val_images = prepared.manifest("train").to_pylist(), prepared.manifest("val").num_rows
    edges = [sorted((row["height"], row["width"])) for row in rows]
    shorter, longer = (round(statistics.median(edge[i] for edge in edges)) for i in (0, 1))
    if prepared.task == "semantic":
        return Data("semantic", len(rows), shorter, longer, val_images=val_images)
    counts = [count for row in rows if (count := sum(not a["iscrowd"] for a in row["annotations"]))]
    sides = [a["area"] ** 0.5 for row in rows for a in row["annotations"] if not a["iscrowd"]]
    objects = max(counts), statistics.mean(counts), statistics.median(sides)
    return Data("instance", len(rows), shorter, longer, *objects, val_images)


def find_device(project: Project, cluster: str | None) -> Device:
    """The device of this machine, or of the cluster that is named."""
    if cluster is not None:
        chosen = project.cluster(cluster)
        # The memory of a cluster's GPUs is not known here; most have more.
        return Device(16.0 if chosen.gpus_per_worker else None, chosen.cpus_per_worker, assumed=True)
    import torch  # takes a second to import

    memory = torch.cuda.get_device_properties(0).total_memory / 1e9 if torch.cuda.is_available() else None
    return Device(memory, usable_cpus())


def find_weights(project: Project, source: str, task: Task, backbone: str) -> Weights:
    """The weights that ``--from`` names.

    Raises:
        UserError: if there are none of that name, or they cannot be read.
    """
    if source == "scratch":
        return Weights()
    if source == "imagenet":
        if backbone.startswith("tiny"):
            raise UserError(f"--from imagenet: there are no ImageNet weights for backbone {backbone}; take scratch")
        return Weights(imagenet=True, norm="frozen_batch")
    packages = code_folder(project.root)
    shipped = packages / "pipeline" / "synthetic" / "weights"
    file = Path(source)
    if (own := shipped / f"{source}.safetensors").is_file():
        file = own.relative_to(packages)
    elif source in ZOO:
        try:
            file = fetch(str(address(source)))
        except (OSError, ValueError) as error:
            raise UserError(f"--from {source}: {error}; name a file, or take imagenet or scratch") from error
    elif not file.is_file():
        try:
            of_run = run_weights(source, project.root)
        except ValueError as error:
            raise UserError(f"--from {error}") from error
        if of_run is None:
            names = [path.stem for path in sorted(shipped.glob("*.safetensors"))]
            raise UserError(
                f"--from {source}: no such file or run; expected one of these, scratch, imagenet, or one of "
                f"{', '.join([*names, *ZOO])}"
            )
        file = of_run.relative_to(project.root)
    elif not file.resolve().is_relative_to(project.root.resolve()):
        file = file.resolve()
    from pipeline.training.starting_weights import backbone_source  # imports torch
    from pointrend.weights import read_state_dict

    try:
        state = read_state_dict(project.weights_file(str(file)))
        source = backbone_source(project.weights_file(str(file)))
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from error
    norm = "frozen_batch" if any(name.endswith("running_mean") for name in state) else "group"
    return Weights(str(file), norm, source=source)


def check_start(project: Project, weights: Weights, network: str, names: list[str]) -> str:
    """What a training keeps of its weights; raises UserError if they do not fit the network."""
    if weights.file is None:
        return "ImageNet" if weights.imagenet else "scratch"
    from pipeline.training.starting_weights import fine_tune  # imports torch
    from pointrend.registry import build_model

    model = build_model(network, num_classes=len(names), norm=weights.norm)  # type: ignore[arg-type]
    found = fine_tune(model, project.weights_file(weights.file), network, names)
    # The training prints the names of the tensors as it starts.
    parts = {
        "kept": found.kept,
        "redrawn, because they predict classes": found.redrawn,
        "redrawn in part, for the coarse prediction of the classes": found.adapted,
        "new, because the file does not have them in this shape": found.absent,
    }
    kept = [f"{counted(len(tensors), 'tensor')} {what}" for what, tensors in parts.items() if tensors]
    return "\n  ".join([weights.file, *kept])


@errors_as_messages()
def train(
    data: DataArgument,
    images: ImagesOption = None,
    val: ValOption = None,
    val_images: ValImagesOption = None,
    finer_val: FinerValOption = None,
    val_share: ValShareOption = 0.2,
    seed: SeedOption = 0,
    classes: ClassesOption = None,
    ignore: IgnoreOption = "255",
    drop_invalid: DropOption = False,
    orientation: OrientationOption = None,
    data_root: Annotated[str | None, typer.Option(help="as for `data check`; by default data in the project")] = None,
    name: Annotated[str, typer.Option(help="of the scale, and of its files in configs/")] = "mine",
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="a file of weights, a run of this project, a shipped one, a name of the zoo, imagenet, scratch",
        ),
    ] = None,
    head: Annotated[
        Literal["pointrend", "4xconv", "dense"], typer.Option(help="4xconv is for instances, dense for label PNGs")
    ] = "pointrend",
    backbone: Annotated[str | None, typer.Option(help="tiny, r50, r101, ...; by default tiny without a GPU")] = None,
    updates: Annotated[int | None, typer.Option(min=1, help="by default 15 epochs, at least 500")] = None,
    image_size: Annotated[
        int | None, typer.Option(min=64, help="shorter edge in pixels of images; of crops for label PNGs")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="images per update")] = None,
    validate_every: Annotated[
        int | None,
        typer.Option(min=0, help="updates between validations; by default ten, fewer for a large val split; 0: none"),
    ] = None,
    stop_early: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="end after so many validations without a better score; learning rates stay those of the full length",
        ),
    ] = None,
    negatives: Annotated[bool, typer.Option("--negatives", help="train on images without objects as well")] = False,
    cluster: Annotated[
        str | None, typer.Option(help="a file of configs/clusters; by default this machine, whole")
    ] = None,
    run: Annotated[
        bool, typer.Option("--run/--no-run", help="run it, or write and select its configuration only")
    ] = True,
) -> None:
    """Train on your own data: write its configuration as a scale, select it, and run `dvc repro`."""
    here, project = Path.cwd(), enter_project()
    data = Path(seen_from(project.root, here, str(data)))
    images, val, val_images, finer_val = (
        path and Path(seen_from(project.root, here, str(path))) for path in (images, val, val_images, finer_val)
    )
    data_root = "data" if data_root is None else seen_from(project.root, here, data_root)
    if start is not None and (here / start).is_file():
        start = seen_from(project.root, here, start)
    refuse_while_running(project.root)
    if not re.fullmatch(NAME, name):
        raise UserError(f"--name {name}: expected letters without accents, digits and _, as in photos_2026")
    if (others := project.experiment_names(name)) and name not in others:
        raise UserError(
            f"--name {name}: configs/experiments/{name} is a scale with other experiments ({', '.join(others[:3])}"
            f"{', ...' if len(others) > 3 else ''}); choose another name"
        )
    given = (data, images, val, val_images, finer_val)
    source = _source(*given, val_share, seed, classes, ignore, drop_invalid, orientation)
    dataset = discover(source)
    with prepared_dataset(dataset, data_root) as prepared:
        size = measure(prepared)
        counts = [prepared.manifest(split).num_rows for split in ("train", "val")]
        names, notes = prepared.class_names, prepared.picture_notes
        show_left_out(Console(highlight=False), prepared)
    device = find_device(project, cluster)
    backbone = backbone or ("tiny" if not device.gpu_gigabytes else "r50" if size.task == "instance" else "r101")
    network = model_name(size.task, backbone, head)
    weights = find_weights(project, start or STARTS.get((size.task, backbone), "scratch"), size.task, backbone)
    wishes = Wishes(head, backbone, updates, image_size, batch, negatives, validate_every, stop_early)
    found = settings(name, size, device, weights, wishes)
    if cluster is not None:
        del found["clusters"]
    table = Table(box=None, pad_edge=False, show_header=False)
    held = f" (a share of {dataset.val.share:g}, seed {dataset.val.seed})" if isinstance(dataset.val, HeldOut) else ""
    table.add_row("data", f"{counted(counts[0], 'image')} to train on, {counts[1]} to measure on{held}")
    for note in notes:
        table.add_row("pictures", note)
    table.add_row("classes", f"{len(names)}: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}")
    table.add_row("device", device.text)
    table.add_row("model", f"{network} (--backbone, --head)")
    table.add_row("starts from", check_start(project, weights, network, names) + " (--from)")
    model, schedule = found["models"], found["schedules"]
    edge = f"shorter edge {model['test_min_size']}" if size.task == "instance" else f"crops of {model['crop_size']}"
    table.add_row("image size", f"{edge} pixels (--image-size)")
    total = sum(part["updates"] for part in schedule.get("phases", [schedule.get("poly")]))
    epochs = round(total * schedule["batch_size"] / counts[0])
    table.add_row(
        "schedule",
        f"{counted(total, 'update')} of {counted(schedule['batch_size'], 'image')}, "
        f"{counted(epochs, 'epoch') if epochs else 'less than an epoch'} (--updates, --batch)",
    )
    every, patience = schedule.get("validate_every"), schedule.get("stop_early")
    stop = f", stops after {patience} without a better score (--stop-early)" if patience else ""
    table.add_row(
        "validation",
        f"every {counted(every, 'update')} on {counted(counts[1], 'image')} (--validate-every){stop}"
        if every
        else "none (--validate-every)",
    )
    Console(highlight=False).print(table)
    files = config_files(project, name, dataset, found)
    if write_files(files):
        for path in files:
            typer.echo(f"wrote {path.relative_to(project.root)}")
    else:
        typer.echo(f"scale {name} has these settings already, and goes on")
    write_selection(project, name, data_root, cluster or name)
    if not run:
        typer.echo("`dvc repro` trains it.")
        return
    if status := repro():
        raise typer.Exit(status)
    # matplotlib and torch, which the report imports, take seconds
    from pipeline.report.own_result import show_result

    show_result(Console(highlight=False), project, name)
