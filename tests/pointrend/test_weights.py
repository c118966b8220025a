import contextlib
import os
import resource
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn

from pointrend import build_model, load_model, load_weights, save_weights
from pointrend.torchvision import COCO_CATEGORY_IDS
from pointrend.weights import read_state_dict, stored_metadata


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30, track_running_stats=False), nn.Linear(30, 2))


@pytest.fixture
def other() -> nn.Module:
    """The same layers, other weights."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30, track_running_stats=False), nn.Linear(30, 2))


class TestRoundTrip:
    @pytest.mark.parametrize("head", ["pointrend", "4xconv"])
    @pytest.mark.parametrize("norm", ["group", "frozen_batch"])
    def test_is_bit_equal(self, head: str, norm: str, tiny_model: Callable[..., nn.Module], tmp_path: Path) -> None:
        saved, loaded = tiny_model(head, norm=norm), tiny_model(head, seed=1, norm=norm)
        assert not equal(saved.state_dict(), loaded.state_dict())
        save_weights(saved, tmp_path / "model.safetensors")
        load_weights(loaded, tmp_path / "model.safetensors")
        assert equal(saved.state_dict(), loaded.state_dict())

    @pytest.mark.parametrize("suffix", [".pt", ".pth"])
    @pytest.mark.parametrize("wrapped", [False, True])
    @pytest.mark.parametrize("zipped", [False, True])
    def test_plain_state_dicts(
        self, suffix: str, wrapped: bool, zipped: bool, model: nn.Module, other: nn.Module, tmp_path: Path
    ) -> None:
        state = model.state_dict()
        path = tmp_path / f"model{suffix}"
        torch.save({"model": state, "epoch": 3} if wrapped else state, path, _use_new_zipfile_serialization=zipped)
        load_weights(other, path)
        assert equal(model.state_dict(), other.state_dict())

    def test_makes_the_folder_and_replaces_the_file(self, model: nn.Module, other: nn.Module, tmp_path: Path) -> None:
        path = tmp_path / "new" / "deep" / "model.safetensors"
        save_weights(other, path)
        save_weights(model, str(path))
        assert equal(read_state_dict(path), model.state_dict())
        assert os.listdir(path.parent) == ["model.safetensors"]
        assert path.stat().st_mode & 0o777 == 0o644

    def test_transposed_weights(self, other: nn.Module, tmp_path: Path) -> None:
        """Views of memory in another order, such as channels last."""
        other[0].weight = nn.Parameter(torch.randn(40, 30).T)
        save_weights(other, tmp_path / "model.safetensors")
        assert equal(read_state_dict(tmp_path / "model.safetensors"), other.state_dict())

    @pytest.mark.parametrize("name", ["model.pt", "model.pth", "model"])
    def test_what_is_saved_can_be_loaded(self, name: str, model: nn.Module, other: nn.Module, tmp_path: Path) -> None:
        """Under another suffix too, or it is refused before there is a file."""
        with contextlib.suppress(ValueError):
            save_weights(model, tmp_path / name)
        if (tmp_path / name).exists():
            load_weights(other, tmp_path / name)
            assert equal(model.state_dict(), other.state_dict())

    def test_batch_norm(self, tmp_path: Path) -> None:
        """Its count of batches, which torchvision's checkpoints may lack, does not get in the way."""
        saved, loaded = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2))
        saved(torch.randn(9, 3))
        save_weights(saved, tmp_path / "model.safetensors")
        load_weights(loaded, tmp_path / "model.safetensors")
        assert torch.equal(loaded[1].running_var, saved[1].running_var)


class TestSavingFails:
    @staticmethod
    @contextmanager
    def full_disk() -> Iterator[None]:
        """No file grows beyond a kilobyte inside the block."""
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)

    @pytest.mark.parametrize("existing", [False, True])
    def test_disk_is_full(self, existing: bool, model: nn.Module, other: nn.Module, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        if existing:
            save_weights(other, path)
        before = os.listdir(tmp_path)
        with self.full_disk(), pytest.raises((OSError, SafetensorError), match=r"(?i)large"):
            save_weights(model, path)
        assert os.listdir(tmp_path) == before
        if existing:
            assert equal(read_state_dict(path), other.state_dict())

    def test_error_names_the_file(self, model: nn.Module, tmp_path: Path) -> None:
        with self.full_disk(), pytest.raises(OSError, match=r"model\.safetensors"):
            save_weights(model, tmp_path / "model.safetensors")

    def test_folder_is_a_file(self, model: nn.Module, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("here first")
        with pytest.raises(OSError, match="file"):
            save_weights(model, tmp_path / "file" / "model.safetensors")
        assert (tmp_path / "file").read_text() == "here first"

    def test_path_is_a_folder(self, model: nn.Module, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").mkdir()
        with pytest.raises(OSError, match=r"model\.safetensors"):
            save_weights(model, tmp_path / "model.safetensors")
        assert os.listdir(tmp_path) == ["model.safetensors"]


class TestWrongModel:
    def test_lists_missing_left_over_and_shape(self, model: nn.Module, tmp_path: Path) -> None:
        state = model.state_dict()
        state["0.weight"] = torch.zeros(30, 41)
        state["stranger"] = state.pop("2.bias")
        state["another.stranger"] = torch.zeros(1)
        save_file(state, tmp_path / "model.safetensors")
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(ValueError, match=r"model\.safetensors: not a checkpoint of this model") as raised:
            load_weights(model, tmp_path / "model.safetensors")
        assert str(raised.value).splitlines()[1:] == [
            "  missing: 2.bias",
            "  left over: another.stranger",
            "  left over: stranger",
            "  shape of 0.weight: (30, 41) in the file, (30, 40) in the model",
        ]
        assert equal(model.state_dict(), before)

    def test_the_other_head(self, tiny_model: Callable[..., nn.Module], tmp_path: Path) -> None:
        save_weights(tiny_model("4xconv"), tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=r"missing: mask_head\.coarse_head\.fc1\.bias") as raised:
            load_weights(tiny_model("pointrend"), tmp_path / "model.safetensors")
        assert "left over: mask_head.head.0.bias" in str(raised.value)
        assert "backbone" not in str(raised.value)

    def test_another_number_of_classes(self, tiny_model: Callable[..., nn.Module], tmp_path: Path) -> None:
        save_weights(tiny_model("pointrend"), tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=r"cls_score.bias: \(4,\) in the file, \(6,\) in the model"):
            load_weights(tiny_model("pointrend", num_classes=5), tmp_path / "model.safetensors")


class TestDamagedFiles:
    @pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "model"])
    def test_missing(self, name: str, model: nn.Module, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=f"{name}: no such weight file"):
            load_weights(model, tmp_path / name)

    def test_a_folder(self, model: nn.Module, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no such weight file"):
            load_weights(model, tmp_path)

    @pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
    def test_truncated_anywhere(self, kind: str, model: nn.Module, other: nn.Module, tmp_path: Path) -> None:
        path = tmp_path / ("model.safetensors" if kind == "safetensors" else "model.pt")
        if kind == "safetensors":
            save_weights(model, path)
        else:
            torch.save(model.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
        whole = path.read_bytes()
        before = {name: value.clone() for name, value in other.state_dict().items()}
        for length in (*range(20), *range(20, len(whole), len(whole) // 40), len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(ValueError, match=rf"{path.name}: not a readable weight file, or truncated"):
                load_weights(other, path)
        assert equal(other.state_dict(), before)

    @pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
    @pytest.mark.parametrize(
        "content",
        [b"not weights at all\n" * 20, b"<html>404</html>", bytes(1000), bytes(range(256)) * 8, b"PK\x03\x04"],
    )
    def test_something_else(self, name: str, content: bytes, model: nn.Module, tmp_path: Path) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            load_weights(model, tmp_path / name)

    @pytest.mark.parametrize(
        "content", [[1, 2], {"epoch": 3}, {"weight": "none"}, torch.zeros(3), {1: torch.zeros(3)}, {}], ids=str
    )
    def test_no_state_dict(self, content: object, model: nn.Module, tmp_path: Path) -> None:
        torch.save(content, tmp_path / "model.pt")
        with pytest.raises(ValueError, match=r"model\.pt"):
            load_weights(model, tmp_path / "model.pt")


class Payload:
    """Pickles to a call."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [False, True])
def test_code_in_a_pickle_is_refused_and_does_not_run(zipped: bool, model: nn.Module, tmp_path: Path) -> None:
    state: dict[str, Any] = {**model.state_dict(), "0.bias": Payload(tmp_path / "owned")}
    torch.save(state, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"model\.pt"):
        load_weights(model, tmp_path / "model.pt")
    assert not (tmp_path / "owned").exists()
    # It would have run, had pickles been trusted.
    torch.load(tmp_path / "model.pt", weights_only=False)
    assert (tmp_path / "owned").exists()


def randomly(network: nn.Module) -> nn.Module:
    """A network from the meta device with small random weights: quicker than its own initialisation."""
    network = network.to_empty(device="cpu")
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0, 0.05)
            else:
                value.zero_()
    return network


class TestTorchvision:
    """The checkpoint of torchvision's maskrcnn_resnet50_fpn, but with random weights."""

    @pytest.fixture(scope="class")
    def theirs(self) -> MaskRCNN:
        torch.manual_seed(0)
        with torch.device("meta"):
            network = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
        return randomly(network)

    @pytest.fixture(scope="class")
    def checkpoint(self, theirs: MaskRCNN, tmp_path_factory: pytest.TempPathFactory) -> Path:
        path = tmp_path_factory.mktemp("torchvision") / "maskrcnn_resnet50_fpn_coco.pth"
        torch.save(theirs.state_dict(), path)
        return path

    @pytest.fixture(scope="class")
    def ours(self, checkpoint: Path) -> nn.Module:
        with torch.device("meta"):
            model = build_model("maskrcnn_r50_fpn_coco")
        model = model.to_empty(device="cpu")
        load_weights(model, checkpoint)
        return model

    def test_backbone_and_shared_layers(self, theirs: MaskRCNN, ours: nn.Module) -> None:
        expected = {
            name: value
            for name, value in theirs.state_dict().items()
            if name.startswith(("backbone.", "rpn.", "roi_heads.box_head.")) and "num_batches_tracked" not in name
        }
        state = ours.state_dict()
        assert all(torch.equal(state[name], value) for name, value in expected.items())
        rest = state.keys() - expected.keys()
        assert all(name.startswith(("mask_head.", "roi_heads.box_predictor.")) for name in rest)

    def test_mask_convolutions(self, theirs: MaskRCNN, ours: nn.Module) -> None:
        convolutions = [layer for layer in ours.mask_head.head if not isinstance(layer, nn.ReLU)]
        wanted = [block[0] for block in theirs.roi_heads.mask_head] + [theirs.roi_heads.mask_predictor.conv5_mask]
        assert len(convolutions) == 6
        for layer, other in zip(convolutions, wanted, strict=False):
            assert torch.equal(layer.weight, other.weight)
            assert torch.equal(layer.bias, other.bias)

    @pytest.mark.parametrize(
        ("label", "category"),
        [(1, 1), (11, 11), (12, 13), (25, 27), (26, 28), (27, 31), (80, 90)],  # person, ..., toothbrush
    )
    def test_rows_of_the_classes(self, label: int, category: int, theirs: MaskRCNN, ours: nn.Module) -> None:
        their_box, our_box = theirs.roi_heads.box_predictor, ours.roi_heads.box_predictor
        their_mask, our_mask = theirs.roi_heads.mask_predictor.mask_fcn_logits, ours.mask_head.head[-1]
        for kind in ("weight", "bias"):
            scores = getattr(our_box.cls_score, kind), getattr(their_box.cls_score, kind)
            assert torch.equal(scores[0][label], scores[1][category])
            deltas = getattr(our_box.bbox_pred, kind), getattr(their_box.bbox_pred, kind)
            assert torch.equal(deltas[0][4 * label : 4 * label + 4], deltas[1][4 * category : 4 * category + 4])
            # Our mask head has no background.
            masks = getattr(our_mask, kind), getattr(their_mask, kind)
            assert torch.equal(masks[0][label - 1], masks[1][category])

    def test_background_comes_first(self, theirs: MaskRCNN, ours: nn.Module) -> None:
        assert ours.roi_heads.box_predictor.cls_score.out_features == 81
        assert torch.equal(
            ours.roi_heads.box_predictor.cls_score.weight[0], theirs.roi_heads.box_predictor.cls_score.weight[0]
        )

    def test_pointrend_cannot_take_it(self, checkpoint: Path) -> None:
        with torch.device("meta"):
            model = build_model("pointrend_rcnn_r50_fpn_coco")
        with pytest.raises(ValueError, match=r"missing: mask_head\.coarse_head\.fc1\.bias") as raised:
            load_weights(model, checkpoint)
        assert "left over: mask_head.head.0.bias" in str(raised.value)
        assert "backbone" not in str(raised.value)

    @pytest.fixture(params=[3, 80])
    def tiny_theirs(
        self, request: pytest.FixtureRequest, tiny_model: Callable[..., nn.Module]
    ) -> tuple[nn.Module, dict[str, Tensor]]:
        """A model and its own weights as torchvision would name them: with a mask of the background, too."""
        model = tiny_model("4xconv", num_classes=request.param)
        state = {}
        for name, value in model.state_dict().items():
            for theirs, ours in (
                *((f"mask_head.{index}.0.", f"mask_head.head.{2 * index}.") for index in range(4)),
                ("mask_predictor.conv5_mask.", "mask_head.head.8."),
                ("mask_predictor.mask_fcn_logits.", "mask_head.head.10."),
            ):
                if name.startswith(ours):
                    state[f"roi_heads.{theirs}{name.removeprefix(ours)}"] = value
            if not name.startswith("mask_head."):
                state[name] = value
        for kind in ("weight", "bias"):
            name = f"roi_heads.mask_predictor.mask_fcn_logits.{kind}"
            state[name] = torch.cat((torch.zeros_like(state[name][:1]), state[name]))
        return model, state

    def test_trained_on_other_classes(self, tiny_theirs: tuple[nn.Module, dict[str, Tensor]], tmp_path: Path) -> None:
        """As many classes as the model has, all in use."""
        model, state = tiny_theirs
        expected = {name: value.clone() for name, value in model.state_dict().items()}
        torch.save(state, tmp_path / "theirs.pth")
        load_weights(model, tmp_path / "theirs.pth")
        assert equal(model.state_dict(), expected)

    def test_left_over_names_are_listed(self, tiny_theirs: tuple[nn.Module, dict[str, Tensor]], tmp_path: Path) -> None:
        model, state = tiny_theirs
        state["roi_heads.keypoint_head.0.weight"] = torch.zeros(3)
        torch.save(state, tmp_path / "theirs.pth")
        with pytest.raises(ValueError, match=r"left over: roi_heads\.keypoint_head\.0\.weight"):
            load_weights(model, tmp_path / "theirs.pth")

    @pytest.mark.parametrize(
        "name", ["roi_heads.box_predictor.cls_score.bias", "roi_heads.mask_predictor.mask_fcn_logits.bias"]
    )
    def test_missing_names_are_listed(
        self, name: str, tiny_theirs: tuple[nn.Module, dict[str, Tensor]], tmp_path: Path
    ) -> None:
        model, state = tiny_theirs
        del state[name]
        torch.save(state, tmp_path / "theirs.pth")
        with pytest.raises(ValueError, match=r"theirs\.pth: not a checkpoint of this model:\n  missing: "):
            load_weights(model, tmp_path / "theirs.pth")

    def test_not_a_detector(self, tiny_theirs: tuple[nn.Module, dict[str, Tensor]], tmp_path: Path) -> None:
        torch.save(tiny_theirs[1], tmp_path / "theirs.pth")
        with pytest.raises(ValueError, match=r"theirs\.pth"):
            load_weights(nn.Linear(2, 3), tmp_path / "theirs.pth")


class TestPyramidFromP3:
    """SemanticFPN from P3 on has no P2; files of earlier versions have one."""

    LEVELS = ("p3", "p4", "p5")
    P2 = frozenset(
        f"backbone.fpn.{kind}_blocks.0.{part}"
        for kind in ("inner", "layer")
        for part in ("0.weight", "1.weight", "1.bias")
    )

    @pytest.fixture
    def whole(self) -> Any:
        """The same network with P2, which PointRend needs."""
        torch.manual_seed(0)
        return build_model("pointrend_semantic_fpn_tiny", num_classes=3, levels=self.LEVELS).eval()

    @pytest.fixture
    def earlier(self, whole: Any, tmp_path: Path) -> Path:
        """A file of an earlier version."""
        save_weights(build_model("semantic_fpn_tiny", num_classes=3, levels=self.LEVELS), tmp_path / "new.safetensors")
        state = {name: value for name, value in whole.state_dict().items() if not name.startswith("pointrend.")}
        save_file(state, tmp_path / "old.safetensors", stored_metadata(tmp_path / "new.safetensors"))
        return tmp_path / "old.safetensors"

    def test_has_all_other_convolutions_by_their_names(self, whole: Any) -> None:
        own = build_model("semantic_fpn_tiny", num_classes=3, levels=self.LEVELS).state_dict().keys()
        assert own == {name for name in whole.state_dict() if not name.startswith("pointrend.")} - self.P2

    def test_an_earlier_file_loads_without_its_p2(self, whole: Any, earlier: Path) -> None:
        with pytest.warns(
            UserWarning, match=r"old\.safetensors: left out backbone\.fpn\.inner_blocks\.0\.0\.weight, .*P3 to P5"
        ):
            model: Any = load_model(earlier)
        batch = whole.transform([torch.rand(3, 64, 96)])
        with torch.no_grad():
            assert torch.equal(model.coarse_logits(batch)[1], whole.coarse_logits(batch)[1])

    def test_what_is_saved_again_needs_no_warning(self, earlier: Path, tmp_path: Path) -> None:
        with pytest.warns(UserWarning, match="left out"):
            save_weights(load_model(earlier), tmp_path / "again.safetensors")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load_model(tmp_path / "again.safetensors")

    def test_a_model_with_p2_does_not_take_weights_without(self, earlier: Path, tmp_path: Path) -> None:
        save_file(without(read_state_dict(earlier), self.P2), tmp_path / "bare.safetensors")
        with pytest.raises(ValueError, match=r"missing: backbone\.fpn\.inner_blocks\.0\.0\.weight"):
            load_model(tmp_path / "bare.safetensors", "semantic_fpn_tiny", num_classes=3)


def without(state: dict[str, Tensor], names: frozenset[str]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name not in names}


def test_coco_has_80_categories_between_1_and_90() -> None:
    assert len(COCO_CATEGORY_IDS) == 80
    assert (COCO_CATEGORY_IDS[0], COCO_CATEGORY_IDS[-1]) == (1, 90)
    assert list(COCO_CATEGORY_IDS) == sorted(set(COCO_CATEGORY_IDS))
