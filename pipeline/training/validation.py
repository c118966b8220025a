"""Validates a network now and then while it trains: keeps its best weights, and decides when to stop early."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.config.experiments import RunConfig
from pipeline.training.best_weights import BestWeights
from pipeline.training.run_log import RunLog
from pointrend.wording import counted

if TYPE_CHECKING:
    from pipeline.training.run import Workers

#: Scores weights on the val images, in percent by metric, without undefined ones. All workers must call it; the scores
#: are worker 0's. The argument writes the weights to a file; it is called by worker 0.
Measure = Callable[[Callable[[Path], None]], Mapping[str, float]]


class Validator:
    """Validates a network under training on the val images, as its schedule says. All workers must have one.

    Args:
        config: the run, whose schedule validates.
        workers: this worker's view of the run's workers.
        best: worker 0's best weights so far.
        model: the network.
        save: writes its weights to a file.
        measure: scores weights.
        log: worker 0's log.
    """

    def __init__(
        self,
        config: RunConfig,
        workers: "Workers",
        best: BestWeights,
        model: torch.nn.Module,
        save: Callable[[Path], None],
        measure: Measure,
        log: RunLog | None,
    ) -> None:
        assert config.validation is not None
        self._schedule, self._metric, self._label = config.schedule, config.validation.metric, config.validation.label
        self._workers, self._best, self._model, self._log = workers, best, model, log
        self._save, self._measure = save, measure
        self._share_state()

    def _share_state(self) -> None:
        """Tells all workers of the last validation, and whether the training ends with it."""
        patience, best = self._schedule.stop_early, self._best
        self._last = self._workers.broadcast(best.last)
        self._ended = bool(self._workers.broadcast(patience is not None and best.without_improvement >= patience))

    def after(self, update: int) -> bool:
        """Validates after ``update`` updates, if the schedule says so and it was not done. All workers must call it.

        Neither the network nor the random state of the training changes.

        Returns:
            whether the training ends here.
        """
        if self._schedule.validates_after(update) and update > self._last:
            device = self._workers.device
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                scores = self._measure(self._save)
            if self._log is not None:
                self._best.add(update, scores.get(self._metric, math.nan), self._model)
                self._log.validated(update, scores)
                print(self._line(scores), flush=True)
            self._share_state()
        return self._ended

    def _line(self, scores: Mapping[str, float]) -> str:
        best = self._best
        if self._metric not in scores:
            return f"update {best.last}: {self._label} is undefined on the val images"
        since = "" if best.update == best.last else f" at update {best.update}"
        return f"update {best.last}: {self._label} {scores[self._metric]:.1f} (best {best.score:.1f}{since})"

    def summary(self) -> dict[str, Any]:
        """What the training's record says of it, on worker 0."""
        best = self._best
        score = None if math.isnan(best.score) else round(best.score, 4)
        found: dict[str, Any] = {"best": {"update": best.update, "metric": self._metric, "score": score}}
        if self._ended and best.last < self._schedule.updates:
            found["updates"] = best.last
            found["stopped"] = (
                f"after update {best.last} of {self._schedule.updates}: no better {self._label} in "
                f"{counted(best.without_improvement, 'validation')}"
            )
        return found
