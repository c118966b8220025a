import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from made_up_cityscapes import CAR, PERSON, SIZE, instance_ids
from pycocotools import mask as coco_mask

from pipeline.data.cityscapes import CATEGORIES, instances


def test_the_eight_classes() -> None:
    assert {category.id: category.name for category in CATEGORIES} == {
        24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
    }  # fmt: skip


def test_objects_by_hand() -> None:
    found = instances(instance_ids())
    assert [(a.id, a.category_id, a.iscrowd, a.area, a.bbox) for a in found] == [
        (0, PERSON, True, 30, (30, 0, 10, 3)),
        (1, PERSON, False, 40, (20, 4, 4, 10)),
        (2, PERSON, False, 50, (3, 2, 5, 10)),
        (3, CAR, False, 100, (10, 15, 20, 5)),
    ]
    masks = [coco_mask.decode({"size": SIZE, "counts": annotation.counts}) for annotation in found]
    ids = instance_ids()
    values = (PERSON, 1000 * PERSON, 1000 * PERSON + 1, 1000 * CAR + 2)
    assert all(np.array_equal(mask, ids == value) for mask, value in zip(masks, values, strict=True))


def test_what_is_not_evaluated_is_left_out() -> None:
    # Caravan, trailer and licence plate have instances, or none, that the benchmark ignores.
    ids = np.array([[29, 29001, 30, 30002, 0, 23, 26003]], np.uint16)
    assert [(a.category_id, a.bbox) for a in instances(ids)] == [(CAR, (6, 0, 1, 1))]


@settings(deadline=None)
@given(
    hnp.arrays(
        np.uint16,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.sampled_from([7, 24, 24000, 24001, 33, 33007]),
    )
)
def test_masks_are_those_of_the_pixels(ids: np.ndarray) -> None:
    found = instances(ids)
    present = [value for value in np.unique(ids).tolist() if value != 7]
    assert len(found) == len(present)
    for annotation, value in zip(found, present, strict=True):
        expected = np.asfortranarray(ids == value, dtype=np.uint8)
        rle = coco_mask.encode(expected)
        assert annotation.counts == rle["counts"]
        assert annotation.area == expected.sum()
        assert list(annotation.bbox) == coco_mask.toBbox(rle).tolist()


@pytest.mark.parametrize("value", [34, 999, 34_001, 65_535])
def test_an_id_that_is_none(value: int) -> None:
    ids = instance_ids()
    ids[5, 5] = value
    with pytest.raises(ValueError, match=f"instance id {value}; expected a label id below 34"):
        instances(ids)
