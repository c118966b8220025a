import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.ops import masks_to_boxes

from pipeline.data.annotations import Annotation
from pipeline.data.coco import Category, ImageRecord, read_coco
from pipeline.data.dataset import EvaluationImages, Example, TrainingImages
from pipeline.data.manifest import PreparedDataset, SplitManifest, read_prepared, write_prepared
from pipeline.data.masks import encode_segmentation
from pipeline.data.pictures import KnownPictures
from pipeline.data.samplers import Draw
from pipeline.data.storage import Storage
from pipeline.data.transforms import Target, augment, flip_horizontally, resize, to_float
from pointrend.transform import resize_image


def prepare(coco: Any, folder: Path) -> PreparedDataset:
    data = read_coco(coco.annotations, Storage(str(coco.root)), coco.split, KnownPictures({}))
    folder.mkdir()
    write_prepared(folder, data.categories, {"train": SplitManifest(data.images), "val": SplitManifest(data.images)})
    return read_prepared(folder)


@pytest.fixture
def prepared(coco: Any, tmp_path: Path) -> PreparedDataset:
    return prepare(coco, tmp_path / "prepared")


@pytest.fixture
def storage(coco: Any) -> Storage:
    return Storage(str(coco.root))


@pytest.fixture
def training(prepared: PreparedDataset, storage: Storage) -> TrainingImages:
    """Images 3 (24x36) and 7 (40x30), at their own size: shorter edges of 24 and 30."""
    return TrainingImages(prepared, storage, [24, 30], 1000)


def unflipped(training: TrainingImages, image: int, size: tuple[int, int]) -> Example:
    """The image at its own size and the right way round: some seed gives that."""
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        if torch.rand((), generator=generator) >= 0.5:
            example = training[Draw(image, seed)]
            if example.size == size:
                return example
    raise AssertionError


def box_of(mask: Tensor) -> list[float]:
    """The tight box of a mask, its far edges outside."""
    x0, y0, x1, y1 = masks_to_boxes(mask[None])[0].tolist()
    return [x0, y0, x1 + 1, y1 + 1]


# Targets


def test_labels_are_contiguous_from_1_in_order_of_category_id(training: TrainingImages) -> None:
    # Category ids 2, 5, 9 are labels 1, 2, 3.
    assert unflipped(training, 0, (36, 24)).target["labels"].tolist() == [2]
    assert unflipped(training, 1, (30, 40)).target["labels"].tolist() == [3, 1]


def test_an_example_as_it_is_on_disk(training: TrainingImages, coco: Any) -> None:
    example = unflipped(training, 1, (30, 40))
    assert example.image_id == 7
    pixels = np.asarray(Image.open(coco.images / "wide.png"))
    assert torch.equal(example.image, torch.from_numpy(pixels.copy()).permute(2, 0, 1))
    assert example.image.dtype == torch.uint8
    assert example.target["boxes"].tolist() == [[4, 5, 14, 13], [20, 10, 32, 25]]
    assert example.target["masks"].dtype == torch.bool
    assert [box_of(mask) for mask in example.target["masks"]] == [[4, 5, 14, 13], [20, 10, 32, 25]]
    assert example.target["masks"].sum((1, 2)).tolist() == [80, 180]


def test_crowds_are_left_out_of_the_targets(training: TrainingImages) -> None:
    target = unflipped(training, 1, (30, 40)).target
    assert {key: len(value) for key, value in target.items()} == {"boxes": 2, "labels": 2, "masks": 2}


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        ([-5, -6, 20, 20], [0, 0, 15, 14]),
        ([30, 20, 100, 100], [30, 20, 40, 30]),
        ([-1, -1, 99, 99], [0, 0, 40, 30]),
        ([39.5, 29.25, 8, 8], [39.5, 29.25, 40, 30]),
    ],
)
def test_boxes_are_clipped_to_the_image(coco: Any, tmp_path: Path, box: list[float], clipped: list[float]) -> None:
    coco.find("annotations", 21)["bbox"] = box
    coco.write()
    training = TrainingImages(prepare(coco, tmp_path / "p"), Storage(str(coco.root)), [30], 1000)
    assert unflipped(training, 1, (30, 40)).target["boxes"][0].tolist() == clipped


def test_masks_are_decoded_for_the_image_asked_for_only(
    training: TrainingImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    decode = coco_mask.decode

    def counting(rles: Any) -> np.ndarray:
        decoded.append(len(rles))
        return decode(rles)

    monkeypatch.setattr(coco_mask, "decode", counting)
    assert len(training) == 2
    assert training.groups.tolist() == [False, True]
    assert decoded == []
    training[Draw(0, 0)]
    assert decoded == [1]
    training[Draw(1, 0)]
    assert decoded == [1, 2]


def test_a_square_image_counts_as_portrait(prepared: PreparedDataset, storage: Storage) -> None:
    assert EvaluationImages(prepared, storage)._images.wide.tolist() == [False, True, False]


def test_evaluation_gives_every_image_as_it_is(prepared: PreparedDataset, coco: Any, storage: Storage) -> None:
    images = EvaluationImages(prepared, storage)
    found = [images[i] for i in range(len(images))]
    assert [(id_, tuple(image.shape)) for id_, image in found] == [
        (3, (3, 36, 24)),
        (7, (3, 30, 40)),
        (12, (3, 20, 20)),
    ]
    pixels = np.asarray(Image.open(coco.images / "empty.png"))
    assert torch.equal(found[2][1], torch.from_numpy(pixels.copy()).permute(2, 0, 1))


def test_more_images_than_one_row_group(tmp_path: Path) -> None:
    """2,500 images; every third has an object, in the category of its number."""
    counts = encode_segmentation([[0, 0, 2, 0, 2, 2]], 4, 4)
    images = [
        ImageRecord(i, f"{i}.png", 4, 4 + i % 2, [Annotation(i, i % 7, (0, 0, 2, 2), 4, False, counts)] * (i % 3 == 0))
        for i in range(2500)
    ]
    write_prepared(tmp_path, [Category(i, str(i)) for i in range(7)], {"train": SplitManifest(images)})
    training = TrainingImages(read_prepared(tmp_path), Storage(str(tmp_path)), [4], 8)
    kept = [i for i in range(2500) if i % 3 == 0]
    assert len(training) == len(kept)
    assert [training._images.row(i)["id"] for i in range(len(kept))] == kept
    assert training.groups.tolist() == [i % 2 == 1 for i in kept]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA", "1", "CMYK"])
def test_every_kind_of_image_is_read_as_rgb(prepared: PreparedDataset, coco: Any, storage: Storage, mode: str) -> None:
    # A colour that all these modes can hold.
    Image.new("RGB", (40, 30), (255, 255, 255)).convert(mode).save(
        coco.images / "wide.png", format="TIFF" if mode == "CMYK" else "PNG"
    )
    _, image = EvaluationImages(prepared, storage)[1]
    assert image.shape == (3, 30, 40)
    assert (image == 255).all()


def test_a_palette_keeps_its_colours(prepared: PreparedDataset, coco: Any, storage: Storage) -> None:
    picture = Image.new("P", (40, 30), 1)
    picture.putpalette([0, 0, 0, 255, 51, 0])
    picture.save(coco.images / "wide.png")
    _, image = EvaluationImages(prepared, storage)[1]
    assert torch.allclose(to_float(image).mean((1, 2)), torch.tensor([1.0, 0.2, 0.0]))


def test_sixteen_bits_are_read_in_proportion(prepared: PreparedDataset, coco: Any, storage: Storage) -> None:
    ramp = np.linspace(0, 65535, 1200).round().astype(np.uint16).reshape(30, 40)
    Image.fromarray(ramp).save(coco.images / "wide.png")
    _, image = EvaluationImages(prepared, storage)[1]
    expected = torch.linspace(0, 1, 1200).view(1, 30, 40).expand(3, -1, -1)
    assert torch.allclose(to_float(image), expected, atol=1 / 128)


# What goes wrong later


def test_a_file_that_was_removed_is_named(training: TrainingImages, coco: Any) -> None:
    (coco.images / "wide.png").unlink()
    with pytest.raises(OSError, match=re.escape(str(coco.images / "wide.png"))):
        training[Draw(1, 0)]


def test_a_file_that_was_cut_is_named(training: TrainingImages, coco: Any) -> None:
    path = coco.images / "wide.png"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(OSError, match=re.escape(str(path))):
        training[Draw(1, 0)]


@pytest.mark.parametrize("keep", [0, 4, 0.5, 0.98])
def test_a_corrupted_manifest_is_named(prepared: PreparedDataset, storage: Storage, keep: float) -> None:
    path = prepared.folder / "train.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else int(keep)])
    with pytest.raises(ValueError, match=re.escape(str(path)) + r"(.|\n)*dvc repro"):
        TrainingImages(prepared, storage, [30], 60)


def test_a_manifest_with_damaged_pages_is_named(prepared: PreparedDataset, storage: Storage) -> None:
    path = prepared.folder / "train.parquet"
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=re.escape(str(path)) + r"(.|\n)*dvc repro"):
        TrainingImages(prepared, storage, [30], 60)


def test_a_missing_manifest_is_named(prepared: PreparedDataset, storage: Storage) -> None:
    (prepared.folder / "val.parquet").unlink()
    with pytest.raises(ValueError, match=re.escape(str(prepared.folder / "val.parquet"))):
        EvaluationImages(prepared, storage)


@pytest.mark.parametrize("content", [None, "", '{"categories": [', "{}", "[]", '{"categories": [{"id": 1}]}'])
def test_a_folder_that_prepare_did_not_finish(prepared: PreparedDataset, content: str | None) -> None:
    path = prepared.folder / "dataset.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=re.escape(str(path)) + r"(.|\n)*dvc repro"):
        read_prepared(prepared.folder)


def test_a_manifest_of_other_columns_is_refused(prepared: PreparedDataset, storage: Storage) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = prepared.folder / "train.parquet"
    pq.write_table(pa.table({"id": [1, 2], "path": ["a", "b"]}), path)
    with pytest.raises(ValueError, match=re.escape(str(path)) + r"(.|\n)*dvc repro"):
        TrainingImages(prepared, storage, [30], 60)


def test_an_empty_manifest(tmp_path: Path) -> None:
    write_prepared(tmp_path, [], {"train": SplitManifest([]), "val": SplitManifest([])})
    assert len(TrainingImages(read_prepared(tmp_path), Storage(str(tmp_path)), [4], 8)) == 0
    assert len(EvaluationImages(read_prepared(tmp_path), Storage(str(tmp_path)))) == 0


# Transforms


def scene(height: int, width: int, boxes: list[tuple[int, int, int, int]]) -> tuple[Tensor, Target]:
    """An image of distinct pixels and objects that fill their boxes (xyxy)."""
    image = torch.arange(3 * height * width).view(3, height, width) / (3 * height * width)
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return image, {
        "boxes": torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        "labels": torch.arange(1, len(boxes) + 1),
        "masks": masks,
    }


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Tensor, Target]:
    height, width = draw(st.integers(2, 30)), draw(st.integers(2, 30))
    boxes = []
    for _ in range(draw(st.integers(1, 3))):
        x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        boxes.append((x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))))
    return scene(height, width, boxes)


def test_a_flip_by_hand() -> None:
    image, target = flip_horizontally(*scene(2, 10, [(1, 0, 4, 1)]))
    assert target["boxes"].tolist() == [[6, 0, 9, 1]]
    assert target["masks"][0].int().tolist() == [[0, 0, 0, 0, 0, 0, 1, 1, 1, 0], [0] * 10]
    assert target["labels"].tolist() == [1]
    assert torch.equal(image[0, 0], torch.arange(9, -1, -1) / 60)


@settings(deadline=None)
@given(scenes())
def test_a_flip_keeps_image_boxes_and_masks_together(example: tuple[Tensor, Target]) -> None:
    image, target = example
    flipped_image, flipped = flip_horizontally(image, target)
    assert [box_of(mask) for mask in target["masks"]] == target["boxes"].tolist()
    assert [box_of(mask) for mask in flipped["masks"]] == flipped["boxes"].tolist()
    for before, after in zip(target["masks"], flipped["masks"], strict=True):
        # The object's pixels are the same ones, in whatever order.
        assert torch.equal(image[:, before].sort()[0], flipped_image[:, after].sort()[0])
    again_image, again = flip_horizontally(flipped_image, flipped)
    assert torch.equal(again_image, image)
    for key, value in target.items():
        assert torch.equal(again[key], value)


@pytest.mark.parametrize(
    ("size", "shorter", "longest", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((640, 480), 800, 1333, (1067, 800)),
        ((400, 800), 800, 1333, (667, 1333)),
        ((32, 40), 16, 1000, (16, 20)),
    ],
)
def test_resizing_by_hand(size: tuple[int, int], shorter: int, longest: int, expected: tuple[int, int]) -> None:
    height, width = size
    _, target = scene(height, width, [(0, 0, width, height), (width // 4, height // 4, width // 2, height // 2)])
    resized, after = resize(size, target, shorter, longest)
    assert resized == expected
    assert after["boxes"][0].tolist() == [0, 0, expected[1], expected[0]]
    quarter = [expected[1] / 4, expected[0] / 4, expected[1] / 2, expected[0] / 2]
    assert after["boxes"][1].tolist() == pytest.approx(quarter)


@settings(deadline=None)
@given(scenes(), st.integers(1, 40), st.integers(1, 80))
def test_resizing_scales_boxes_and_leaves_masks_alone(
    example: tuple[Tensor, Target], shorter: int, longest: int
) -> None:
    image, target = example
    height, width = image.shape[-2:]
    (new_height, new_width), after = resize((height, width), target, shorter, longest)
    assert torch.equal(after["masks"], target["masks"])
    assert torch.equal(after["labels"], target["labels"])
    assert min(new_height, new_width) <= shorter
    assert max(new_height, new_width) <= longest
    relative = after["boxes"] / torch.tensor([new_width, new_height] * 2)
    assert torch.allclose(relative, target["boxes"] / torch.tensor([width, height] * 2), atol=1e-5)


def test_augmentation_depends_on_its_seed_alone() -> None:
    image, target = scene(20, 30, [(2, 3, 9, 11)])
    for seed in (0, 1, 2**62):
        torch.manual_seed(1)
        first_image, first, first_size = augment(image, target, [10, 15, 20], 40, seed)
        torch.manual_seed(2)
        torch.rand(5)
        second_image, second, second_size = augment(image, target, [10, 15, 20], 40, seed)
        assert torch.equal(first_image, second_image)
        assert first_size == second_size
        assert all(torch.equal(first[key], second[key]) for key in target)


def test_augmentation_leaves_the_global_randomness_alone() -> None:
    image, target = scene(20, 30, [(2, 3, 9, 11)])
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    augment(image, target, [10, 15, 20], 40, 5)
    assert torch.equal(torch.rand(3), expected)


def test_augmentation_flips_half_and_uses_all_sizes_evenly() -> None:
    image, target = scene(20, 30, [(0, 0, 5, 5)])
    outcomes: Counter[tuple[bool, int]] = Counter()
    for seed in range(2000):
        _, after, size = augment(image, target, [10, 12, 14, 16], 100, seed)
        outcomes[bool(after["masks"][0, 0, -1]), size[0]] += 1
    # 250 of each are expected, with a standard deviation below 15.
    assert set(outcomes) == {(flipped, size) for flipped in (True, False) for size in (10, 12, 14, 16)}
    assert all(175 < n < 325 for n in outcomes.values()), outcomes
    # 1,000 flips are expected, with a standard deviation of 22.
    assert 930 < sum(n for (flipped, _), n in outcomes.items() if flipped) < 1070


@pytest.mark.parametrize("seed", range(6))
def test_on_the_device_an_image_becomes_what_it_was_before_it_travelled(training: TrainingImages, seed: int) -> None:
    example = training[Draw(1, seed)]
    assert example.image.dtype == torch.uint8
    assert tuple(example.image.shape) == (3, 30, 40)  # at its own size
    image, target = example.to_device(torch.device("cpu"))
    expected = resize_image(example.image.float() / 255, example.size)  # type: ignore[arg-type]
    assert torch.equal(image, expected)
    assert image.shape[-2:] == example.size
    assert target.keys() == example.target.keys()


def test_a_float_image_is_taken_as_it_is() -> None:
    image = torch.rand(3, 4, 5)
    found, target = Example(1, image, {"labels": torch.tensor([1])}).to_device(torch.device("cpu"))
    assert torch.equal(found, image)
    assert target["labels"].tolist() == [1]


def test_augmented_masks_and_boxes_stay_together(training: TrainingImages) -> None:
    for seed in range(20):
        example = training[Draw(1, seed)]
        assert example.size is not None
        height, width = example.size
        for mask, box in zip(example.target["masks"], example.target["boxes"], strict=True):
            relative = torch.tensor(box_of(mask)) / torch.tensor([40, 30, 40, 30])
            assert torch.allclose(box / torch.tensor([width, height, width, height]), relative, atol=1e-5)


def test_draws_of_one_image_differ_by_seed(training: TrainingImages) -> None:
    shapes: set[tuple[Any, ...]] = {
        (e.size, tuple(e.target["boxes"][0].tolist())) for e in (training[Draw(1, s)] for s in range(30))
    }
    assert len(shapes) == 4  # flipped or not, two sizes
