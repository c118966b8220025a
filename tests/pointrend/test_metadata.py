import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pointrend import PointSampling, Rendering, build_model, load_model, load_weights, save_weights
from pointrend.backbones import stride_in_1x1
from pointrend.classes import CITYSCAPES_INSTANCES, CITYSCAPES_LABELS, COCO
from pointrend.metadata import KEY, ClassInfo, MetadataError, ModelMetadata, parse_metadata
from pointrend.specs import MODELS, list_models
from pointrend.weights import convert_weights
from pointrend.zoo import ZOO, ZOO_MODELS

INSTANCE = {
    "maskrcnn_tiny_fpn": {"norm": "frozen_batch", "class_agnostic": True},
    "pointrend_rcnn_tiny18_fpn": {"rendering": Rendering(56, 49), "point_layers": 2, "point_channels": 32},
    "pointrend_rcnn_tiny26_fpn": {
        "sampling": PointSampling("grid", 49, 1.0, 0.0),
        "detections_per_image": 7,
    },
}
SEMANTIC = {
    "deeplabv3_tiny": {"output_stride": 8, "pool_window": (32, 48)},
    "pointrend_deeplabv3_tiny": {"points_per_step": 50, "norm": "frozen_batch"},
    "semantic_fpn_tiny": {"levels": ("p3", "p4", "p5")},
    "pointrend_semantic_fpn_tiny": {"coarse_each_layer": False, "point_layers": 1},
}
CLASSES = (ClassInfo(7, "square"), ClassInfo(3, "круг"), ClassInfo(11, "a thing"))


def built(name: str) -> Any:
    torch.manual_seed(0)
    options: dict[str, Any] = {"num_classes": 3, **{**INSTANCE, **SEMANTIC}[name]}
    if name in INSTANCE:
        options |= {"min_size": 48, "max_size": 80}
    return build_model(name, **options)


def outputs(model: Any, image: Tensor) -> list[Tensor]:
    torch.manual_seed(0)
    found = model.eval()([image])[0]
    return list(found.values()) if isinstance(found, dict) else [found]


class TestRoundTrip:
    @pytest.mark.parametrize("name", [*INSTANCE, *SEMANTIC])
    @torch.inference_mode()
    def test_the_file_is_all_that_a_model_needs(self, name: str, tmp_path: Path) -> None:
        model = built(name)
        save_weights(model, tmp_path / "a.safetensors", classes=CLASSES, origin={"run": "a-0", "dataset": "shapes"})
        found = load_model(tmp_path / "a.safetensors")
        assert found.metadata == ModelMetadata(name, model.metadata.spec, CLASSES, {"run": "a-0", "dataset": "shapes"})
        assert not found.training
        image = torch.rand(3, 50, 70, generator=torch.Generator().manual_seed(0))
        for ours, theirs in zip(outputs(found, image), outputs(model, image), strict=True):
            assert torch.equal(ours, theirs)

    @pytest.mark.parametrize("name", list_models())
    def test_every_name_can_be_written_as_json(self, name: str) -> None:
        metadata = ModelMetadata(name, MODELS[name])
        assert parse_metadata(metadata.to_json()) == metadata

    @pytest.mark.parametrize("name", ["pointrend_rcnn_tiny_fpn", "maskrcnn_tiny_fpn"])
    def test_a_file_from_before_a_field_has_what_all_models_had_then(self, name: str) -> None:
        content = json.loads(ModelMetadata(name, MODELS[name]).to_json())
        del content["spec"]["mask_side"], content["spec"]["cascade"]
        assert parse_metadata(json.dumps(content)).spec == MODELS[name]

    def test_a_model_with_another_mask_branch(self, tmp_path: Path) -> None:
        model = build_model("maskrcnn_tiny_fpn", num_classes=2, mask_side=56)
        save_weights(model, tmp_path / "a.safetensors")
        assert load_model(tmp_path / "a.safetensors").mask_head.side == 56
        model = build_model("pointrend_rcnn_tiny_fpn", num_classes=2, cascade=False)
        save_weights(model, tmp_path / "b.safetensors")
        assert load_model(tmp_path / "b.safetensors").mask_head.cascade is False

    def test_the_same_model_gives_the_same_bytes(self, tmp_path: Path) -> None:
        for file, origin in (("a", {"run": "r", "data": "d"}), ("b", {"data": "d", "run": "r"})):
            save_weights(built("deeplabv3_tiny"), tmp_path / f"{file}.safetensors", classes=CLASSES, origin=origin)
        assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()

    def test_the_values_that_were_black_and_white(self, tmp_path: Path) -> None:
        """Plain models do not have them, so that their files are those of earlier versions, byte for byte."""
        save_weights(built("deeplabv3_tiny"), tmp_path / "plain.safetensors")
        save_weights(built("deeplabv3_tiny"), tmp_path / "deep.safetensors", pixel_range=(-1024.0, 3071.0))
        with safe_open(tmp_path / "plain.safetensors", "pt") as file:
            assert "pixel_range" not in json.loads(file.metadata()[KEY])
        deep = load_model(tmp_path / "deep.safetensors")
        assert deep.metadata.pixel_range == (-1024.0, 3071.0)
        save_weights(deep, tmp_path / "again.safetensors")
        assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "deep.safetensors").read_bytes()

    def test_what_changed_after_building_is_what_is_written(self, tmp_path: Path) -> None:
        model = built("deeplabv3_tiny")
        model.set_output_stride(16)
        save_weights(model, tmp_path / "a.safetensors")
        model = built("pointrend_rcnn_tiny18_fpn")
        model.mask_head.rendering = Rendering(28, 100)
        save_weights(model, tmp_path / "b.safetensors")
        semantic, instance = (load_model(tmp_path / f"{name}.safetensors") for name in "ab")
        assert semantic.head.stride == 16
        assert instance.mask_head.rendering == Rendering(28, 100)

    def test_options_override(self, tmp_path: Path) -> None:
        save_weights(built("pointrend_rcnn_tiny18_fpn"), tmp_path / "a.safetensors")
        found: Any = load_model(tmp_path / "a.safetensors", min_size=32, rendering=Rendering(14, 9))
        assert (found.transform.min_size, found.transform.max_size) == (32, 80)
        assert found.mask_head.rendering == Rendering(14, 9)

    def test_loading_weights_brings_their_classes(self, tmp_path: Path) -> None:
        save_weights(built("semantic_fpn_tiny"), tmp_path / "a.safetensors", classes=CLASSES, origin={"run": "a-0"})
        model = built("semantic_fpn_tiny")
        load_weights(model, tmp_path / "a.safetensors")
        assert model.metadata.classes == CLASSES
        # What is trained from there is of another origin, which only the caller knows.
        save_weights(model, tmp_path / "b.safetensors")
        assert load_model(tmp_path / "b.safetensors").metadata == ModelMetadata(
            "semantic_fpn_tiny", model.metadata.spec, CLASSES
        )

    def test_modules_of_others_are_written_without(self, tmp_path: Path) -> None:
        save_weights(nn.Linear(2, 3), tmp_path / "a.safetensors")
        with safe_open(tmp_path / "a.safetensors", "pt") as file:
            assert KEY not in (file.metadata() or {})

    def test_in_a_process_that_has_the_library_alone(self, tmp_path: Path) -> None:
        """The pipeline and what it needs cannot be imported."""
        names = [*INSTANCE, *SEMANTIC]
        for name in names:
            save_weights(built(name), tmp_path / f"{name}.safetensors", classes=CLASSES)
        code = (
            "import sys\n"
            "refused = 'pipeline stages ray mlflow dvc pydantic pyarrow yaml pycocotools pandas'\n"
            "sys.modules.update(dict.fromkeys(refused.split()))\n"
            "import pointrend\n"
            "for file in sys.argv[1:]:\n"
            "    model = pointrend.load_model(file)\n"
            "    print(model.metadata.model, [known.name for known in model.metadata.classes][0])\n"
        )
        files = [str(tmp_path / f"{name}.safetensors") for name in names]
        done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [f"{name} square" for name in names]


class TestFilesThatDoNotSay:
    @pytest.fixture
    def old(self, tmp_path: Path) -> Path:
        """As earlier versions wrote a run's weights."""
        metadata = {"model": "pointrend_rcnn_tiny26_fpn", "run": "a-0"}
        save_file(built("pointrend_rcnn_tiny26_fpn").state_dict(), tmp_path / "old.safetensors", metadata)
        return tmp_path / "old.safetensors"

    def test_the_error_says_what_to_pass(self, old: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"old.safetensors: does not say .*pointrend_rcnn_tiny26_fpn") as caught:
            load_model(old)
        assert all(word in str(caught.value) for word in ("num_classes", "norm", "min_size", "max_size", "--model"))
        torch.save(built("deeplabv3_tiny").state_dict(), tmp_path / "bare.pt")
        with pytest.raises(ValueError, match=r"bare.pt: does not say which model it is for"):
            load_model(tmp_path / "bare.pt")

    def test_passing_it_works(self, old: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"its classes are 3: pass that as num_classes"):
            load_model(old, "pointrend_rcnn_tiny26_fpn")
        options = {"num_classes": 3, "min_size": 48, "max_size": 80}
        found: Any = load_model(old, "pointrend_rcnn_tiny26_fpn", **options)
        image = torch.rand(3, 50, 70)
        with torch.inference_mode():
            # The training points and the limit of detections, which the file does not say, are the name's own here.
            expected = built("pointrend_rcnn_tiny26_fpn").eval()
            assert torch.equal(found.detect([image]).boxes[0][:7], expected.detect([image]).boxes[0])
        convert_weights(old, tmp_path / "new.safetensors", "pointrend_rcnn_tiny26_fpn", **options)
        assert load_model(tmp_path / "new.safetensors").metadata == replace(
            found.metadata, origin={"source": "old.safetensors"}
        )

    def test_strides_that_an_earlier_file_says(self, tmp_path: Path) -> None:
        """No shape says where they are."""
        state = build_model("maskrcnn_r50_fpn_coco", num_classes=2).state_dict()
        save_file(state, tmp_path / "old.safetensors", {"structure": '{"stride_in_1x1": true}'})
        found = load_model(tmp_path / "old.safetensors", "maskrcnn_r50_fpn_coco", num_classes=2)
        assert stride_in_1x1(found) is True
        assert found.metadata is not None
        assert found.metadata.spec.stride_in_1x1 is True  # type: ignore[union-attr]

    def test_classes_have_ids_and_names(self, tmp_path: Path) -> None:
        path = tmp_path / "a.safetensors"
        with pytest.raises(TypeError, match=r"classes has 'cat', expected pointrend\.metadata\.ClassInfo\(id, name\)"):
            save_weights(built("semantic_fpn_tiny"), path, classes=["cat", "dog", "bird"])  # type: ignore[list-item]
        assert not path.exists()

    def test_semantic_classes_are_counted_too(self, tmp_path: Path) -> None:
        torch.save(built("semantic_fpn_tiny").state_dict(), tmp_path / "bare.pt")
        with pytest.raises(ValueError, match=r"its classes are 3: pass that as num_classes"):
            load_model(tmp_path / "bare.pt", "semantic_fpn_tiny", levels=("p3", "p4", "p5"))

    def test_another_name_than_the_files(self, tmp_path: Path) -> None:
        save_weights(built("maskrcnn_tiny_fpn"), tmp_path / "a.safetensors")
        with pytest.raises(ValueError, match=r"is of model 'maskrcnn_tiny_fpn', not 'maskrcnn_tiny18_fpn'"):
            load_model(tmp_path / "a.safetensors", "maskrcnn_tiny18_fpn")


class TestDamage:
    GOOD = json.loads(ModelMetadata("deeplabv3_tiny", MODELS["deeplabv3_tiny"]).to_json())

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (lambda c: c.update(version=2), "of version 2, this library reads version 1"),
            (lambda c: c.pop("version"), "no object with a version"),
            (lambda c: c["spec"].update(kind="transformer"), "spec.kind .* is 'transformer'"),
            (lambda c: c["spec"].pop("backbone"), "spec in its metadata has no backbone"),
            (lambda c: c["spec"].update(attention=True), "attention, which this version does not know"),
            (lambda c: c["spec"].update(num_classes="19"), "spec.num_classes in its metadata is '19', expected int"),
            (lambda c: c["spec"].update(num_classes=True), "spec.num_classes in its metadata is True"),
            (lambda c: c["spec"].update(num_classes=0), "num_classes is 0, expected at least 1"),
            (lambda c: c["spec"].update(norm="layer"), "spec.norm in its metadata is 'layer'"),
            (lambda c: c["spec"].update(pool_window=[1, 2, 3]), "spec.pool_window"),
            (lambda c: c.update(classes=[{"id": 1, "name": "a"}]), "there are 1 classes, expected 19"),
            (lambda c: c.update(classes=[{"id": 1, "name": 4}] * 19), "classes.0.name in its metadata is 4"),
            (lambda c: c.update(classes=[{"id": 1, "name": "a"}] * 19), "expected different ones"),
            (lambda c: c.update(origin={"run": 3}), "origin.run in its metadata is 3, expected str"),
            (lambda c: c.update(origin={"where": "here"}), "origin has where"),
            (lambda c: c.update(model=None), "model in its metadata is None"),
            (lambda c: c.update(pixel_range=[0, "4095"]), "pixel_range.1 in its metadata is '4095', expected float"),
            (lambda c: c.update(pixel_range=[4095, 0]), "expected black below white"),
        ],
    )
    def test_is_an_error_that_names_the_field(
        self, edit: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
    ) -> None:
        content = json.loads(json.dumps(self.GOOD))
        edit(content)
        with pytest.raises(MetadataError, match=message):
            parse_metadata(json.dumps(content))
        save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {KEY: json.dumps(content)})
        with pytest.raises(ValueError, match=rf"a.safetensors: .*{message}"):
            load_model(tmp_path / "a.safetensors")

    @pytest.mark.parametrize("text", ["", "[]", "{", '"deep"', "[" * 10**5])
    def test_no_json(self, text: str) -> None:
        with pytest.raises(MetadataError):
            parse_metadata(text)


class TestPublishedWeights:
    def test_every_model_of_the_zoo_is_known(self) -> None:
        assert ZOO.keys() - ZOO_MODELS.keys() == {"R-50", "R-101", "X-101-32x8d", "R-103"}
        assert set(ZOO_MODELS.values()) <= set(list_models())

    def test_numbers_of_classes(self) -> None:
        assert [len(classes) for classes in (COCO, CITYSCAPES_INSTANCES, CITYSCAPES_LABELS)] == [80, 8, 19]
        assert (COCO[0], COCO[-1]) == (ClassInfo(1, "person"), ClassInfo(90, "toothbrush"))
