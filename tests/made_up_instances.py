"""COCO files drawn for the tests of the instance metrics: discs, and predictions that find some of them."""

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


def rle(mask: np.ndarray) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}


def disc(height: int, width: int, x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def annotation(id_: int, image_id: int, category_id: int, mask: np.ndarray, iscrowd: int = 0) -> dict[str, Any]:
    segmentation = rle(mask)
    return {
        "id": id_,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": segmentation,
        "area": int(mask.sum()),
        "bbox": coco_mask.toBbox(segmentation).tolist(),
        "iscrowd": iscrowd,
    }


def truth(annotations: list[dict[str, Any]], sizes: dict[int, tuple[int, int]]) -> dict[str, Any]:
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": h, "width": w} for i, (h, w) in sizes.items()],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "star"}, {"id": 8, "name": "ring"}],
    }


def perfect(content: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"image_id": a["image_id"], "category_id": a["category_id"], "segmentation": a["segmentation"], "score": 0.9}
        for a in content["annotations"]
        if not a["iscrowd"]
    ]


def scene(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Discs of all sizes on 12 images, and predictions: moved, grown, dropped, doubled, renamed and made up."""
    rng = np.random.default_rng(seed)
    sizes = {i: (int(rng.integers(150, 240)), int(rng.integers(150, 240))) for i in range(1, 13)}
    annotations, results = [], []

    def predict(image_id: int, category_id: int, mask: np.ndarray) -> None:
        score = float(rng.random())
        results.append({"image_id": image_id, "category_id": category_id, "segmentation": rle(mask), "score": score})

    for image_id, (h, w) in sizes.items():
        for _ in range(int(rng.integers(1, 7))):
            x, y, radius = rng.uniform(20, w - 20), rng.uniform(20, h - 20), float(rng.choice([9, 25, 70]))
            category, crowd = int(rng.choice([3, 8])), int(rng.random() < 0.1)
            annotations.append(annotation(len(annotations) + 1, image_id, category, disc(h, w, x, y, radius), crowd))
            if rng.random() < 0.2:
                continue
            for _ in range(1 + int(rng.random() < 0.3)):
                dx, dy = rng.normal(0, 0.1 * radius, 2)
                moved = disc(h, w, x + dx, y + dy, radius * rng.uniform(0.8, 1.2))
                predict(image_id, category if rng.random() < 0.9 else 11 - category, moved)
        if rng.random() < 0.5:
            predict(image_id, 3, disc(h, w, rng.uniform(0, w), rng.uniform(0, h), 15))
    return truth(annotations, sizes), results
