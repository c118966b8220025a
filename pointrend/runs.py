"""Finds weights by what a user calls them; those of a run of this project by its name, from files alone."""

import json
from collections import Counter
from pathlib import Path

from pointrend.zoo import address


def run_weights(name: str, root: Path) -> Path | None:
    """The weights of a run such as ``coco_pointrend_r50-0`` in a checkout; None if there is no run of that name.

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
    return found[0] if found else None


def all_runs(root: Path) -> dict[str, Path]:
    """The weights of every run of a checkout by the run's name; ``scale/run`` where several scales have one."""
    found = sorted(root.glob("outputs/*/train/*/model.safetensors"))
    runs = Counter(path.parent.name for path in found)
    names = {path: path.parent.name for path in found}
    return {name if runs[name] == 1 else f"{path.parents[2].name}/{name}": path for path, name in names.items()}


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
    weights = run_weights(source, Path.cwd())
    if weights is not None:
        return weights, run_scores(weights)
    if Path(source).suffix:
        raise FileNotFoundError(f"{source}: no such weight file")
    raise FileNotFoundError(
        f"{source}: no such weight file, no run in {Path('outputs').absolute()}/<scale>/train, and no name of the "
        "model zoo"
    )
