"""What several tests share: a small COCO-instances dataset to break in one place at a time, and made-up results."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_configs import chained_project
from PIL import Image

from pipeline.config.project import Project

# MLflow asks for nothing from outside in tests.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DO_NOT_TRACK"] = "true"

REPOSITORY = Path(__file__).parents[2]


def rectangle(x: float, y: float, width: float, height: float) -> list[list[float]]:
    """A box as one COCO polygon."""
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


class CocoFolder:
    """One split on disk: ``annotations/instances_<split>.json`` and ``<split>/``.

    Images, by id: 7 is a PNG of 40x30, 3 a JPEG of 24x36, 12 a PNG of 20x20 without objects; id and order differ.
    Category ids have gaps: 2 bolt, 5 nut, 9 gear. Tests change ``data`` and write it again.
    """

    def __init__(self, root: Path, split: str = "train") -> None:
        self.root, self.split = root, split
        self.images = root / split
        self.annotations = root / "annotations" / f"instances_{split}.json"
        self.data: dict[str, Any] = {
            "images": [
                {"id": 7, "file_name": "wide.png", "height": 30, "width": 40},
                {"id": 3, "file_name": "tall.jpg", "height": 36, "width": 24},
                {"id": 12, "file_name": "empty.png", "height": 20, "width": 20},
            ],
            "annotations": [
                self.annotation(21, 7, 9, (4, 5, 10, 8)),
                self.annotation(22, 7, 2, (20, 10, 12, 15)),
                self.annotation(23, 7, 5, (0, 0, 40, 4), iscrowd=1),
                self.annotation(24, 3, 5, (6, 3, 9, 30)),
            ],
            "categories": [{"id": 9, "name": "gear"}, {"id": 2, "name": "bolt"}, {"id": 5, "name": "nut"}],
        }
        self.images.mkdir(parents=True)
        for index, image in enumerate(self.data["images"]):
            pixels = np.random.default_rng(index).integers(0, 256, (image["height"], image["width"], 3), np.uint8)
            Image.fromarray(pixels).save(self.images / image["file_name"])
        self.write()

    @staticmethod
    def annotation(
        id_: int, image_id: int, category_id: int, box: tuple[int, int, int, int], iscrowd: int = 0
    ) -> dict[str, Any]:
        return {
            "id": id_,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": list(box),
            "area": box[2] * box[3],
            "iscrowd": iscrowd,
            "segmentation": rectangle(*box),
        }

    def find(self, kind: str, id_: int) -> dict[str, Any]:
        """An entry of the file, to change."""
        return next(entry for entry in self.data[kind] if entry["id"] == id_)

    def write(self) -> None:
        self.annotations.parent.mkdir(parents=True, exist_ok=True)
        self.annotations.write_text(json.dumps(self.data))


@pytest.fixture
def coco(tmp_path: Path) -> CocoFolder:
    """A train split without faults."""
    return CocoFolder(tmp_path / "raw")


@pytest.fixture(scope="session")
def coco_folder() -> Callable[..., CocoFolder]:
    """Makes splits: ``coco_folder(root, split)``."""
    return CocoFolder


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout under test."""
    return REPOSITORY


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project, to read, but for its demo's runs, which start from other runs of the demo."""
    return chained_project(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a folder, hidden ones too."""
    return tree


def run_config(experiment: str, seed: int) -> Any:
    """The configuration of a run named ``<experiment>-<seed>``: the demo's PointRend on shapes."""
    from pipeline.config.experiments import RunConfig

    project = Project(REPOSITORY)
    return RunConfig(
        run=f"{experiment}-{seed}",
        experiment=experiment,
        dataset="shapes",
        seed=seed,
        model=project.model("pointrend_tiny_shapes"),
        sampling=project.experiment("demo", "coco_pointrend_r50").sampling,
        schedule=project.schedule("demo"),
    )


def result(
    experiment: str,
    seed: int,
    evaluations: dict[str, dict[str, float]],
    resamples: dict[str, dict[str, list[float]]] | None = None,
    **changes: Any,
) -> Any:
    """A RunResult named ``<experiment>-<seed>`` with the metrics of each of its settings, also on resamples."""
    # Imported late: it brings MLflow along.
    from pipeline.config.evaluations import EvaluationConfig
    from pipeline.report.results import EvaluationResult, RunResult

    parameters = {"head": "PointRend", "backbone": "tiny_fpn", "updates": "600", "batch_size": "4"}
    fields: dict[str, Any] = {
        "run": f"{experiment}-{seed}",
        "experiment": experiment,
        "dataset": "shapes",
        "seed": seed,
        "mlflow_run_id": "0123456789abcdef",
        "mlflow_experiment_id": "1",
        "parameters": parameters,
        "tags": {"hardware": "2 CPU threads (x86_64)", "code": "abcdef123456"},
        "seconds": 754.0,
        "losses": [(10, 2.0), (20, 1.5), (30, 1.0)],
        "evaluations": {
            name: EvaluationResult("fedcba", metrics, parameters, (resamples or {}).get(name, {}))
            for name, metrics in evaluations.items()
        },
        "settings": EvaluationConfig({}),
        "config": run_config(experiment, seed),
        "data": "0123abcd",
        "hardware": "2 CPU threads (x86_64)",
        "code": "abcdef123456",
        **changes,
    }
    return RunResult(**fields)


@pytest.fixture(scope="session")
def made_up() -> Callable[..., Any]:
    """Makes results: ``made_up(experiment, seed, {setting: metrics}, {setting: resamples}, **fields)``."""
    return result


@pytest.fixture
def results() -> list[Any]:
    """Three seeds of each head: medians of 31.0, 33.0 and 34.5."""
    conv = [result("coco_4xconv_r50", seed, {"28x28": {"AP": ap}}) for seed, ap in enumerate((35.0, 30.0, 31.0))]
    point = [
        result("coco_pointrend_r50", seed, {"28x28": {"AP": small}, "224x224": {"AP": large}})
        for seed, (small, large) in enumerate([(33.0, 34.5), (32.5, 36.0), (36.25, 33.0)])
    ]
    return conv + point


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any, Any], tuple[Path, Path]]:
    """``write(ground truth, results)``: both as JSON files, and their paths."""

    def write(content: Any, results: Any) -> tuple[Path, Path]:
        paths = tmp_path / "truth.json", tmp_path / "results.json"
        for path, value in zip(paths, (content, results), strict=True):
            path.write_text(json.dumps(value))
        return paths

    return write
