"""The ``pointrend`` command. Other packages add commands with the entry point group "pointrend.commands"."""

import json
import sys
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from pointrend import __version__
from pointrend.specs import MODELS, PAPER_RENDERING, InstanceSpec, Rendering, list_models
from pointrend.wording import counted

app = typer.Typer(
    help="PointRend: image segmentation as rendering.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"pointrend {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="show the version and exit", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """PointRend: image segmentation as rendering."""


# Of weights that do not say what they are. Those of this library's files can be overridden too.
ModelOption = Annotated[str | None, typer.Option(help="see `pointrend models`; default: what the weights say")]
ClassesOption = Annotated[int | None, typer.Option(help="number of classes, where the weights do not say it")]
NormOption = Annotated[str | None, typer.Option(help="the backbone's: frozen_batch, batch or group")]
MinSizeOption = Annotated[int | None, typer.Option(help="shorter edge in pixels that images are resized to")]
MaxSizeOption = Annotated[int | None, typer.Option(help="upper limit of the longer edge in pixels")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="replace the file to write, if it is there")]


@app.command()
def models() -> None:
    """List the models that can be built by name."""
    # Every row fits one line of a terminal with 80 columns.
    table = Table(
        *(Column(name, no_wrap=True) for name in ("model", "backbone", "head", "classes", "input")),
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in list_models():
        spec = MODELS[name]
        if isinstance(spec, InstanceSpec):
            head, size = str(spec.mask_head), f"{spec.min_size}–{spec.max_size} px"
        else:
            head, size = "pointrend" if spec.has_pointrend else "dense", "any"
        table.add_row(name, spec.backbone, head, str(spec.num_classes), size)
    Console().print(table)


def fail(error: object) -> NoReturn:
    """Prints an error and exits with status 1."""
    Console(stderr=True, highlight=False).print(f"error: {error}", style="red", markup=False, soft_wrap=True)
    sys.exit(1)


def _check_output(output: Path, overwrite: bool, *inputs: str | Path) -> None:
    """Raises ValueError if the file to write is one of the files to read, or is there and ``overwrite`` is off."""
    for source in map(Path, inputs):
        if output.exists() and source.exists() and output.samefile(source):
            raise ValueError(f"{output}: is a file to read and the file to write; name another file to write")
    if output.is_dir():
        raise ValueError(f"{output}: is a folder; name a file to write")
    if output.exists() and not overwrite:
        raise ValueError(f"{output}: is there already; name another file, or add --overwrite")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="a Detectron2 or torchvision checkpoint: a file, a URL or a zoo name")],
    output: Annotated[Path, typer.Argument(help="the .safetensors file to write")],
    model: ModelOption = None,
    num_classes: ClassesOption = None,
    norm: NormOption = None,
    min_size: MinSizeOption = None,
    max_size: MaxSizeOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Rewrite a checkpoint as a safetensors file that says which model it is for."""
    from pointrend.weights import convert_weights

    try:
        _check_output(output, overwrite, source)
        options = {"num_classes": num_classes, "norm": norm, "min_size": min_size, "max_size": max_size}
        written = convert_weights(source, output, model, **options)
    except (OSError, ValueError) as error:
        fail(error)
    typer.echo(f"{output}: {written.model}, {counted(written.spec.num_classes, 'class')}")


@app.command()
def complexity(
    model: Annotated[str, typer.Option(help="an instance model, whose channels are counted")] = (
        "pointrend_rcnn_r50_fpn_coco"
    ),
    num_classes: Annotated[int | None, typer.Option(help="number of classes; by default the model's own")] = None,
    resolution: Annotated[int, typer.Option(help="side of PointRend's masks in cells")] = PAPER_RENDERING.resolution,
    num_points: Annotated[int, typer.Option(help="most points per subdivision step")] = PAPER_RENDERING.num_points,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Multiply-adds and activations of the mask heads for one region (Table 2 of the paper)."""
    from pointrend.complexity import compare_heads

    try:
        if model not in list_models("instance"):
            raise ValueError(f"unknown instance model {model!r}, expected one of {', '.join(list_models('instance'))}")
        spec = MODELS[model]
        assert isinstance(spec, InstanceSpec)
        classes = spec.num_classes if num_classes is None else num_classes
        rows = compare_heads(spec, classes, Rendering(resolution, num_points))
    except ValueError as error:
        fail(error)
    if as_json:
        counted = [{"mask_head": row.mask_head, "resolution": row.resolution, **row.cost._asdict()} for row in rows]
        typer.echo(json.dumps({"model": model, "num_classes": classes, "rows": counted}))
        return
    figures = [Column(name, justify="right") for name in ("multiply-adds", "activations")]
    table = Table("mask head", "output", *figures)
    for mask_head, side, cost in rows:
        table.add_row(mask_head, f"{side}x{side}", f"{cost.multiply_adds / 1e9:.2g}B", f"{cost.activations / 1e6:.2g}M")
    Console().print(table)


@app.command()
def predict(
    images: Annotated[list[str], typer.Argument(help="files, folders, patterns in quotes, or - for a list on stdin")],
    weights: Annotated[str, typer.Option(help="a file, a run of this project, a zoo name or a URL")],
    out: Annotated[Path, typer.Option(help="the folder to write")] = Path("predictions"),
    save: Annotated[str, typer.Option(help="what to write: overlays, json, labels, cutouts")] = "overlays,json",
    classes: Annotated[str | None, typer.Option(help="names of the classes to show, with commas between them")] = None,
    score: Annotated[
        float | None,
        typer.Option(
            help="show objects with at least this score; by default the one with the best F1 of a run, or 0.5",
            min=0,
            max=1,
            show_default=False,
        ),
    ] = None,
    resolution: Annotated[int | None, typer.Option(help="side of an object's mask: 28, 56, 112, 224, 448, ...")] = None,
    points: Annotated[int | None, typer.Option(help="most points that a subdivision step predicts", min=1)] = None,
    show_points: Annotated[bool, typer.Option("--show-points", help="draw the subdivision, step by step")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    batch: Annotated[int, typer.Option(help="images of one size that are computed together", min=1)] = 1,
    half: Annotated[bool, typer.Option("--half", help="half precision")] = False,
    bits: Annotated[int | None, typer.Option(help="bits in use of 16-bit images", min=9, max=16)] = None,
    tile: Annotated[
        int | None,
        typer.Option(help="side of semantic models' tiles in pixels; default: 2048, above 16 million pixels"),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="write into a folder that has files, in place of what was predicted there"),
    ] = False,
    model: ModelOption = None,
    num_classes: ClassesOption = None,
    norm: NormOption = None,
    min_size: MinSizeOption = None,
    max_size: MaxSizeOption = None,
) -> None:
    """Segment images, and write them with the masks drawn onto them, and as COCO JSON, label PNGs or cut-outs."""
    from pointrend.predict_command import Request, run_predict

    request = Request(
        images, weights, out, save, classes, score, resolution, points, show_points, device, batch, half, bits,
        tile, overwrite, model, {"num_classes": num_classes, "norm": norm, "min_size": min_size, "max_size": max_size},
    )  # fmt: skip
    try:
        failed = run_predict(request)
    except (OSError, ValueError) as error:
        fail(error)
    if failed:
        sys.exit(1)


@app.command()
def export(
    weights: Annotated[str, typer.Argument(help="a file, a run of this project, a zoo name or a URL")],
    output: Annotated[Path, typer.Argument(help="the file to write: .onnx, or .pt2 for torch.export")],
    model: ModelOption = None,
    num_classes: ClassesOption = None,
    norm: NormOption = None,
    min_size: MinSizeOption = None,
    max_size: MaxSizeOption = None,
    bits: Annotated[int | None, typer.Option(help="bits in use of 16-bit images", min=9, max=16)] = None,
    paste: Annotated[bool, typer.Option(help="output masks of the whole image, not of their boxes")] = False,
    check: Annotated[
        list[Path] | None, typer.Option(help="an image on which the graph must agree with the model; repeatable")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a model as a graph for onnxruntime or torch.export, for images of any size."""
    from pointrend.export import export_model
    from pointrend.image_files import read_image
    from pointrend.regions import to_tensor
    from pointrend.runs import find_weights, why_best
    from pointrend.weights import load_model

    try:
        _check_output(output, overwrite, weights, *(check or []))
        options = {"num_classes": num_classes, "norm": norm, "min_size": min_size, "max_size": max_size}
        source, _ = find_weights(weights)
        network = load_model(source, model, **options)
        values = network.metadata.pixel_range if network.metadata else None
        pictures = [to_tensor(read_image(path, bits=bits, pixel_range=values).pixels) for path in check or []]
        agreements = export_model(network, output, paste=paste, images=pictures)
    except (OSError, ValueError) as error:
        fail(error)
    if (why := why_best(source)) is not None:
        typer.echo(why)
    for path, agreement in zip(check or [], agreements, strict=True):
        typer.echo(f"{path}: " + ", ".join(f"{name} {value:.6g}" for name, value in agreement.items()))
    typer.echo(f"{output}: {output.stat().st_size / 2**20:.0f} MiB")


@app.command()
def ui(
    weights: Annotated[str | None, typer.Option(help="a file, a run of this project, a zoo name or a URL")] = None,
    port: Annotated[int, typer.Option(help="of 127.0.0.1; 0 for any that is free", min=0, max=65535)] = 7860,
    open_browser: Annotated[bool, typer.Option("--open", help="open the page in the browser")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    bits: Annotated[int | None, typer.Option(help="bits in use of 16-bit images", min=9, max=16)] = None,
    model: ModelOption = None,
    num_classes: ClassesOption = None,
    norm: NormOption = None,
    min_size: MinSizeOption = None,
    max_size: MaxSizeOption = None,
) -> None:
    """Show in a local page how PointRend refines masks, with the runs of this project or any weights."""
    from pointrend.ui.command import run_ui

    options = {"num_classes": num_classes, "norm": norm, "min_size": min_size, "max_size": max_size}
    try:
        run_ui(weights, model, options, port=port, open_browser=open_browser, device=device, bits=bits)
    except (OSError, ValueError) as error:
        fail(error)


def add_installed_commands() -> None:
    """Adds the commands of the entry point group: functions, or groups of commands (Typer apps).

    A command whose requirements are not installed says which extra has them.
    """
    for entry in sorted(entry_points(group="pointrend.commands"), key=lambda entry: entry.name):
        try:
            command = entry.load()
        except ModuleNotFoundError as error:
            if error.name is not None and error.name.partition(".")[0] in ("pipeline", "pointrend"):
                raise
            _add_missing_command(entry.name, ",".join(entry.extras), str(error.name))
        else:
            _add_command(entry.name, command)


def _add_command(name: str, command: Any) -> None:
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=name)
    else:
        app.command(name)(command)


def _add_missing_command(name: str, extra: str, module: str) -> None:
    """Adds a command that says what to install, whatever its arguments are."""
    install = f"pip install 'pointrend[{extra}]'"

    def command() -> None:
        fail(f"pointrend {name} needs {module}, which is not installed: {install}")

    app.command(
        name,
        help="",
        rich_help_panel=f"Not installed: {escape(install)}",
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(command)


def expand_home(argument: str) -> str:
    """An argument such as ``--out=~/x`` with the home folder in it: shells expand ``~`` only where a word begins."""
    option, _, value = argument.partition("=")
    if option.startswith("--") and value.startswith("~"):
        with suppress(RuntimeError):  # no such user, or one without a home: it stays as it is
            return f"{option}={Path(value).expanduser()}"
    return argument


def main() -> None:
    """The entry point of the ``pointrend`` command."""
    sys.argv[1:] = map(expand_home, sys.argv[1:])
    add_installed_commands()
    app()
