import pytest
import torch
from torch import Tensor

from pointrend.finite import check_finite


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_names_what_is_not_finite(dtype: torch.dtype, value: float) -> None:
    tensor = torch.zeros(2, 5, 7, dtype=dtype)
    tensor[1, 3, 2] = value
    with pytest.raises(ValueError, match=r"feature map 'p2', of shape \(2, 5, 7\), holds NaN or infinity"):
        check_finite({"first": torch.zeros(3), "feature map 'p2'": tensor})


def test_opposite_infinities_do_not_cancel() -> None:
    with pytest.raises(ValueError, match="x"):
        check_finite({"x": torch.tensor([float("inf"), float("-inf")])})


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(0, 3),
        torch.full((100_000,), 6e4, dtype=torch.float16),  # their sum is beyond half precision
        torch.full((1000,), -1e30),
        torch.full((10,), 1e300, dtype=torch.float64),
    ],
)
def test_large_numbers_are_numbers(tensor: Tensor) -> None:
    check_finite({"x": tensor})


def test_a_recorded_graph_has_no_check() -> None:
    class Guarded(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            check_finite({"x": x})
            return x + 1

    program = torch.export.export(Guarded(), (torch.zeros(3),))
    assert program.module()(torch.tensor([1.0, 2.0, float("nan")]))[:2].tolist() == [2, 3]
