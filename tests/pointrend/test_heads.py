import pytest
import torch
from torch import Tensor, nn

from pointrend.heads import CoarseMaskHead, FourConvHead, PointHead


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class TestSizesOfThePaper:
    """256 FPN channels and COCO's 80 classes (Section 4, "Architecture")."""

    def test_four_conv_head(self) -> None:
        with torch.device("meta"):
            head = FourConvHead(256, 80)
        assert num_parameters(head) == 4 * (256 * 256 * 9 + 256) + (256 * 256 * 4 + 256) + (256 * 80 + 80)

    def test_coarse_head(self) -> None:
        with torch.device("meta"):
            head = CoarseMaskHead(256, 80)
        reduce = 256 * 256 * 4 + 256
        hidden = (12544 * 1024 + 1024) + (1024 * 1024 + 1024)
        assert num_parameters(head) == reduce + hidden + (1024 * 80 * 49 + 80 * 49)

    def test_point_head(self) -> None:
        with torch.device("meta"):
            head = PointHead(256, 80)
        assert num_parameters(head) == 3 * (336 * 256 + 256) + (336 * 80 + 80)


@pytest.mark.parametrize("regions", [0, 1, 3])
class TestShapes:
    def test_four_conv_head_doubles_the_grid(self, regions: int) -> None:
        assert FourConvHead(6, 5, channels=8)(torch.randn(regions, 6, 14, 14)).shape == (regions, 5, 28, 28)

    @pytest.mark.parametrize("side", [7, 4])
    def test_coarse_head_halves_the_grid(self, regions: int, side: int) -> None:
        head = CoarseMaskHead(6, 5, side=side, channels=8, hidden=16)
        assert head(torch.randn(regions, 6, 2 * side, 2 * side)).shape == (regions, 5, side, side)

    @pytest.mark.parametrize("num_points", [1, 11])
    def test_point_head_keeps_the_points(self, regions: int, num_points: int) -> None:
        fine, coarse = torch.randn(regions, 6, num_points), torch.randn(regions, 5, num_points)
        assert PointHead(6, 5, channels=8)(fine, coarse).shape == (regions, 5, num_points)


def test_coarse_prediction_at_the_first_layer_alone() -> None:
    head = PointHead(6, 5, channels=8, coarse_each_layer=False)
    assert [layer.in_channels for layer in (*head.layers, head.predictor)] == [11, 8, 8, 8]
    fine, coarse = torch.randn(2, 6, 9), torch.randn(2, 5, 9)
    x = head.layers[0](torch.cat((fine, coarse), dim=1)).relu()
    expected = head.predictor(head.layers[2](head.layers[1](x).relu()).relu())
    torch.testing.assert_close(head(fine, coarse), expected)


class TestPointsAreIndependent:
    @pytest.fixture
    def head(self) -> PointHead:
        torch.manual_seed(0)
        return PointHead(4, 3, channels=8).double()

    @pytest.fixture
    def features(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1)
        return tuple(torch.randn(2, c, 9, generator=generator, dtype=torch.float64) for c in (4, 3))  # type: ignore[return-value]

    def test_permuted_points_give_permuted_logits(self, head: PointHead, features: tuple[Tensor, Tensor]) -> None:
        fine, coarse = features
        order = torch.tensor([4, 0, 8, 2, 1, 7, 3, 6, 5])
        torch.testing.assert_close(head(fine[..., order], coarse[..., order]), head(fine, coarse)[..., order])

    def test_a_point_changes_no_other(self, head: PointHead, features: tuple[Tensor, Tensor]) -> None:
        fine, coarse = features
        moved = fine.clone()
        moved[1, :, 6] += 1
        changed = (head(moved, coarse) - head(fine, coarse)).abs().amax(dim=1) > 1e-12
        assert changed.nonzero().tolist() == [[1, 6]]

    def test_regions_share_the_weights(self, head: PointHead, features: tuple[Tensor, Tensor]) -> None:
        fine, coarse = (f[:1].expand(2, -1, -1) for f in features)
        first, second = head(fine, coarse)
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("layer", range(4))
def test_coarse_prediction_joins_every_layer(layer: int) -> None:
    """Section 4: "In each layer of the MLP, we supplement the 256 output channels with the K coarse features"."""
    torch.manual_seed(0)
    classes = 3
    head = PointHead(4, classes, channels=8).double()
    fine, coarse = torch.randn(2, 4, 9).double(), torch.randn(2, classes, 9).double()
    with torch.no_grad():
        for index, module in enumerate((*head.layers, head.predictor)):
            if index != layer:
                module.weight[:, -classes:] = 0
    assert (head(fine, coarse) - head(fine, torch.zeros_like(coarse))).abs().max() > 1e-6


def test_fine_features_matter_too() -> None:
    torch.manual_seed(0)
    head = PointHead(4, 3, channels=8).double()
    coarse = torch.randn(2, 3, 9).double()
    assert (head(torch.randn(2, 4, 9).double(), coarse) - head(torch.zeros(2, 4, 9).double(), coarse)).any()


class TestInitialMasksAreUndecided:
    def test_four_conv_head(self) -> None:
        torch.manual_seed(0)
        assert FourConvHead(64, 3, channels=64)(torch.randn(4, 64, 14, 14)).abs().max() < 0.1

    def test_coarse_head(self) -> None:
        torch.manual_seed(0)
        assert CoarseMaskHead(64, 3, channels=64, hidden=256)(torch.randn(4, 64, 14, 14)).abs().max() < 0.1

    def test_point_head(self) -> None:
        torch.manual_seed(0)
        assert PointHead(64, 3, channels=64)(torch.randn(4, 64, 50), torch.randn(4, 3, 50)).abs().max() < 0.1


def test_coarse_head_looks_at_the_whole_region() -> None:
    """An MLP, not a convolution: a cell of the mask depends on the opposite corner."""
    torch.manual_seed(0)
    head = CoarseMaskHead(2, 1, channels=4, hidden=32).double()
    features = torch.randn(1, 2, 14, 14, dtype=torch.float64, requires_grad=True)
    head(features)[0, 0, 0, 0].backward()
    assert features.grad[0, :, -2:, -2:].any()
