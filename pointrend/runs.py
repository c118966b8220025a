"""Finds weights by what a user calls them; those of a run of this project by its name, from files alone."""

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from pointrend.zoo import ZOO_MODELS, address

CHECKOUT = ("dvc.yaml", "configs/experiments")  # what the root of a checkout has
SUFFIXES = (".safetensors", ".pth", ".pt", ".pkl")
LISTED = 12  # names in a message

BEST = "best.safetensors"
#: The least score of an object that is shown, where no run tells a better one.
USUAL_SCORE = 0.5


def find_checkout(folder: Path) -> Path | None:
    """The checkout that a folder lies in, as git finds its own: the folder itself or the nearest one above it."""
    folder = folder.absolute()
    return next((root for root in (folder, *folder.parents) if all((root / each).exists() for each in CHECKOUT)), None)


def run_weights(name: str, root: Path) -> Path | None:
    """The weights of a run such as ``coco_pointrend_r50-0`` in a checkout; None if there is no run of that name.

    These are the best ones on the val images where the run was validated while it trained, or else the last ones.

    Args:
        name: the run, or ``scale/run`` where scales share a run's name.
        root: the checkout's folder.

    Raises:
        ValueError: if several scales have a run of that name.
    """
    scale, _, run = name.rpartition("/")
    if not run or "/" in scale or set(name) & set("*?[") or run in (".", ".."):
        return None
    found = sorted(root.glob(f"outputs/{scale or '*'}/train/{run}/model.safetensors"))
    if len(found) > 1:
        choices = ", ".join(f"{path.parents[2].name}/{run}" for path in found)
        raise ValueError(f"{name}: several scales have such a run; choose from {choices}")
    return _best(found[0]) if found else None


def _best(last: Path) -> Path:
    """The best weights of a run where it kept them; else the last ones, which are given."""
    best = last.with_name(BEST)
    return best if best.is_file() else last


def why_best(source: str | Path) -> str | None:
    """What to tell a user of a run's best weights, or None if they are others."""
    path = Path(source)
    if path.name != BEST:
        return None
    try:
        best = json.loads((path.parent / "train.json").read_text(encoding="utf-8"))["best"]
        return f"{path}: the weights after update {best['update']}, which scored best on the val images"
    except (OSError, ValueError, KeyError, TypeError):
        return None


def all_runs(root: Path) -> dict[str, Path]:
    """The weights of every run of a checkout by the run's name; ``scale/run`` where several scales have one."""
    found = sorted(root.glob("outputs/*/train/*/model.safetensors"))
    runs = Counter(path.parent.name for path in found)
    names = {path: path.parent.name for path in found}
    return {name if runs[name] == 1 else f"{path.parents[2].name}/{name}": _best(path) for path, name in names.items()}


def drawn_images(weights: Path, dataset: str, count: int) -> list[Path]:
    """Some drawn val images of the dataset that a run was trained on; none if its images were not drawn."""
    folders = [
        folder
        for folder in (weights.parents[2] / "drawn").glob("*/")
        if dataset == folder.name or dataset.startswith(f"{folder.name}_")
    ]
    patterns = ("val/*.png", "leftImg8bit/val/*/*.png")
    return sorted(path for folder in folders for pattern in patterns for path in folder.glob(pattern))[:count]


def run_scores(weights: Path) -> dict[str, float]:
    """The scores of the run that wrote a file of weights; empty if it was not evaluated."""
    path = weights.parents[2] / "metrics" / f"{weights.parent.name}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: value for name, value in content.items() if isinstance(value, int | float)}


def find_weights(source: str) -> tuple[str | Path, dict[str, float]]:
    """The file, URL or zoo name to load for ``--weights``, and the scores of a run.

    Raises:
        ValueError: if several scales have such a run.
        FileNotFoundError: if it is none of these.
    """
    if address(source) is not None or Path(source).is_file():
        return source, {}
    root = find_checkout(Path.cwd()) or Path.cwd()
    weights = run_weights(source, root)
    if weights is not None:
        return weights, run_scores(weights)
    path = Path(source)
    if path.is_dir():
        raise FileNotFoundError(f"{source}: is a folder; {_weights_inside(path)}")
    if path.suffix:
        near = [str(path.parent / name) for name in _near(path.name, _weight_files(path.parent))]
        raise FileNotFoundError(f"{source}: no such weight file" + (f"; near it: {', '.join(near)}" if near else ""))
    runs = _run_names(root)
    known = [*runs, *(name.partition("/")[2] for name in runs), *ZOO_MODELS]
    near = _near(source, known)
    raise FileNotFoundError(
        f"{source}: no such weight file, no run in {root / 'outputs'}/<scale>/train, and no name of the "
        f"model zoo"
        + (f"; did you mean {' or '.join(near)}?" if near else "")
        + (f"\nruns there are: {_listed(runs)}" if runs else f"\nthere are no runs with weights in {root}")
    )


def _near(name: str, known: Iterable[str]) -> list[str]:
    """The known names that are most like a name, whatever the case."""
    folded = {each.casefold(): each for each in known}
    return [folded[each] for each in difflib.get_close_matches(name.casefold(), folded, 3, 0.6)]


def _run_names(root: Path) -> list[str]:
    """``scale/run`` of all runs with weights in a checkout."""
    found = root.glob("outputs/*/train/*/model.safetensors")
    return sorted(f"{path.parents[2].name}/{path.parent.name}" for path in found)


def _weight_files(folder: Path) -> list[str]:
    """The paths of files of weights below a folder, relative to it, at most two folders deep."""
    found = (path for depth in ("*", "*/*", "*/*/*") for path in folder.glob(depth) if path.suffix in SUFFIXES)
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _weights_inside(folder: Path) -> str:
    """What to give instead of a folder."""
    files = _weight_files(folder)
    if not files:
        return f"expected a file of weights ({', '.join(SUFFIXES)}), and there is none in it"
    return f"give a file in it: {_listed([str(folder / name) for name in files])}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
