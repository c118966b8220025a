"""What `pointrend data check` shows: counts, problems by kind with their remedies, and a contact sheet."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Column, Table

from pipeline.data import problems
from pipeline.data.manifest import PreparedDataset
from pipeline.data.storage import Storage
from pipeline.data.survey import Survey
from pipeline.errors import UserError
from pipeline.files import atomic_file

FEW, CLASSES = 8, 5  # more classes than a few are shown as this many rows, unless all are asked for
FORMATS: dict[str, dict[str, Any]] = {".webp": {"quality": 88, "method": 4}, ".png": {"optimize": True}}
PROGRAM = "pointrend data check"
#: EXIF's numbers of "Software" and "ImageDescription": who wrote a contact sheet, and of which dataset.
SOFTWARE, DESCRIPTION = 0x0131, 0x010E


def sheet_path(data: Path) -> Path:
    """The default name of a dataset's contact sheet, below ``reports``."""
    data = data.resolve()
    names = [data.name] if data.is_dir() else [data.parent.name, data.stem]
    if data.parent.name == "annotations":  # COCO's folder, of any dataset
        names[0] = data.parent.parent.name
    if data.suffix in (".yaml", ".yml"):
        names = [data.stem]
    name = "_".join(re.sub(r"[^\w-]+", "_", part).strip("_") for part in names)
    return Path("reports") / f"contact_sheet_{name}.webp"


def check_sheet(path: Path, data: Path, *, overwrite: bool) -> None:
    """Refuses a contact sheet that could not be written, or that would take the place of another file.

    Raises:
        UserError: for another suffix, or if there is a file that is not an earlier contact sheet of the same dataset.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"--sheet {path}: expected a name that ends in .webp or .png")
    if path.is_dir():
        raise UserError(f"--sheet {path}: is a folder; name a file")
    if overwrite or not path.exists() or _described(path) == str(data.resolve()):
        return
    what = "a contact sheet of other data" if _described(path) else "a file that `data check` did not write"
    raise UserError(f"--sheet {path}: is there already, {what}; name another file, or add --overwrite")


def _described(path: Path) -> str:
    """The dataset of an earlier contact sheet; empty for any other file."""
    try:
        with Image.open(path) as picture:
            exif = picture.getexif()
    except (OSError, SyntaxError):
        return ""
    return str(exif.get(DESCRIPTION, "")) if exif.get(SOFTWARE) == PROGRAM else ""


def write_sheet(picture: Image.Image, path: Path, data: Path) -> None:
    """Writes a contact sheet, with a note of whose it is, whole or not at all."""
    exif = Image.Exif()
    exif[SOFTWARE], exif[DESCRIPTION] = PROGRAM, str(data.resolve())
    with atomic_file(path, "wb") as stream:
        picture.save(stream, format=path.suffix.removeprefix("."), exif=exif.tobytes(), **FORMATS[path.suffix])


def show_survey(console: Console, found: Survey, *, every: bool) -> None:
    """Prints what is counted; of many classes, those that are in the most images or have the most objects."""
    _print_table(console, "split", found.splits)
    classes = dict(found.classes)
    if len(classes) > FEW and not every:
        most = sorted(classes, key=lambda name: -_amount(classes[name]))[:CLASSES]
        classes = {name: row for name, row in classes.items() if name in most}
    _print_table(console, "class", classes)
    if left := [name for name in found.classes if name not in classes]:
        none = sum(_amount(found.classes[name]) == 0 for name in left)
        console.print(f"and {len(left)} more classes with less, {none} of them with nothing; --all lists them")


def show_contents(console: Console, prepared: PreparedDataset) -> None:
    """Prints what a prepared dataset teaches, what was left out of it, and what looks wrong."""
    splits = prepared.summary["splits"]
    total = {split: {key: f"{n:,}" for key, n in of.items() if isinstance(n, int)} for split, of in splits.items()}
    for split, of in splits.items():
        total[split].pop("annotations", None)
        if "pixels" in of:
            del total[split]["pixels"]
            total[split]["ignored_pixels"] = f"{100 * of['ignored_pixels'] / max(1, of['pixels']):.1f}%"
    classes: dict[str, dict[str, str]] = {}
    for name in prepared.class_names:
        counts = {split: of["classes"][name] for split, of in splits.items()}
        classes[name] = {f"{split} {key}": f"{n:,}" for split, of in counts.items() for key, n in of.items()}
        if prepared.task == "semantic":
            for split, of in splits.items():
                share = of["classes"][name]["pixels"] / max(1, of["pixels"] - of["ignored_pixels"])
                classes[name][f"{split} pixels"] = f"{100 * share:.1f}%"
    _print_table(console, "split", {s: {key.replace("_", " "): n for key, n in of.items()} for s, of in total.items()})
    shown = sorted(classes, key=lambda name: -_of_class(prepared, name))[: FEW if len(classes) <= FEW else CLASSES]
    empty = [key for key in classes[shown[0]] if all(of[key] == "0" for of in classes.values())]
    _print_table(
        console,
        "class",
        {name: {key: n for key, n in of.items() if key not in empty} for name, of in classes.items() if name in shown},
    )
    if len(classes) > len(shown):
        console.print(f"and {len(classes) - len(shown)} more classes with less, in dataset.json")
    show_left_out(console, prepared)


def _of_class(prepared: PreparedDataset, name: str) -> int:
    """How many objects or pixels there are of a class."""
    counts = [of["classes"][name] for of in prepared.summary["splits"].values()]
    return sum(of.get("objects", of.get("pixels", 0)) for of in counts)


def show_left_out(console: Console, prepared: PreparedDataset) -> None:
    """Prints what was left out of a prepared dataset, and what looks wrong in it."""
    for label, messages in (("left out", prepared.left_out), ("warning", prepared.warnings)):
        show_problems(console, label, messages, [], {}, every=False)


def _amount(row: Mapping[str, str]) -> float:
    """How much there is of a class: objects, or images of it."""
    return sum(float(row.get(key, "0")) for key in ("train", "val", "train images", "val images"))


def _print_table(console: Console, first: str, rows: Mapping[str, Mapping[str, str]]) -> None:
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    table = Table(first, *(Column(name, justify="right") for name in names), box=None, pad_edge=False)
    for key, row in rows.items():
        table.add_row(key, *(row.get(name, "") for name in names))
    console.print(table)


def show_problems(
    console: Console,
    label: str,
    messages: Sequence[str],
    below: Sequence[str],
    remedies: Mapping[str, str],
    *,
    every: bool,
) -> None:
    """Prints problems by kind, wrapped on a terminal only, so that what is piped has one line for each thing."""
    text = problems.lines(
        messages,
        label,
        below=below,
        remedies=remedies,
        width=console.width if console.is_terminal else None,
        every=every,
    )
    for line in text:
        console.print(line, markup=False, soft_wrap=True)


def show_sheet(console: Console, prepared: PreparedDataset, storage: Storage, path: Path, data: Path) -> None:
    """Draws and writes the contact sheet, and says where it is."""
    from pipeline.report.figures.contact_sheet import contact_sheet  # matplotlib takes a second to import

    write_sheet(contact_sheet(prepared, storage), path, data)
    console.print(f"contact sheet: {path}", markup=False, soft_wrap=True)
