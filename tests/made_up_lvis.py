"""An LVIS file drawn for tests, and its COCO-category view written out by hand.

LVIS's ids are such that mapping them wrongly goes unnoticed by every check of ids: LVIS 1 is a dog (COCO 18), LVIS 18 a
person (COCO 1), LVIS 17 an acorn (COCO has none; its 17 is a cat).
"""

import copy
from typing import Any

import numpy as np
from made_up_instances import annotation, rle

DOG, ACORN, PERSON = 1, 17, 18
COCO_DOG, COCO_PERSON = 18, 1
SHAPE = (60, 80)

CATEGORIES = [
    {"id": DOG, "name": "dog", "synset": "dog.n.01", "frequency": "f"},
    {"id": ACORN, "name": "acorn", "synset": "acorn.n.01", "frequency": "r"},
    {"id": PERSON, "name": "baby", "synset": "person.n.01", "frequency": "f"},
]
COCO_CATEGORIES = [
    {"id": COCO_PERSON, "name": "person", "synset": "person.n.01", "frequency": "f"},
    {"id": COCO_DOG, "name": "dog", "synset": "dog.n.01", "frequency": "f"},
]


def square(left: int, side: int = 20) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[10 : 10 + side, left : left + side] = True
    return mask


def lvis_annotation(id_: int, image_id: int, category_id: int, mask: np.ndarray) -> dict[str, Any]:
    raw = annotation(id_, image_id, category_id, mask)
    del raw["iscrowd"]
    return raw


def image(id_: int, negative: list[int], partial: list[int]) -> dict[str, Any]:
    """As v1 has it: no file name."""
    return {
        "id": id_,
        "height": SHAPE[0],
        "width": SHAPE[1],
        "coco_url": f"http://images.example.org/val2017/{id_:012}.jpg",
        "neg_category_ids": negative,
        "not_exhaustive_category_ids": partial,
    }


def result(image_id: int, category_id: int, mask: np.ndarray, score: float) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "segmentation": rle(mask), "score": score}


def lvis_file() -> dict[str, Any]:
    """Image 1 has a dog, 2 has none, 3 has a person and maybe others, 4 has an acorn and says nothing of dogs."""
    return {
        "images": [image(1, [PERSON], []), image(2, [DOG, ACORN], []), image(3, [], [PERSON]), image(4, [], [ACORN])],
        "annotations": [
            lvis_annotation(11, 1, DOG, square(10)),
            lvis_annotation(12, 3, PERSON, square(30)),
            lvis_annotation(13, 4, ACORN, square(30)),
        ],
        "categories": CATEGORIES,
    }


def coco_view_file() -> dict[str, Any]:
    images = [image(1, [COCO_PERSON], []), image(2, [COCO_DOG], []), image(3, [], [COCO_PERSON]), image(4, [], [])]
    return {
        "images": [{**entry, "file_name": f"val2017/{entry['id']:012}.jpg"} for entry in images],
        "annotations": [
            lvis_annotation(11, 1, COCO_DOG, square(10)),
            lvis_annotation(12, 3, COCO_PERSON, square(30)),
        ],
        "categories": COCO_CATEGORIES,
    }


def v05(content: dict[str, Any]) -> dict[str, Any]:
    """The same as v0.5 has it: file names of COCO 2014, more about categories and images."""
    content = copy.deepcopy(content)
    for entry in content["images"]:
        entry |= {"file_name": f"COCO_val2014_{entry['id']:012}.jpg", "license": 3, "date_captured": "2013-11-19"}
    for entry in content["categories"]:
        entry |= {"image_count": 1, "instance_count": 1, "synonyms": [entry["name"]], "def": "something"}
    return content


#: By hand: two wrong dogs in image 2 come before the right one (precision 1/3). The wrong person in image 3, the dog of
#: image 4, the cat and the hot dog count neither way, and the person is right (precision 1).
RESULTS = [
    result(2, COCO_DOG, square(10), 0.9),
    result(2, COCO_DOG, square(40), 0.8),
    result(3, COCO_PERSON, square(55), 0.9),
    result(4, COCO_DOG, square(50), 0.95),
    result(1, COCO_DOG, square(10), 0.5),
    result(3, COCO_PERSON, square(30), 0.5),
    result(1, 17, square(50), 0.99),
    result(2, 58, square(50), 0.99),
]
EXPECTED_AP = 100 * (1 / 3 + 1) / 2
