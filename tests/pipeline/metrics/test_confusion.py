"""Confusion matrices: against a case worked by hand, their sums, and scikit-learn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from sklearn.metrics import confusion_matrix

from pipeline.config.labels import LabelTable
from pipeline.data.coco import Category
from pipeline.data.manifest import INSTANCE_SCHEMA
from pipeline.metrics.confusion import (
    BACKGROUND,
    IGNORED,
    instance_confusion,
    match_objects,
    pixel_confusion,
)
from pipeline.metrics.errors import PredictionError
from pipeline.metrics.precision_recall import USUAL_SCORE, read_curves

SIDE = 12
CATEGORIES = [Category(3, "cat"), Category(5, "dog"), Category(9, "owl")]

Box = tuple[int, int, int, int]


def rle(box: Box) -> dict[str, Any]:
    x, y, width, height = box
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    return coco_mask.encode(mask)


def manifest(images: list[list[tuple[int, Box, bool]]]) -> pa.Table:
    """Images with objects: number of the category, box, whether it is a crowd."""
    rows = [
        {
            "id": image,
            "file_name": f"{image}.png",
            "height": SIDE,
            "width": SIDE,
            "annotations": [
                {
                    "id": number,
                    "category_id": CATEGORIES[kind].id,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": crowd,
                    "counts": rle(box)["counts"],
                }
                for number, (kind, box, crowd) in enumerate(objects)
            ],
        }
        for image, objects in enumerate(images)
    ]
    return pa.Table.from_pylist(rows, schema=INSTANCE_SCHEMA)


def results(path: Path, images: list[list[tuple[int, Box, float]]]) -> Path:
    """A file of predictions: number of the category, box, score."""
    found = [
        {
            "image_id": image,
            "category_id": CATEGORIES[kind].id,
            "score": score,
            "segmentation": {"size": [SIDE, SIDE], "counts": rle(box)["counts"].decode()},
        }
        for image, predictions in enumerate(images)
        for kind, box, score in predictions
    ]
    path.write_text(json.dumps(found))
    return path


LEFT, RIGHT, BELOW, CORNER = (0, 0, 4, 4), (6, 0, 4, 4), (0, 6, 4, 4), (6, 6, 6, 6)
CAT, DOG, OWL = range(3)


def test_a_case_worked_by_hand(tmp_path: Path) -> None:
    truth = manifest(
        [
            [(CAT, LEFT, False), (DOG, RIGHT, False), (OWL, BELOW, False), (CAT, CORNER, True)],
            [(OWL, LEFT, False)],
        ]
    )
    found = results(
        tmp_path / "found.json",
        [
            [
                (CAT, LEFT, 0.9),  # right
                (DOG, LEFT, 0.8),  # the cat is taken: background
                (CAT, RIGHT, 0.95),  # a dog taken for a cat
                (DOG, (6, 0, 4, 3), 0.7),  # the dog is taken by the cat of higher score: background
                (CAT, (7, 7, 3, 3), 0.6),  # on a crowd of cats: left out
                (DOG, (7, 7, 3, 3), 0.6),  # no crowd of dogs: background
                (OWL, (0, 6, 4, 1), 0.6),  # overlaps too little: background
                (OWL, BELOW, 0.01),
            ],
            [(OWL, LEFT, 0.99)],
        ],
    )
    confusion = instance_confusion(truth, CATEGORIES, found, 0.9)
    assert confusion.counts.tolist() == [
        [1, 0, 0, 0],
        [1, 0, 0, 0],
        [0, 0, 1, 1],
        [0, 0, 0, 0],
    ]
    assert confusion.f1 == pytest.approx(4 / 7)
    assert (confusion.classes, confusion.images, confusion.ignored.tolist()) == (("cat", "dog", "owl"), 2, [0, 0, 0])


def test_matching_ignores_classes_except_for_crowds_and_ties() -> None:
    classes, crowd = np.array([0, 1, 1]), np.array([False, False, True])
    ious = np.array(
        [[0.9, 0.9, 0.0], [0.8, 0.6, 0.0], [0.7, 0.7, 0.0], [0.0, 0.0, 0.6], [0.0, 0.0, 0.6], [0.0, 0.0, 0.9]]
    )
    scores, predicted = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), np.array([1, 1, 0, 1, 1, 0])
    # The first takes the object of its class, the second what is left, a crowd takes any number of its class.
    found = match_objects(ious, scores, predicted, classes, crowd)
    assert found.tolist() == [1, 0, BACKGROUND, IGNORED, IGNORED, BACKGROUND]


def test_without_a_right_prediction_nothing_is_found(tmp_path: Path) -> None:
    truth = manifest([[(CAT, LEFT, False)]])
    cases = {"none": [], "wrong": [(DOG, LEFT, 0.9), (CAT, RIGHT, 0.2)], "below 0.01": [(CAT, LEFT, 0.009)]}
    for name, predictions in cases.items():
        file = results(tmp_path / name, [predictions])
        assert read_curves(truth, CATEGORIES, file).together.best_score() == USUAL_SCORE
        confusion = instance_confusion(truth, CATEGORIES, file, USUAL_SCORE)
        assert (confusion.right, confusion.f1) == (0, 0.0)
        assert confusion.truth.tolist() == [1, 0, 0]


def test_predictions_of_unknown_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PredictionError, match="unknown image id 1"):
        instance_confusion(manifest([[]]), CATEGORIES, results(tmp_path / "x", [[], [(CAT, LEFT, 0.5)]]), 0.5)


@pytest.mark.parametrize("seed", range(3))
def test_matched_objects_are_those_of_scikit_learn(seed: int, tmp_path: Path) -> None:
    """Each of four places in an image may have an object, and a prediction that fits it: all pairs are known."""
    random, kinds, none = np.random.default_rng(seed), len(CATEGORIES), len(CATEGORIES)
    truths, predicted = (random.integers(0, kinds + 1, (20, 4)) for _ in range(2))
    scores = random.uniform(0.1, 1.0, predicted.shape)
    places = (LEFT, RIGHT, BELOW, CORNER)
    objects = [[(int(kind), box, False) for kind, box in zip(of, places, strict=True) if kind < none] for of in truths]
    found = [
        [(int(kind), (x, y, w, h - 1), score) for kind, (x, y, w, h), score in zip(*of, strict=True) if kind < none]
        for of in zip(predicted, [places] * 20, scores, strict=True)
    ]
    confusion = instance_confusion(manifest(objects), CATEGORIES, results(tmp_path / "found.json", found), 0.4)
    # The last label is background as a true class, and missed as a predicted one.
    shown = np.where(scores >= 0.4, predicted, none)
    counted = (truths < none) | (shown < none)
    expected = confusion_matrix(truths[counted], shown[counted], labels=range(kinds + 1))
    assert confusion.counts.tolist() == expected.tolist()
    assert (expected[:-1, :-1].sum() > expected.trace()) & (expected[-1].sum() > 0) & (expected[:, -1].sum() > 0)


start, length = st.integers(0, 6), st.integers(2, 6)
boxes = st.tuples(start, start, length, length)
kinds = st.integers(0, len(CATEGORIES) - 1)
objects = st.lists(st.tuples(kinds, boxes, st.booleans()), max_size=4)
predictions = st.lists(st.tuples(kinds, boxes, st.integers(1, 20).map(lambda n: n / 20)), max_size=6)


@settings(max_examples=25, deadline=None)
@given(images=st.lists(st.tuples(objects, predictions), min_size=1, max_size=3), least=st.sampled_from([0.05, 0.5]))
def test_every_object_and_every_prediction_is_counted_once(
    images: list[tuple[list[Any], list[Any]]], least: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = results(tmp_path_factory.getbasetemp() / "found.json", [found for _, found in images])
    confusion = instance_confusion(manifest([of for of, _ in images]), CATEGORIES, path, least)
    kept = [kind for _, found in images for kind, _, score in found if score >= least]
    assert (confusion.counts[:, :-1].sum(0) + confusion.ignored).tolist() == [kept.count(kind) for kind in range(3)]
    every = [kind for of, _ in images for kind, _, crowd in of if not crowd]
    assert confusion.truth.tolist() == [every.count(kind) for kind in range(3)]
    assert (confusion.counts >= 0).all()


@pytest.mark.parametrize("ids", [(0, 1, 2), (7, 11, 4)])
def test_pixels_are_those_of_scikit_learn(tmp_path: Path, ids: tuple[int, ...]) -> None:
    table = LabelTable(("a", "b", "c"), ids, (255,))
    random = np.random.default_rng(0)
    truths, predicted = (
        random.choice([*ids, 255], (4, 20, 30), p=p) for p in ([0.5, 0.3, 0.1, 0.1], [0.4, 0.3, 0.3, 0.0])
    )
    predicted[0, 0, 0], truths[0, 0, 0] = 255, ids[1]
    for folder, pictures in (("truth", truths), ("found", predicted)):
        (tmp_path / folder / "city").mkdir(parents=True)
        for number, picture in enumerate(pictures):
            Image.fromarray(picture.astype(np.uint8)).save(tmp_path / folder / "city" / f"{number}.png")
    confusion = pixel_confusion(tmp_path / "truth", tmp_path / "found", table)
    counted = truths != 255
    expected = confusion_matrix(truths[counted], predicted[counted], labels=[*ids, 255])
    assert confusion.counts.tolist() == expected.tolist()
    assert confusion.truth.tolist() == [(truths == number).sum() for number in ids]
    assert (confusion.images, confusion.score) == (4, None)
