"""Finds weights by what a user calls them; those of a run of this project by its name, from files alone."""

import json
from pathlib import Path

from pointrend.zoo import address

BEST = "best.safetensors"


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
    if not found:
        return None
    best = found[0].with_name(BEST)
    return best if best.is_file() else found[0]


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
