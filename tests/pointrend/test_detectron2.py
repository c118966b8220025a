"""Detectron2's checkpoints. The stored outputs are Detectron2's own, by benchmarks/compare_detectron2.py --store."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2_weights import ARCHITECTURES, CASES, KEPT_MASKS, detectron2_shapes, random_detectron2, random_picture
from torch import Tensor, nn
from typer.testing import CliRunner

import pointrend
from pointrend import build_model, load_backbone, load_detectron2, load_model, load_weights, save_weights
from pointrend.backbones import stride_in_1x1
from pointrend.cli import app
from pointrend.detectron2 import (
    detectron2_options,
    detectron2_structure,
    from_detectron2,
    from_detectron2_backbone,
)
from pointrend.instance_inference import Detections
from pointrend.paste import paste_masks
from pointrend.transform import ImageTransform

State = dict[str, Tensor]
OUTPUTS = Path(__file__).parent / "detectron2_outputs"
MASK_RCNN, POINTREND = "maskrcnn_r50_fpn_coco", "pointrend_rcnn_r50_fpn_coco"
SEMANTIC, DEEPLAB = "pointrend_semantic_fpn_r101_cityscapes", "deeplabv3_r103_cityscapes"


def write_pth(state: State, folder: Path) -> Path:
    path = folder / "model_final.pth"
    torch.save({"model": state, "iteration": 269999}, path)
    return path


def write_pkl(state: State, folder: Path) -> Path:
    path = folder / "model_final.pkl"
    arrays = {name: value.numpy() for name, value in state.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}, 4))
    return path


@pytest.fixture(scope="module", autouse=True)
def fast_building() -> Iterator[None]:
    """Models whose every weight is loaded need no random ones first: zeros are quicker."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_", "xavier_uniform_"):
            patch.setattr(nn.init, name, lambda tensor, *_, **__: nn.init.zeros_(tensor))
        yield


@pytest.fixture(scope="module")
def mask_rcnn_state() -> State:
    return random_detectron2(MASK_RCNN, 0)


@pytest.fixture(scope="module")
def mask_rcnn_pth(mask_rcnn_state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pth(mask_rcnn_state, tmp_path_factory.mktemp("maskrcnn"))


@pytest.fixture
def mask_rcnn(mask_rcnn_pth: Path) -> Any:
    return load_detectron2(MASK_RCNN, mask_rcnn_pth)


def equal(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def unpacked(bits: np.ndarray, *shape: int) -> Tensor:
    return torch.from_numpy(np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape)).bool()


def ious(first: Tensor, second: Tensor) -> Tensor:
    union = (first | second).sum((1, 2))
    return torch.where(union > 0, (first & second).sum((1, 2)) / union.clamp(min=1), 1.0)


def first_regions(found: Detections, count: int) -> Detections:
    return Detections(
        found.features,
        [boxes[:count] for boxes in found.boxes],
        [labels[:count] for labels in found.labels],
        [scores[:count] for scores in found.scores],
        found.input_sizes,
        found.original_sizes,
    )


class TestEqualToDetectron2:
    @pytest.mark.parametrize("name", [name for name in CASES if "rcnn" in name])
    @torch.inference_mode()
    def test_detections(self, name: str, tmp_path: Path) -> None:
        case, expected = CASES[name], np.load(OUTPUTS / f"{name}.npz")
        path = write_pth(random_detectron2(name, case.seed), tmp_path)
        model: Any = load_detectron2(name, path, min_size=min(case.size), max_size=max(case.size))
        found = model.detect([random_picture(case.size) / 255])
        assert len(expected["scores"]) == 100
        assert found.labels[0].tolist() == expected["labels"].tolist()
        assert np.abs(found.original_boxes()[0].numpy() - expected["boxes"]).max() < 0.005  # pixels
        assert np.abs(found.scores[0].numpy() - expected["scores"]).max() < 1e-4
        some = first_regions(found, KEPT_MASKS)
        (masks,) = model.region_masks(some)
        side = masks.shape[-1]
        assert side == (28 if name == MASK_RCNN else 224)
        assert ious(masks[:, 0] >= 0.5, unpacked(expected["region_masks"], KEPT_MASKS, side, side)).min() > 0.995
        pasted = paste_masks(masks, some.original_boxes()[0], case.size)
        assert ious(pasted[:, 0] >= 0.5, unpacked(expected["masks"], KEPT_MASKS, *case.size)).min() > 0.98

    @pytest.mark.parametrize("name", [SEMANTIC, DEEPLAB])
    @torch.inference_mode()
    def test_semantics(self, name: str, tmp_path: Path) -> None:
        case, expected = CASES[name], np.load(OUTPUTS / f"{name}.npz")
        path = write_pth(random_detectron2(name, case.seed), tmp_path)
        model: Any = load_detectron2(name, path, **case.options)
        (logits,) = model([random_picture(case.size) / 255])
        assert logits.shape[1:] == case.size
        assert (logits.argmax(0).numpy() == expected["labels"]).mean() > 0.999
        assert np.abs(logits[:, 4::24, 4::24].numpy() - expected["logits"]).max() < 1e-3
        if name == DEEPLAB:  # averages the image in windows of the size that it was trained with, unless told otherwise
            assert model.head.aspp.pool_window == (128, 256)
            load_weights(model, path)
            assert model.head.aspp.pool_window == (512, 1024)


class TestNames:
    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_every_weight_is_taken_and_none_is_left(self, name: str) -> None:
        with torch.device("meta"):
            own = build_model(name, **detectron2_options(name)).state_dict()
            state = {name: torch.empty(shape) for name, shape in detectron2_shapes(name).items()}
        values, problems = from_detectron2(state, own)
        assert problems == []
        assert values.keys() == {name for name in own if not name.endswith("num_batches_tracked")}
        assert [name for name, value in values.items() if value.shape != own[name].shape] == []

    def test_of_old_pointrend(self, tmp_path: Path) -> None:
        state = random_detectron2(POINTREND, 0)
        renames = {
            "roi_heads.mask_head.coarse_head.fc": "roi_heads.mask_coarse_head.coarse_mask_fc",
            "roi_heads.mask_head.coarse_head.": "roi_heads.mask_coarse_head.",
            "roi_heads.mask_head.point_head.": "roi_heads.mask_point_head.",
        }
        old = {}
        for name, value in state.items():
            present = next((part for part in renames if name.startswith(part)), "")
            old[renames.get(present, "") + name.removeprefix(present)] = value
        assert sum("mask_coarse_head" in name or "mask_point_head" in name for name in old) == 16
        # Which also held what is now computed.
        old["pixel_mean"] = torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)
        old["pixel_std"] = torch.ones(3, 1, 1)
        old["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
        with torch.device("meta"):
            own = build_model(POINTREND).state_dict()
        values, problems = from_detectron2(old, own)
        assert problems == []
        assert equal(values, from_detectron2(state, own)[0])

    def test_pyramid_of_a_semantic_fpn_from_p3(self, tmp_path: Path) -> None:
        """Detectron2 builds P2 there, too. At stride 8, P4 and P5 have a convolution less."""
        state = {
            name.replace(".coarse_sem_seg_head.", "."): value
            for name, value in random_detectron2(SEMANTIC, 0).items()
            if not any(part in name for part in (".p2.", ".p4.2.", ".p5.4.", ".point_head."))
        }
        with pytest.warns(
            UserWarning, match=r"left out backbone\.fpn_lateral2\.bias, .*backbone\.fpn_output2\.weight: "
        ):
            model = load_detectron2(
                "semantic_fpn_r101_cityscapes", write_pth(state, tmp_path), levels=("p3", "p4", "p5")
            )
        found = model.state_dict()
        for number in (3, 4, 5):
            ours, theirs = f"backbone.fpn.layer_blocks.{number - 2}.0.weight", f"backbone.fpn_output{number}.weight"
            assert torch.equal(found[ours], state[theirs])

    def test_pkl_and_pth_are_the_same(self, mask_rcnn: Any, mask_rcnn_state: State, tmp_path: Path) -> None:
        first = {name: value.clone() for name, value in mask_rcnn.state_dict().items()}
        nn.init.zeros_(mask_rcnn.roi_heads.box_head.fc6.weight)
        load_weights(mask_rcnn, write_pkl(mask_rcnn_state, tmp_path))
        assert equal(first, mask_rcnn.state_dict())

    def test_one_error_lists_everything(self, mask_rcnn_state: State, tmp_path: Path) -> None:
        state = dict(mask_rcnn_state)
        del state["backbone.bottom_up.res4.5.conv2.norm.running_var"], state["roi_heads.mask_head.deconv.bias"]
        state["roi_heads.keypoint_head.conv_fcn1.weight"] = torch.zeros(2)
        state["roi_heads.box_predictor.bbox_pred.weight"] = torch.zeros(4, 1024)
        state["pixel_mean"] = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
        model: Any = build_model(MASK_RCNN)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(ValueError, match=r"model_final.pth: not a checkpoint of this model") as error:
            load_weights(model, write_pth(state, tmp_path))
        assert str(error.value).splitlines()[1:] == [
            "  missing: backbone.bottom_up.res4.5.conv2.norm.running_var",
            "  missing: roi_heads.mask_head.deconv.bias",
            "  left over: roi_heads.keypoint_head.conv_fcn1.weight",
            "  shape of roi_heads.box_predictor.bbox_pred.weight: (4, 1024) in the file, (320, 1024) in the model",
            "  pixel_mean: 123.675, 116.28, 103.53 in the file, expected 103.53, 116.28, 123.675",
        ]
        assert equal(before, model.state_dict())
        assert stride_in_1x1(model) is False

    def test_other_classes(self, mask_rcnn_pth: Path) -> None:
        with pytest.raises(ValueError, match=r"cls_score.bias: \(81,\) in the file, \(9,\) in the model"):
            load_detectron2("maskrcnn_r50_fpn_cityscapes", mask_rcnn_pth)
        assert load_detectron2("maskrcnn_r50_fpn_cityscapes", mask_rcnn_pth, num_classes=80).training is False

    def test_not_of_detectron2(self, tiny_model: Callable[..., nn.Module], tmp_path: Path) -> None:
        save_weights(tiny_model(), tmp_path / "own.safetensors")
        with pytest.raises(ValueError, match="not a checkpoint of Detectron2"):
            load_detectron2("pointrend_rcnn_tiny_fpn", tmp_path / "own.safetensors")
        with pytest.raises(ValueError, match="unknown model 'maskrcnn_r18'"):
            load_detectron2("maskrcnn_r18", write_pth({"backbone.bottom_up.x": torch.zeros(1)}, tmp_path))

    def test_a_model_of_another_kind(self, mask_rcnn_pth: Path, tiny_model: Callable[..., nn.Module]) -> None:
        with pytest.raises(ValueError, match=r"missing: backbone\.body\.layer1\.0\.bn1\.bias"):
            load_weights(tiny_model("4xconv"), mask_rcnn_pth)

    @pytest.mark.parametrize("content", [[1, 2], {"model": {"a": "text"}}, {"model": [np.ones(3)]}, "text"])
    def test_pickles_of_no_weights(self, content: object, tmp_path: Path) -> None:
        (tmp_path / "model.pkl").write_bytes(pickle.dumps(content, 2))
        with pytest.raises(ValueError, match=r"model.pkl: expected a state dict"):
            load_detectron2(MASK_RCNN, tmp_path / "model.pkl")

    def test_harmful_pickle(self, tmp_path: Path) -> None:
        (tmp_path / "model.pkl").write_bytes(b"cos\nsystem\n(S'echo harm'\ntR.")
        with pytest.raises(ValueError, match=r"model.pkl: not a readable weight file \(names os.system"):
            load_detectron2(MASK_RCNN, tmp_path / "model.pkl")

    def test_truncated_pickle(self, tmp_path: Path) -> None:
        whole = pickle.dumps({"model": {"backbone.bottom_up.stem.conv1.weight": np.ones((4, 3), "f4")}}, 2)
        for length in range(len(whole)):
            (tmp_path / "model.pkl").write_bytes(whole[:length])
            with pytest.raises(ValueError, match=r"model.pkl: not a readable weight file"):
                load_detectron2(MASK_RCNN, tmp_path / "model.pkl")


class TestConventions:
    def test_background_is_first(self, mask_rcnn: Any, mask_rcnn_state: State) -> None:
        state = dict(mask_rcnn_state)
        prefix = "roi_heads.box_predictor."
        state[f"{prefix}cls_score.bias"] = torch.arange(81.0)
        state[f"{prefix}bbox_pred.bias"] = torch.arange(320.0)
        values, _ = from_detectron2(state, mask_rcnn.state_dict())
        assert values[f"{prefix}cls_score.bias"].tolist() == [80, *range(80)]
        assert values[f"{prefix}bbox_pred.bias"].tolist() == [0, 0, 0, 0, *range(320)]

    @pytest.mark.parametrize(
        ("name", "bgr", "rgb_std", "in_1x1"),
        [
            (MASK_RCNN, True, (1, 1, 1), True),
            ("pointrend_rcnn_x101_fpn_coco", True, (58.395, 57.12, 57.375), False),
            (DEEPLAB, False, (58.395, 57.12, 57.375), False),
        ],
    )
    @torch.inference_mode()
    def test_pixels_and_strides(self, name: str, bgr: bool, rgb_std: tuple[float, ...], in_1x1: bool) -> None:
        prefix = "backbone.stem" if name == DEEPLAB else "backbone.bottom_up.stem"
        with torch.device("meta"):
            own = build_model(name, **detectron2_options(name)).state_dict()
            state = {name: torch.empty(shape) for name, shape in detectron2_shapes(name).items()}
        assert detectron2_structure(own)["stride_in_1x1"] is in_1x1
        weight = torch.randn(state[f"{prefix}.conv1.weight"].shape)
        values, _ = from_detectron2({**state, f"{prefix}.conv1.weight": weight}, own)
        converted = values["backbone.body.conv1.0.weight" if name == DEEPLAB else "backbone.body.conv1.weight"]
        pixels = torch.rand(3, 40, 50) * 255
        mean, std = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1), torch.tensor(rgb_std).view(3, 1, 1)
        theirs = (pixels - mean) / std
        expected = nn.functional.conv2d((theirs.flip(0) if bgr else theirs)[None], weight)
        (ours,) = ImageTransform(None, None, 1).normalised([pixels / 255])
        found = nn.functional.conv2d(ours[None], converted)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))

    def test_options_of_every_model(self) -> None:
        assert detectron2_options("pointrend_rcnn_r101_fpn_coco") == {"stride_in_1x1": True}
        assert detectron2_options("pointrend_rcnn_x101_fpn_coco") == {}
        assert detectron2_options("semantic_fpn_r101_cityscapes") == {"stride_in_1x1": True}
        assert detectron2_options(SEMANTIC) == {
            "stride_in_1x1": True,
            "coarse_each_layer": False,
            "points_per_step": 8192,
        }
        assert detectron2_options("pointrend_rcnn_tiny_fpn") == {}


def caffe2_name(name: str) -> str:
    """Caffe2's name of a backbone's weight, with running statistics."""
    name = name.removeprefix("backbone.bottom_up.")
    if name.startswith("stem.conv1.norm."):
        layer, part = "res_conv1_bn", name.removeprefix("stem.conv1.norm.")
    elif name.startswith("stem.conv1."):
        return "conv1_w"
    else:
        stage, block, conv, part = name.split(".", 3)
        branch = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}[conv]
        layer = f"{stage}_{block}_{branch}"
        if part == "weight":
            return f"{layer}_w"
        layer, part = f"{layer}_bn", part.removeprefix("norm.")
    return f"{layer}_" + {"weight": "gamma", "bias": "beta"}.get(part, part)


class TestBackbones:
    @pytest.fixture(scope="class")
    def body(self, mask_rcnn_state: State) -> State:
        return {name: value for name, value in mask_rcnn_state.items() if ".bottom_up." in name}

    @staticmethod
    def write(arrays: dict[str, Tensor], folder: Path) -> Path:
        path = folder / "R-50.pkl"
        path.write_bytes(pickle.dumps({name: value.numpy() for name, value in arrays.items()}, 4))
        return path

    @pytest.fixture(scope="class")
    def model(self) -> Any:
        """To be loaded into, again and again."""
        return build_model(MASK_RCNN)

    @pytest.mark.parametrize("form", ["caffe2", "without prefix", "wrapped"])
    def test_names(self, form: str, body: State, model: Any, mask_rcnn: Any, tmp_path: Path) -> None:
        classifier = {"fc1000_w": torch.zeros(10, 2048), "fc1000_b": torch.zeros(10), "pred_w": torch.zeros(1)}
        if form == "caffe2":
            state = {caffe2_name(name): value for name, value in body.items()}
            assert "res2_0_branch1_bn_running_mean" in state
            path = self.write({**state, **classifier, "conv1_w_momentum": torch.zeros(1)}, tmp_path)
        else:
            state = {name.removeprefix("backbone.bottom_up."): value for name, value in body.items()}
            state |= {"stem.fc.weight": torch.zeros(10, 2048), "stem.fc.bias": torch.zeros(10)}
            path = write_pkl(state, tmp_path) if form == "wrapped" else self.write(state, tmp_path)
        nn.init.zeros_(model.backbone.body.layer3[0].conv2.weight)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        load_backbone(model, path)
        expected = {name: value for name, value in mask_rcnn.state_dict().items() if name.startswith("backbone.body.")}
        assert equal(model.state_dict(), {**before, **expected})
        assert stride_in_1x1(model) is True
        assert model.training

    def test_fused_batch_norm(self, body: State, model: Any, tmp_path: Path) -> None:
        fused = {"gamma": "s", "beta": "b"}
        state = {}
        for name, value in body.items():
            if "running" not in name:
                stem, _, part = caffe2_name(name).rpartition("_")
                state[f"{stem}_{fused.get(part, part)}"] = value
        assert "res2_0_branch2a_bn_s" in state
        load_backbone(model, self.write(state, tmp_path))
        norm = model.backbone.body.layer1[0].bn1
        assert torch.equal(norm.weight, body["backbone.bottom_up.res2.0.conv1.norm.weight"])
        assert norm.running_mean.unique().tolist() == [0]
        assert norm.running_var.unique().tolist() == [1]

    def test_what_is_frozen(self, body: State, tmp_path: Path) -> None:
        path = self.write({caffe2_name(name): value for name, value in body.items()}, tmp_path)
        model: Any = build_model(POINTREND, num_classes=2)
        load_backbone(model, path)
        frozen = {name.split(".")[2] for name, parameter in model.named_parameters() if not parameter.requires_grad}
        assert frozen == {"conv1", "layer1"}

    def test_of_deeplab(self) -> None:
        with torch.device("meta"):
            own = build_model(DEEPLAB).state_dict()
            whole = {name: torch.empty(shape) for name, shape in detectron2_shapes(DEEPLAB).items()}
        state = {k.removeprefix("backbone."): v for k, v in whole.items() if k.startswith("backbone.")}
        values, problems = from_detectron2_backbone(state, own)
        assert problems == []
        assert values["backbone.body.conv1.6.weight"] is state["stem.conv3.weight"]
        assert values["backbone.body.bn1.running_var"] is state["stem.conv3.norm.running_var"]
        assert values["backbone.body.layer4.2.conv3.weight"] is state["res5.2.conv3.weight"]
        body = {name for name in own if name.startswith("backbone.") and not name.endswith("num_batches_tracked")}
        assert values.keys() == body

    def test_of_another_depth(self, body: State, tmp_path: Path) -> None:
        path = self.write({caffe2_name(name): value for name, value in body.items()}, tmp_path)
        with pytest.raises(ValueError, match=r"R-50.pkl: not a backbone of this model") as error:
            with torch.device("meta"):
                deeper = build_model("maskrcnn_r101_fpn_coco")
            load_backbone(deeper, path)
        missing = [line for line in str(error.value).splitlines() if "missing" in line]
        assert len(missing) == 17 * 15  # blocks by weights
        assert "  missing: backbone.res4.22.conv3.weight" in missing

    def test_needs_bottleneck_blocks(self, body: State, tiny_model: Callable[..., nn.Module], tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no backbone of bottleneck blocks"):
            load_backbone(tiny_model(), self.write({"conv1_w": torch.zeros(1)}, tmp_path))


class TestConvert:
    def convert(self, *arguments: str) -> Any:
        return CliRunner().invoke(app, ["convert", *arguments])

    @torch.inference_mode()
    def test_semantic_model_comes_back_as_it_was(self, tmp_path: Path) -> None:
        source, output = write_pth(random_detectron2(SEMANTIC, 0), tmp_path), tmp_path / "converted.safetensors"
        result = self.convert(str(source), str(output), "--model", SEMANTIC)
        assert result.exit_code == 0, result.output
        expected: Any = load_detectron2(SEMANTIC, source)
        found: Any = load_model(output)
        assert equal(expected.state_dict(), found.state_dict())
        for model in (expected, found):
            assert stride_in_1x1(model) is True
            assert model.pointrend.points_per_step == 8192
            assert not model.pointrend.point_head.coarse_each_layer
            assert not model.training

    def test_strides_go_with_the_weights(self, mask_rcnn_pth: Path, tmp_path: Path) -> None:
        output = tmp_path / "converted.safetensors"
        assert self.convert(str(mask_rcnn_pth), str(output), "--model", MASK_RCNN).exit_code == 0
        assert stride_in_1x1(load_model(output)) is True
        plain = build_model(MASK_RCNN)
        load_weights(plain, output)
        assert stride_in_1x1(plain) is True
        # A bare state dict does not say.
        torch.save(plain.state_dict(), tmp_path / "plain.pt")
        load_weights(plain, tmp_path / "plain.pt")
        assert stride_in_1x1(plain) is True

    def test_strides_go_back_for_weights_trained_so(self, mask_rcnn: Any, tmp_path: Path) -> None:
        save_weights(build_model(MASK_RCNN), tmp_path / "plain.safetensors")
        assert stride_in_1x1(mask_rcnn) is True
        load_weights(mask_rcnn, tmp_path / "plain.safetensors")
        assert stride_in_1x1(mask_rcnn) is False

    def test_errors(self, mask_rcnn_pth: Path, tmp_path: Path) -> None:
        source = mask_rcnn_pth
        cases = {
            "not a checkpoint of this model": (str(source), str(tmp_path / "a.safetensors"), "--model", POINTREND),
            "ends in .safetensors": (str(source), str(tmp_path / "a.pt"), "--model", MASK_RCNN),
            "unknown model": (str(source), str(tmp_path / "a.safetensors"), "--model", "r50"),
            "no such weight file": (str(tmp_path / "b.pkl"), str(tmp_path / "a.safetensors"), "--model", MASK_RCNN),
        }
        for message, arguments in cases.items():
            result = self.convert(*arguments)
            assert result.exit_code == 1
            assert result.stderr.startswith("error: ")
            assert message in result.stderr
        assert list(tmp_path.iterdir()) == []

    def test_file_that_does_not_say_what_it_is(self, mask_rcnn_pth: Path) -> None:
        with pytest.raises(ValueError, match=r"model_final.pth: does not say which model it is for"):
            load_model(mask_rcnn_pth)


def test_public_names() -> None:
    assert {"load_detectron2", "load_backbone", "load_model"} <= set(pointrend.__all__)
