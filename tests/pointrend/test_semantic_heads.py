import pytest
import torch
from torch import nn

from pointrend.semantic_heads import ASPP, DeepLabV3Head, SemanticFPNHead


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.named_parameters()}


class TestASPP:
    def test_layers_of_the_paper(self) -> None:
        """One 1x1 and three 3x3 branches of rates 6, 12, 18 on 2048 channels, image pooling, and a projection."""
        with torch.device("meta"):
            aspp = ASPP(2048, 256, "batch")
        convs = [module for module in aspp.modules() if isinstance(module, nn.Conv2d)]
        assert [conv.kernel_size[0] for conv in convs] == [1, 3, 3, 3, 1, 1]
        assert [conv.dilation[0] for conv in convs] == [1, 6, 12, 18, 1, 1]
        assert [conv.in_channels for conv in convs] == [2048] * 5 + [1280]
        # Only the image pooling, which has one cell to normalise, has a bias instead of a norm.
        assert [conv.bias is not None for conv in convs] == [False] * 4 + [True, False]
        assert sum(isinstance(module, nn.BatchNorm2d) for module in aspp.modules()) == 5

    @pytest.mark.parametrize("size", [(1, 1), (3, 7), (40, 20)])
    def test_keeps_the_grid(self, size: tuple[int, int]) -> None:
        assert ASPP(8, 32, "group").eval()(torch.randn(2, 8, *size)).shape == (2, 32, *size)

    def test_a_branch_looks_as_far_at_stride_8_as_at_16(self) -> None:
        """Every second cell of the dense prediction is the sparse one: the image pooling aside."""
        aspp = ASPP(4, 32, "frozen_batch", rates=(1, 2, 3)).eval()
        nn.init.zeros_(aspp.pool.weight)
        dense = torch.randn(1, 4, 13, 18)
        with torch.no_grad():
            sparse = aspp(dense[..., ::2, ::2])
            aspp.set_output_stride(8)
            torch.testing.assert_close(aspp(dense)[..., ::2, ::2], sparse)

    def test_pools_the_whole_image_or_a_window(self) -> None:
        """On a map of two halves, 0 and 1, one window of half its width sees 0 to 1 as it slides."""
        features = torch.cat((torch.zeros(1, 1, 2, 4), torch.ones(1, 1, 2, 4)), dim=3)
        pooled = {}
        for window in (None, (32, 64), (512, 1024)):
            aspp = ASPP(1, 32, "frozen_batch", pool_window=window).eval()
            nn.init.ones_(aspp.pool.weight)
            pooled[window] = aspp._image_pool(features)[0, 0, 0]
        assert pooled[None].tolist() == [0.5] * 8
        assert pooled[512, 1024].tolist() == [0.5] * 8  # larger than the image: all of it
        slid = pooled[32, 64]  # 2x4 cells of stride 16
        assert slid[0] == 0
        assert slid[-1] == 1
        assert (slid.diff() > 0).sum() >= 6

    def test_the_window_is_in_pixels_of_the_image(self) -> None:
        features = torch.rand(1, 1, 4, 8)
        aspp = ASPP(1, 32, "frozen_batch", pool_window=(32, 64)).eval()
        nn.init.ones_(aspp.pool.weight)
        aspp.set_output_stride(8)
        torch.testing.assert_close(aspp._image_pool(features)[0, 0, 0, 0], features.mean())


class TestDeepLabV3Head:
    def test_reads_res5(self) -> None:
        head = DeepLabV3Head(6, 5, "group", channels=32).eval()
        assert head.stride == 16
        assert head({"res2": torch.zeros(0), "res5": torch.randn(2, 6, 3, 4)}).shape == (2, 5, 3, 4)

    def test_starts_undecided(self) -> None:
        head = DeepLabV3Head(6, 5, "group", channels=32).eval()
        assert head({"res5": torch.randn(1, 6, 8, 8)}).abs().max() < 0.1


class TestSemanticFPNHead:
    PYRAMID = ("p2", "p3", "p4", "p5")

    @staticmethod
    def pyramid(channels: int = 4, cells: int = 2) -> dict[str, torch.Tensor]:
        sides = {"p2": 8 * cells, "p3": 4 * cells, "p4": 2 * cells, "p5": cells}
        return {name: torch.randn(1, channels, side, side) for name, side in sides.items()}

    @pytest.mark.parametrize(("levels", "stride", "side"), [(PYRAMID, 4, 16), (PYRAMID[1:], 8, 8)])
    def test_predicts_on_the_grid_of_its_finest_level(self, levels: tuple[str, ...], stride: int, side: int) -> None:
        head = SemanticFPNHead(4, 5, levels, channels=32)
        assert head.stride == stride
        assert head(self.pyramid()).shape == (1, 5, side, side)

    def test_one_convolution_per_doubling(self) -> None:
        def convolutions(head: SemanticFPNHead) -> dict[str, int]:
            return {
                level: sum(isinstance(module, nn.Conv2d) for module in layers)
                for level, layers in head.levels.items()  # type: ignore[arg-type, union-attr]
            }

        assert convolutions(SemanticFPNHead(4, 5, channels=32)) == {"p2": 1, "p3": 1, "p4": 2, "p5": 3}
        assert convolutions(SemanticFPNHead(4, 5, self.PYRAMID[1:], channels=32)) == {"p3": 1, "p4": 1, "p5": 2}

    def test_p2_is_left_out(self) -> None:
        head = SemanticFPNHead(4, 5, self.PYRAMID[1:], channels=32)
        features = self.pyramid()
        before = head(features)
        assert torch.equal(head({**features, "p2": features["p2"] + 1}), before)
        assert not torch.equal(head({**features, "p5": features["p5"] + 1}), before)

    def test_sizes_of_the_published_head(self) -> None:
        """Seven 3x3 convolutions to 128 channels with group norm, and a 1x1 prediction layer."""
        with torch.device("meta"):
            head = SemanticFPNHead(256, 19)
        first, further = 4 * 256 * 128 * 9, 3 * 128 * 128 * 9
        assert sum(value.numel() for value in head.parameters()) == first + further + 7 * 2 * 128 + 128 * 19 + 19
        assert shapes(head)["predictor.weight"] == (19, 128, 1, 1)
