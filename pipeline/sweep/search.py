"""Chooses the points of a search space that a sweep tries. No point is tried twice."""

import math
import random
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from ray.tune.search import Searcher

from pipeline.config.sweeps import PARAMETERS, Point, RandomSearch, Range, Space, Value

POINT = "point"  # the key of a trial's point in Ray Tune's configuration of the trial
ATTEMPTS = 100  # how often a trial draws a point before it gives up, if all of them have been tried


def point_name(point: Point) -> str:
    """A point as a file name, the same for equal points."""
    return ",".join(f"{name}={value:.6g}" for name, value in sorted(point.items()))


def grid_points(space: Space) -> list[Point]:
    """Every combination of the choices, the last parameter varying fastest."""
    choices = {name: values for name, values in space.given.items() if isinstance(values, list)}
    return [_typed(dict(zip(choices, values, strict=True))) for values in product(*choices.values())]


def random_points(space: Space, search: RandomSearch) -> list[Point]:
    """Random points, the same in every call; fewer than ``search.trials`` if the space has fewer points."""
    generator = random.Random(search.seed)
    points: dict[str, Point] = {}
    for _ in range(ATTEMPTS * search.trials):
        point = _typed({name: _draw(values, generator) for name, values in space.given.items()})
        points.setdefault(point_name(point), point)
        if len(points) == search.trials:
            break
    return list(points.values())


def _draw(values: Sequence[Value] | Range, generator: random.Random) -> Value:
    if not isinstance(values, Range):
        return generator.choice(values)
    if values.log:
        return math.exp(generator.uniform(math.log(values.low), math.log(values.high)))
    return generator.uniform(values.low, values.high)


def _typed(point: Point) -> Point:
    """Rounds counts to integers and other values to the digits in :func:`point_name`: equal names mean equal points."""
    return {k: round(v) if PARAMETERS[k].is_count else float(f"{v:.6g}") for k, v in point.items()}


class OptunaPoints(Searcher):
    """Optuna's suggestions for Ray Tune.

    Unlike Ray's ``OptunaSearch`` it never suggests a point twice, and it first suggests the points that an interrupted
    sweep has already begun: their trials report their recorded metrics, from which Optuna learns.

    Args:
        space: the search space.
        metric: the metric to maximise.
        seed: the seed of the sampler.
        known: the points to suggest first.
    """

    def __init__(self, space: Space, metric: str, seed: int, known: Iterable[Point] = ()) -> None:
        super().__init__(metric=metric, mode="max")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        known = list(known)
        self._distributions = {name: _distribution(name, values) for name, values in space.given.items()}
        # With the same seed the first draws after an interruption would be the known points again.
        sampler = optuna.samplers.TPESampler(seed=seed + len(known), constant_liar=True)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        for point in known:
            self._study.enqueue_trial(point)
        self._asked: dict[str, optuna.Trial] = {}
        self._suggested: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        for _ in range(ATTEMPTS):
            trial = self._study.ask(self._distributions)
            point = _typed(trial.params)
            if point_name(point) not in self._suggested:
                self._suggested.add(point_name(point))
                self._asked[trial_id] = trial
                return {POINT: point}
            self._study.tell(trial, state=TrialState.FAIL)  # the sampler does not learn from failed trials
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        value = (result or {}).get(self.metric)
        self._study.tell(self._asked.pop(trial_id), value, state=TrialState.FAIL if value is None else None)

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: a sweep continues from its trials' own records."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing, see :meth:`save`."""


def _distribution(name: str, values: Sequence[Value] | Range) -> BaseDistribution:
    if not isinstance(values, Range):
        return CategoricalDistribution([_typed({name: value})[name] for value in values])
    if PARAMETERS[name].is_count:
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)
