"""The points of a space: all of a grid, draws that repeat, and Optuna's, none of them twice."""

import statistics
from typing import Any

from pipeline.config.sweeps import Point, RandomSearch, Range, Space
from pipeline.sweep.search import POINT, OptunaPoints, grid_points, point_name, random_points

SPACE = Space(num_points=Range(low=16, high=1024, log=True), importance_sample_ratio=Range(low=0.0, high=1.0))


def value(point: Point) -> float:
    """Best at N = 200, beta = 0.7."""
    return -abs(point["num_points"] - 200) / 200 - abs(point["importance_sample_ratio"] - 0.7)


def search(points: OptunaPoints, trials: int) -> list[Point]:
    found: list[Point] = []
    for number in range(trials):
        suggestion = points.suggest(str(number))
        if not isinstance(suggestion, dict):
            break
        found.append(suggestion[POINT])
        points.on_trial_complete(str(number), {"AP": value(found[-1])})
    return found


def test_a_grid_is_every_combination() -> None:
    space = Space(oversample_ratio=[1.0, 3.0, 5.0], importance_sample_ratio=[0.0, 0.75], point_layers=[2])
    points = grid_points(space)
    assert len({point_name(point) for point in points}) == len(points) == 6
    assert points[1] == {"oversample_ratio": 1.0, "importance_sample_ratio": 0.75, "point_layers": 2}
    assert isinstance(points[0]["point_layers"], int)


def test_random_draws_are_the_same_again_and_distinct() -> None:
    points = random_points(SPACE, RandomSearch(method="random", trials=20, seed=1))
    assert points == random_points(SPACE, RandomSearch(method="random", trials=20, seed=1))
    assert points != random_points(SPACE, RandomSearch(method="random", trials=20, seed=2))
    assert len({point_name(point) for point in points}) == 20
    assert all(16 <= p["num_points"] <= 1024 and isinstance(p["num_points"], int) for p in points)
    assert sum(p["num_points"] < 128 for p in points) >= 5, "as many small ones as large ones"


def test_random_draws_end_with_the_space() -> None:
    small = Space(oversample_ratio=[1.0, 3.0], importance_sample_ratio=[0.0, 0.75])
    assert len(random_points(small, RandomSearch(method="random", trials=20))) == 4


def test_optuna_searches_where_it_is_good() -> None:
    found = [value(point) for point in search(OptunaPoints(SPACE, "AP", seed=0), 40)]
    # The first ten are draws; from then on it learns.
    assert statistics.median(found[20:]) > statistics.median(found[:10]) + 0.2
    assert max(found) > max(found[:10])


def test_optuna_tries_no_point_twice_and_ends_with_the_space() -> None:
    small = Space(num_points=[49, 196], importance_sample_ratio=[0.0, 0.5, 1.0])
    found = search(OptunaPoints(small, "AP", seed=0), 20)
    assert sorted(map(point_name, found)) == sorted(map(point_name, grid_points(small)))


def test_optuna_goes_on_from_what_an_interrupted_sweep_has_begun() -> None:
    known = search(OptunaPoints(SPACE, "AP", seed=0), 7)
    found = search(OptunaPoints(SPACE, "AP", seed=0, known=known), 12)
    assert found[:7] == known
    assert len({point_name(point) for point in found}) == 12


def test_a_trial_that_failed_is_no_answer() -> None:
    points = OptunaPoints(SPACE, "AP", seed=0)
    suggestion: Any = points.suggest("a")
    points.on_trial_complete("a", None, error=True)
    following: Any = points.suggest("b")
    assert following[POINT] != suggestion[POINT]
