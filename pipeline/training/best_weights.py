"""The best weights of a training so far, by a metric of the val images."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class BestWeights:
    """The weights with the best score so far, the first of equal ones, on the CPU; part of a training's checkpoints.

    Attributes:
        last: the update of the last validation; 0 before the first.
        update: the update that the weights are of; 0 before the first validation.
        score: theirs, in percent; NaN if no validation had a defined one. Any defined score is better.
        without_improvement: the number of validations since then.
        model: the weights, as a model's state dict. Its tensors never change.
    """

    last: int = 0
    update: int = 0
    score: float = math.nan
    without_improvement: int = 0
    model: dict[str, Tensor] = field(default_factory=dict)

    def add(self, update: int, score: float, model: nn.Module) -> None:
        """Takes the score of a model after ``update`` updates, NaN if it is undefined, and copies the best weights."""
        self.last = update
        better = math.isnan(self.score) or score > self.score
        if better or score == self.score:  # of equal ones those that trained longer, as where nothing is found yet
            self.update, self.score = update, score
            self.model = copy_to_cpu(model.state_dict())
        self.without_improvement = 0 if better else self.without_improvement + 1

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises KeyError or TypeError if the state is of something else."""
        self.last, self.update = int(state["last"]), int(state["update"])
        self.score, self.without_improvement = float(state["score"]), int(state["without_improvement"])
        self.model = {name: value.cpu() for name, value in state["model"].items()}


def copy_to_cpu(value: Any) -> Any:
    """A copy of nested dicts and lists, with tensors copied to the CPU's memory."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copy_to_cpu(entry) for key, entry in value.items()}
    return [copy_to_cpu(entry) for entry in value] if isinstance(value, list) else value
