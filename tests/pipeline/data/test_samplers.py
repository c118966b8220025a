from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.samplers import BatchShareError, Draw, Share, TrainingBatches, draw_seed, global_batches

orientations = st.lists(st.booleans(), min_size=1, max_size=40).map(lambda values: np.array(values, dtype=bool))
seeds = st.integers(0, 2**32 - 1)


def updates(wide: np.ndarray, batch_size: int = 4, seed: int = 0, stop: int = 12, **options: Any) -> list[list[Draw]]:
    return list(
        TrainingBatches(wide, batch_size=batch_size, seed=seed, stop=stop, start=options.pop("start", 0), **options)
    )


# Batches


@settings(deadline=None)
@given(orientations, st.integers(1, 8), seeds)
def test_every_batch_is_full_and_of_one_orientation(wide: np.ndarray, batch_size: int, seed: int) -> None:
    for batch in islice(global_batches(wide, batch_size, seed), 30):
        assert len(batch) == batch_size
        assert len({bool(wide[index]) for index in batch}) == 1
        assert all(0 <= index < len(wide) for index in batch)


@settings(deadline=None)
@given(orientations, st.integers(1, 8), seeds)
def test_no_image_of_an_orientation_is_ever_ahead_of_another_by_more_than_one(
    wide: np.ndarray, batch_size: int, seed: int
) -> None:
    seen = Counter(dict.fromkeys(range(len(wide)), 0))
    for batch in islice(global_batches(wide, batch_size, seed), 30):
        seen.update(batch)
        counts = [seen[index] for index in range(len(wide)) if bool(wide[index]) == bool(wide[batch[0]])]
        assert max(counts) - min(counts) <= 1


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(0, 4), st.integers(0, 4), seeds)
def test_an_epoch_is_every_image_once_where_the_groups_divide(
    batch_size: int, wide_batches: int, tall_batches: int, seed: int
) -> None:
    wide = np.array([True] * (wide_batches * batch_size) + [False] * (tall_batches * batch_size), dtype=bool)
    if not len(wide):
        return
    batches = global_batches(wide, batch_size, seed)
    for _ in range(3):
        epoch = list(islice(batches, wide_batches + tall_batches))
        assert sorted(index for batch in epoch for index in batch) == list(range(len(wide)))


def test_both_orientations_come_in_proportion() -> None:
    wide = np.arange(100) < 70
    found = [bool(wide[batch[0]]) for batch in islice(global_batches(wide, 5, 0), 200)]
    assert sum(found) == 140


def test_epochs_have_different_orders() -> None:
    wide = np.zeros(40, bool)
    first, second = (list(islice(global_batches(wide, 40, 0), 2))[i] for i in (0, 1))
    assert sorted(first) == sorted(second)
    assert first != second


def test_fewer_images_than_a_batch() -> None:
    for batch in islice(global_batches(np.array([True]), 4, 0), 3):
        assert batch == [0, 0, 0, 0]


# Workers and resuming


def shares_of(batch_size: int, world_size: int, images_per_worker: int | None = None) -> list[Share]:
    return [Share.of_batch(batch_size, images_per_worker, rank, world_size) for rank in range(world_size)]


@settings(deadline=None)
@given(orientations, st.sampled_from([4, 8, 12]), seeds)
def test_the_workers_together_have_the_batch_of_one(wide: np.ndarray, batch_size: int, seed: int) -> None:
    alone = updates(wide, batch_size, seed)
    assert [[draw.image for draw in batch] for batch in alone] == list(
        islice(global_batches(wide, batch_size, seed), 12)
    )
    for world_size in (1, 2, 4):
        parts = [updates(wide, batch_size, seed, share=share) for share in shares_of(batch_size, world_size)]
        for batch, *shares in zip(alone, *parts, strict=True):
            assert [len(share) for share in shares] == [batch_size // world_size] * world_size
            # Interleaved again, images and augmentation seeds alike.
            assert [share[slot] for slot in range(batch_size // world_size) for share in shares] == batch


@settings(deadline=None)
@given(orientations, seeds, st.integers(0, 12), st.sampled_from([(0, 1), (0, 2), (1, 2), (3, 4)]))
def test_resuming_is_skipping(wide: np.ndarray, seed: int, start: int, worker: tuple[int, int]) -> None:
    rank, world_size = worker
    share = Share(rank, world_size, micro_batches=4)
    whole = updates(wide, seed=seed, share=share)
    assert updates(wide, seed=seed, start=start, share=share) == whole[start * len(share.own) :]


@settings(deadline=None)
@given(orientations, seeds, st.integers(1, 6), st.sampled_from([1, 2]))
def test_any_number_of_workers_does_the_same_parts(
    wide: np.ndarray, seed: int, world_size: int, images_per_worker: int
) -> None:
    whole = updates(wide, 12, seed)
    shares = shares_of(12, world_size, images_per_worker)
    parts = shares[0].micro_batches
    assert parts == 12 // images_per_worker
    assert sorted(part for share in shares for part in share.own) == list(range(parts))
    done = [iter(updates(wide, 12, seed, share=share)) for share in shares]
    for batch in whole:
        assert [next(done[part % world_size]) for part in range(parts)] == [batch[p::parts] for p in range(parts)]
    assert all(next(rest, None) is None for rest in done)


def test_passes_are_no_larger_than_a_worker_s_share() -> None:
    assert Share.of_batch(8, 4, world_size=8).micro_batches == 8
    assert Share.of_batch(8, 16, world_size=2).micro_batches == 2
    assert Share.of_batch(8, None).micro_batches == 1


@pytest.mark.parametrize(("start", "stop", "length"), [(0, 12, 12), (5, 12, 7), (12, 12, 0)])
def test_the_length_is_the_number_of_updates(start: int, stop: int, length: int) -> None:
    batches = TrainingBatches(np.zeros(9, bool), batch_size=4, seed=0, start=start, stop=stop)
    assert len(batches) == len(list(batches)) == length


def test_iterating_twice_gives_the_same() -> None:
    batches = TrainingBatches(np.arange(9) < 4, batch_size=2, seed=3, start=1, stop=9)
    assert list(batches) == list(batches)


# Seeds


def test_runs_of_different_seeds_differ() -> None:
    wide = np.zeros(50, bool)
    runs = [updates(wide, seed=seed) for seed in range(5)]
    orders = {tuple(draw.image for batch in run for draw in batch) for run in runs}
    assert len(orders) == 5
    all_seeds = [draw.seed for run in runs for batch in run for draw in batch]
    assert len(set(all_seeds)) == len(all_seeds)


def test_every_slot_of_every_update_has_a_seed_of_its_own() -> None:
    found = [draw.seed for batch in updates(np.zeros(5, bool), 16, 0, 500) for draw in batch]
    assert len(set(found)) == len(found) == 8000
    assert all(0 <= seed < 2**63 for seed in found)


def test_seeds_are_the_same_for_any_number_of_workers() -> None:
    wide = np.arange(20) < 9
    alone = [{draw.seed for draw in batch} for batch in updates(wide, 8)]
    for world_size in (2, 4, 8):
        parts = [updates(wide, 8, share=share) for share in shares_of(8, world_size)]
        assert [{d.seed for share in shares for d in share} for shares in zip(*parts, strict=True)] == alone


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 2**31)] * 3), min_size=2, max_size=20, unique=True))
def test_different_keys_have_different_seeds(keys: list[tuple[int, int, int]]) -> None:
    assert len({draw_seed(*key) for key in keys}) == len(keys)


def test_the_seed_of_the_initial_weights_is_not_that_of_an_update() -> None:
    # A run draws its weights from draw_seed(seed), and the randomness of its first update from draw_seed(seed, 0, 0).
    assert draw_seed(5) != draw_seed(5, 0, 0)


def test_augmentation_does_not_share_its_seeds_with_the_model() -> None:
    # pipeline.training.loop seeds the model's randomness of a part of an update with draw_seed(seed, update, part).
    for update, batch in enumerate(updates(np.zeros(5, bool), 4, seed=7)):
        assert not {draw.seed for draw in batch} & {draw_seed(7, update, part) for part in range(4)}


# Errors


@pytest.mark.parametrize(("batch_size", "world_size"), [(16, 3), (2, 4), (5, 2)])
def test_a_batch_that_does_not_divide(batch_size: int, world_size: int) -> None:
    with pytest.raises(BatchShareError, match=f"batch_size is {batch_size}, which {world_size} workers"):
        Share.of_batch(batch_size, None, world_size=world_size)
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}, which cannot be cut into {world_size}"):
        updates(np.zeros(5, bool), batch_size, share=Share(0, world_size, world_size))


def test_passes_that_do_not_make_up_a_batch() -> None:
    with pytest.raises(BatchShareError, match=r"batch_size is 16, not a multiple of images_per_worker, which is 3"):
        Share.of_batch(16, 3)


def test_an_empty_dataset() -> None:
    with pytest.raises(ValueError, match="no images to train on"):
        updates(np.zeros(0, bool))
