"""The ``pointrend`` command. Installed extensions add theirs under the entry point group "pointrend.commands"."""

import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from pointrend.specs import MODELS, list_models

app = typer.Typer(help="PointRend: image segmentation as rendering.", no_args_is_help=True, add_completion=False)


@app.command()
def models() -> None:
    """List the models that can be built by name."""
    table = Table(Column("model", no_wrap=True), "backbone", "mask head", "classes", "input")
    for name in list_models():
        spec = MODELS[name]
        table.add_row(
            name, spec.backbone, spec.mask_head, str(spec.num_classes), f"{spec.min_size} to {spec.max_size} px"
        )
    Console().print(table)


@app.command()
def predict(
    image: Annotated[Path, typer.Argument(help="a picture file")],
    weights: Annotated[Path, typer.Option(help="trained weights: .safetensors, .pt or .pth")],
    model: Annotated[str, typer.Option(help="see `pointrend models`")] = "pointrend_rcnn_r50_fpn_coco",
    output: Annotated[Path, typer.Option(help="the overlay to write")] = Path("prediction.png"),
    num_classes: Annotated[int | None, typer.Option(help="if other than the model's own")] = None,
    min_size: Annotated[int | None, typer.Option(help="shorter edge the image is resized to")] = None,
    score: Annotated[float, typer.Option(help="show objects from this score on")] = 0.5,
) -> None:
    """Segment a picture and write it with the masks drawn on."""
    # Imported here: the other commands answer without loading torch.
    import torch

    from pointrend.drawing import check_picture_format, draw_masks, read_picture, write_picture
    from pointrend.registry import build_model
    from pointrend.weights import load_weights

    try:
        check_picture_format(output)
        network = build_model(model, num_classes=num_classes, min_size=min_size).eval()
        load_weights(network, weights)
        picture = read_picture(image, upright=True)
        with torch.inference_mode():
            found = network([picture])[0]
        chosen = found["scores"] >= score
        write_picture(draw_masks(picture, found["masks"][chosen, 0] >= 0.5), output)
    except (OSError, ValueError) as error:
        Console(stderr=True, highlight=False).print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
    typer.echo(f"{output}: {int(chosen.sum())} objects of score {score:g} or more")


def add_installed_commands() -> None:
    """Adds the commands of the entry point group; one whose requirements are not installed is left out."""
    for entry in sorted(entry_points(group="pointrend.commands"), key=lambda entry: entry.name):
        try:
            command = entry.load()
        except ModuleNotFoundError as error:
            if error.name is not None and error.name.partition(".")[0] in ("pipeline", "pointrend"):
                raise
            continue
        app.command(entry.name)(command)


def main() -> None:
    """The entry point of the ``pointrend`` command."""
    add_installed_commands()
    app()
