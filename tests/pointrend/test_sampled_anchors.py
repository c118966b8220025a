"""The RPN's head at sampled anchors is the head's convolutions, read there."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection.rpn import RPNHead

from pointrend.sampled_anchors import neighbours, predict_at, pyramid_cells

CHANNELS, ANCHORS = 4, 3
GRIDS = [[5, 7], [3, 4], [1, 2], [1, 1]]


def pyramid(images: int, grids: list[list[int]], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.randn(images, CHANNELS, *grid, dtype=dtype, requires_grad=True) for grid in grids]


def everywhere(head: RPNHead, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The logits (N T A,) and deltas (N T A, 4) of the convolutions."""
    logits, deltas = (
        torch.cat([level.flatten(2).transpose(1, 2).flatten(1) for level in levels], dim=1) for levels in head(maps)
    )
    return logits.flatten(), deltas.view(-1, 4)


def random_head(dtype: torch.dtype = torch.float64) -> RPNHead:
    head = RPNHead(CHANNELS, ANCHORS).to(dtype)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return head


@given(
    grids=st.lists(st.lists(st.integers(1, 6), min_size=2, max_size=2), min_size=1, max_size=5),
    images=st.integers(1, 3),
    channels_last=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_predictions_and_gradients_are_those_of_the_convolutions(
    grids: list[list[int]], images: int, channels_last: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    head, maps = random_head(), pyramid(images, grids)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    cells = pyramid_cells(grids, torch.device("cpu"))
    anchors = torch.randint(images * cells.total * ANCHORS, (20,))
    weights, box_weights = torch.randn(20, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)

    results = []
    for sampled in (False, True):
        network, leaves = copy.deepcopy(head), [level.detach().clone().requires_grad_() for level in maps]
        inputs = [level.contiguous(memory_format=layout) for level in leaves]
        if sampled:
            logits, deltas = predict_at(network, inputs, cells, anchors, 7)
        else:
            all_logits, all_deltas = everywhere(network, inputs)
            logits, deltas = all_logits[anchors], all_deltas[anchors[:7]]
        ((logits * weights).sum() + (deltas * box_weights).sum()).backward()
        results.append([logits, deltas, *(tensor.grad for tensor in (*leaves, *network.parameters()))])
    for found, expected in zip(results[1], results[0], strict=True):
        assert found is not None
        torch.testing.assert_close(found, expected)


def test_neighbours_by_hand() -> None:
    """Of a level of 2x3 cells, 0 to 5, and one of 1x1, 6, for the second of two images."""
    cells = pyramid_cells([[2, 3], [1, 1]], torch.device("cpu"))
    rows, inside = neighbours(cells, torch.tensor([7, 11, 13]))
    assert rows.masked_fill(~inside, -1).tolist() == [
        [-1, -1, -1, -1, 7, 8, -1, 10, 11],
        [7, 8, 9, 10, 11, 12, -1, -1, -1],
        [-1, -1, -1, -1, 13, -1, -1, -1, -1],
    ]
    assert rows[2].tolist() == [13] * 9


def test_a_head_of_several_convolutions_is_refused() -> None:
    head, cells = RPNHead(CHANNELS, ANCHORS, conv_depth=2), pyramid_cells(GRIDS, torch.device("cpu"))
    with pytest.raises(ValueError, match="one 3x3 convolution is needed, this one has 2"):
        predict_at(head, pyramid(1, GRIDS, torch.float32), cells, torch.arange(5), 0)


def test_without_foreground() -> None:
    cells = pyramid_cells(GRIDS, torch.device("cpu"))
    logits, deltas = predict_at(random_head(), pyramid(1, GRIDS), cells, torch.arange(5), 0)
    assert logits.shape == (5,)
    assert deltas.shape == (0, 4)


def test_autocast_keeps_the_gradients_of_weights_that_were_cast_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The convolutions run first, without a gradient, and autocast keeps their weights in bfloat16.

    Before torch 2.10 it would give what it has kept to whoever uses the same parameters next, so nobody may.
    """
    linear, used = torch.nn.functional.linear, []

    def watched(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        used.extend((weight, bias))
        return linear(rows, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", watched)
    torch.manual_seed(0)
    head, maps = random_head(torch.float32), pyramid(2, GRIDS, torch.float32)
    cells, anchors = pyramid_cells(GRIDS, torch.device("cpu")), torch.randint(100, (20,))
    gradients = []
    for enabled in (False, True):
        head.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            with torch.no_grad():
                head(maps)
            logits, deltas = predict_at(head, maps, cells, anchors, 10)
        (logits.float().sum() + deltas.float().sum()).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in head.parameters()]))  # type: ignore[union-attr]
    assert torch.cosine_similarity(*gradients, dim=0) == pytest.approx(1, abs=1e-3)
    assert len(used) == 12
    assert not {id(parameter) for parameter in head.parameters()} & {id(tensor) for tensor in used}
