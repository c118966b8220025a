"""Training depends on nothing that only inference uses, and neither task depends on the other's modules.

Whatever decides which trainings an edit makes stale follows module-level imports alone. So these must not reach
inference-only code, and training must not run any through an import inside a function.
"""

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pointrend
from pointrend import build_model

PACKAGE = Path(pointrend.__file__).parent

#: Modules that training needs none of.
INFERENCE_ONLY = {
    "pointrend.agreement",
    "pointrend.cli",
    "pointrend.complexity",
    "pointrend.drawing",
    "pointrend.export",
    "pointrend.image_files",
    "pointrend.in_torchvision",
    "pointrend.inputs",
    "pointrend.instance_inference",
    "pointrend.interpolation",
    "pointrend.overlays",
    "pointrend.paste",
    "pointrend.predict",
    "pointrend.predict_command",
    "pointrend.pyfunc",
    "pointrend.regions",
    "pointrend.rendering",
    "pointrend.rendering_gpu",
    "pointrend.results",
    "pointrend.runs",
    "pointrend.semantic_inference",
    "pointrend.steps",
    "pointrend.subdivision",
    "pointrend.subdivision_steps",
    "pointrend.tiles",
    "pointrend.ui.command",
    "pointrend.ui.instance_view",
    "pointrend.ui.pictures",
    "pointrend.ui.semantic_view",
    "pointrend.ui.server",
    "pointrend.ui.session",
    "pointrend.ui.views",
    "pointrend.wording",
}
INSTANCE_ONLY = {"pointrend.detector", "pointrend.instance", "pointrend.instance_models", "pointrend.matching"}
SEMANTIC_ONLY = {"pointrend.semantic", "pointrend.semantic_heads", "pointrend.semantic_models"}


def module_level_imports(source: str) -> Iterator[str]:
    """The modules of the package that a module's source imports when it is itself imported."""
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Import):
            names = [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom) and statement.module is not None:
            names = [statement.module, *(f"{statement.module}.{alias.name}" for alias in statement.names)]
        else:
            continue
        yield from (name for name in names if source_of(name) is not None)


def source_of(module: str) -> Path | None:
    if not module.startswith("pointrend."):
        return None
    path = PACKAGE / f"{module.removeprefix('pointrend.').replace('.', '/')}.py"
    return path if path.is_file() else None


def reached(*modules: str) -> set[str]:
    """The modules and all that they import at module level, directly or not."""
    found: set[str] = set()
    pending = list(modules)
    while pending:
        module = pending.pop()
        if module not in found:
            found.add(module)
            path = source_of(module)
            assert path is not None, module
            pending += module_level_imports(path.read_text(encoding="utf-8"))
    return found


class TestImports:
    def test_every_module_is_named_correctly(self) -> None:
        assert all(source_of(module) for module in INFERENCE_ONLY | INSTANCE_ONLY | SEMANTIC_ONLY)

    def test_imports_in_functions_and_for_type_checkers_are_not_followed(self) -> None:
        source = (
            "from typing import TYPE_CHECKING\n"
            "import torch, pointrend.points\n"
            "from pointrend.heads import PointHead\n"
            "if TYPE_CHECKING:\n    from pointrend.paste import paste_masks\n"
            "def paste():\n    from pointrend.paste import paste_masks\n"
        )
        assert list(module_level_imports(source)) == ["pointrend.points", "pointrend.heads"]

    def test_training_an_instance_model(self) -> None:
        found = reached("pointrend.registry", "pointrend.instance_models", "pointrend.weights")
        assert found >= {*INSTANCE_ONLY, "pointrend.backbones", "pointrend.heads", "pointrend.points"}
        assert not found & (INFERENCE_ONLY | SEMANTIC_ONLY)

    def test_training_a_semantic_model(self) -> None:
        found = reached("pointrend.registry", "pointrend.semantic_models", "pointrend.weights")
        assert found >= {*SEMANTIC_ONLY, "pointrend.backbones", "pointrend.heads", "pointrend.points"}
        assert not found & (INFERENCE_ONLY | INSTANCE_ONLY)

    def test_reading_and_writing_weights_needs_no_model(self) -> None:
        assert not reached("pointrend.weights") & (INFERENCE_ONLY | INSTANCE_ONLY | SEMANTIC_ONLY)

    def test_what_training_does_not_reach_is_inference_only(self) -> None:
        """Every module belongs to training or is listed above, so that a new one has to be put somewhere.

        Pictures are read by whoever feeds a training.
        """
        trains = reached("pointrend.registry", "pointrend.instance_models", "pointrend.semantic_models")
        weights = reached("pointrend.weights")
        files = [path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py") if path.stem != "__init__"]
        modules = {".".join(path.with_suffix("").parts) for path in files}
        assert modules - trains - weights == INFERENCE_ONLY | {"pointrend.pictures", "pointrend.pixels"}


def modules_run(call: Callable[[], Any]) -> set[str]:
    """The package's modules of all functions that run in a call, on this thread."""
    found: set[str] = set()

    def record(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            found.add(str(frame.f_globals.get("__name__")))

    before = sys.getprofile()
    sys.setprofile(record)
    try:
        call()
    finally:
        sys.setprofile(before)
    return {name for name in found if name.startswith("pointrend.")}


def training_step(model: nn.Module, images: list[Tensor], targets: list[dict[str, Tensor]]) -> Callable[[], None]:
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.01)

    def step() -> None:
        losses = model(images, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

    return step


class TestTrainingStep:
    @pytest.mark.parametrize("head", ["4xconv", "pointrend"])
    def test_instance_model(
        self,
        head: str,
        tiny_model: Callable[..., nn.Module],
        scene: Callable[..., tuple[Tensor, dict[str, Tensor]]],
    ) -> None:
        image, target = scene(64, 96, [(5, 5, 40, 40), (30, 20, 90, 60)])
        model = tiny_model(head).train()
        found = modules_run(training_step(model, [image], [target]))
        assert found >= {"pointrend.instance", "pointrend.detector"}
        assert not found & (INFERENCE_ONLY | SEMANTIC_ONLY)
        assert modules_run(lambda: model.eval()([image])) >= {"pointrend.instance_inference", "pointrend.paste"}

    @pytest.mark.parametrize("name", ["deeplabv3_tiny", "semantic_fpn_tiny"])
    @pytest.mark.parametrize("prefix", ["", "pointrend_"])
    def test_semantic_model(self, prefix: str, name: str) -> None:
        torch.manual_seed(0)
        model = build_model(prefix + name, num_classes=3)
        images, targets = [torch.rand(3, 64, 96)] * 2, [{"labels": torch.randint(0, 3, (64, 96))}] * 2
        found = modules_run(training_step(model, images, targets))
        assert found >= {"pointrend.semantic", "pointrend.semantic_heads"}
        assert not found & (INFERENCE_ONLY | INSTANCE_ONLY)
        assert "pointrend.semantic_inference" in modules_run(lambda: model.eval()(images))
