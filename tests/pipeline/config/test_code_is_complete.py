"""A training and an evaluation execute no function outside the modules that their stages depend on."""

import importlib
import inspect
import pkgutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
import torch
from made_up_images import prepared_images, small_run
from made_up_labels import OWN, prepared_labels

import pipeline
import pointrend
from pipeline.config.code import KINDS, code_of
from pipeline.config.evaluations import EvaluationConfig, RenderingConfig, SemanticRenderingConfig
from pipeline.config.experiments import RunConfig, ValidationConfig
from pipeline.config.models import SamplingConfig
from pipeline.config.project import Project
from pipeline.config.schedules import Poly, ScheduleConfig, Warmup
from pipeline.data.manifest import read_prepared
from pipeline.data.storage import Storage
from pipeline.evaluation.run import predict, score
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.evaluation.validation import measure
from pipeline.training.model import build_run_model
from pipeline.training.run import Workers, train_run
from pipeline.training.training import Training
from pointrend.weights import save_weights

CPU = torch.device("cpu")
ALONE = Workers(0, 1, CPU, broadcast=lambda value: value, report=lambda metrics: None, node_is_leaving=lambda: False)
INSTANCE = {"coco_pointrend_r50": True, "coco_4xconv_r50": False}
SEMANTIC = {
    "pointrend_deeplabv3_tiny_camvid": True,
    "deeplabv3_tiny_camvid": False,
    "pointrend_semantic_fpn_tiny_camvid": True,
    "semantic_fpn_tiny_camvid": False,
}
CASES = [("instance", name) for name in INSTANCE] + [("semantic", name) for name in SEMANTIC]
INFERENCE = {
    "pointrend.paste",
    "pointrend.rendering",
    "pointrend.subdivision",
    "pointrend.instance_inference",
    "pointrend.semantic_inference",
}


@pytest.fixture(scope="module", autouse=True)
def all_modules_are_imported() -> None:
    """So that no import, whose module-level code calls functions, falls into what is profiled."""
    for package in (pipeline, pointrend):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)


@contextmanager
def executed(root: Path) -> Iterator[set[str]]:
    """Within, adds the modules of all of the project's functions that any thread executes."""
    codes: set[CodeType] = set()
    found: set[str] = set()

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            codes.add(frame.f_code)

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield found
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    for code in codes:
        file = Path(code.co_filename)
        # The bodies of modules and classes are no functions.
        if file.is_relative_to(root) and code.co_flags & inspect.CO_OPTIMIZED:
            parts = file.relative_to(root).with_suffix("").parts
            if parts[0] in ("pipeline", "pointrend"):
                found.add(".".join(part for part in parts if part != "__init__"))


def unlisted(root: Path, kind: str, task: str, found: set[str]) -> set[str]:
    """Those of some modules that a kind of stage neither depends on nor leaves out on purpose."""
    listed, without = code_of(root, kind, task)["modules"], KINDS[kind, task].without
    return {
        name
        for name in found
        if name not in listed and not any(name == left or name.startswith(f"{left}.") for left in without)
    }


class Case:
    """A run of one model, its prepared data and its evaluation settings."""

    def __init__(self, folder: Path, repository: Path, task: str, name: str) -> None:
        self.folder = folder
        self.images: Storage
        if task == "instance":
            self.config = small_run(repository, name)
            self.prepared, self.images = prepared_images(folder, 4)
            points = 196 if INSTANCE[name] else None
            settings: dict[str, Any] = {"56x56": RenderingConfig(resolution=56, num_points=points)} if points else {}
            self.settings = EvaluationConfig({"28x28": RenderingConfig(resolution=28, num_points=points), **settings})
        else:
            self.config = semantic_run(repository, name)
            dataset, self.images = prepared_labels(folder, OWN, images=4)
            self.prepared = dataset.folder
            setting = SemanticRenderingConfig(num_points=20 if SEMANTIC[name] else None, trimap_widths=[2])
            self.settings = EvaluationConfig({"a": setting})

    def train(self) -> None:
        start = self.folder / "start.safetensors"
        torch.manual_seed(0)
        save_weights(build_run_model(self.config, 2, pretrained=False), start)
        config = self.config.model_copy(update={"starts_from": "other-0"})
        training = Training(config, self.prepared, self.images, "code", self.folder / "runs", start)
        scores = partial(measure, training, ALONE) if config.validation else None
        train_run(training, ALONE, images_per_worker=1, loader_processes=0, notify=lambda: None, measure=scores)
        assert training.weights.is_file()

    def evaluate(self) -> None:
        weights, output = self.folder / "model.safetensors", self.folder / "output"
        save_weights(build_run_model(self.config, 2, pretrained=False), weights)
        output.mkdir()
        run = TrainedRun(self.config, self.prepared, self.images, weights)
        predict(run, self.settings, CPU, self.folder / "chunks", output)
        for setting, value in self.settings.root.items():
            values = score(read_prepared(self.prepared), output, setting, value).metrics
            assert values


def semantic_run(repository: Path, name: str) -> RunConfig:
    network = Project(repository).model(name).model_copy(update={"crop_size": [32, 32], "norm": "group"})
    sampling = SamplingConfig(strategy="biased", num_points=9, oversample_ratio=3.0, importance_sample_ratio=0.75)
    return RunConfig(
        run="x-0",
        experiment="x",
        dataset="x",
        seed=5,
        model=network,
        sampling=sampling if network.has_point_head else None,
        schedule=ScheduleConfig(
            batch_size=2,
            warmup=Warmup(updates=1, learning_rate=0.001),
            poly=Poly(updates=2, learning_rate=0.01, power=0.9),
            checkpoint_every=1,
            head_multiplier=10.0,
        ),
    )


@pytest.fixture(params=CASES, ids=[name for _, name in CASES])
def case(request: pytest.FixtureRequest, tmp_path: Path, repository: Path) -> tuple[str, Case]:
    task, name = request.param
    return task, Case(tmp_path, repository, task, name)


def test_a_training_executes_only_what_it_depends_on(case: tuple[str, Case], repository: Path) -> None:
    task, run = case
    with executed(repository) as found:
        run.train()
    assert {"pipeline.training.loop", "pipeline.data.samplers", "pointrend.backbones", f"pointrend.{task}"} <= found
    assert unlisted(repository, "train", task, found) == set()
    assert not INFERENCE & found
    assert not INFERENCE & code_of(repository, "train", task)["modules"].keys()


def test_a_training_that_validates_executes_what_validates_as_well(case: tuple[str, Case], repository: Path) -> None:
    task, run = case
    last = list(run.settings.root.values())[-1]
    schedule = run.config.schedule.model_copy(update={"validate_every": 1})
    validation = ValidationConfig.of(last, "code")
    run.config = run.config.model_copy(update={"schedule": schedule, "validation": validation})
    with executed(repository) as found:
        run.train()
    assert {"pipeline.evaluation.validation", "pipeline.training.validation", f"pointrend.{task}_inference"} <= found
    assert unlisted(repository, "train", task, found) & unlisted(repository, "validate", task, found) == set()


def test_an_evaluation_executes_only_what_it_depends_on(case: tuple[str, Case], repository: Path) -> None:
    task, run = case
    with executed(repository) as found:
        run.evaluate()
    assert {"pipeline.evaluation.chunks", f"pointrend.{task}_inference"} <= found
    assert {"pipeline.metrics.coco_ap", "pipeline.metrics.segmentation_iou"} & found
    assert unlisted(repository, "evaluate", task, found) == set()


def test_a_function_of_another_module_would_be_noticed(repository: Path, tmp_path: Path) -> None:
    """Also in a thread; and what is left out of the code on purpose is not."""
    from pipeline.files import write_json
    from pointrend.paste import paste_masks

    def paste(call: Callable[..., Any]) -> None:
        call(torch.zeros(0, 1, 7, 7), torch.zeros(0, 4), (8, 8))

    with executed(repository) as found:
        thread = threading.Thread(target=paste, args=(paste_masks,))
        thread.start()
        thread.join()
        write_json(tmp_path / "x.json", {})
    assert {"pointrend.paste", "pipeline.files"} <= found
    assert "pointrend.paste" in unlisted(repository, "train", "instance", found)
    assert "pipeline.files" not in unlisted(repository, "train", "instance", found)
