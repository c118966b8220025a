import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.data.coco import DatasetError, read_coco
from pipeline.data.manifest import SplitManifest, write_prepared
from pipeline.data.masks import encode_segmentation
from pipeline.data.pictures import KnownPictures
from pipeline.data.storage import Storage

MISSING = object()


def read(coco: Any, **options: Any) -> Any:
    return read_coco(coco.annotations, Storage(str(coco.root)), coco.split, KnownPictures({}), **options)


def refusal(coco: Any, **options: Any) -> DatasetError:
    """The error of a split; its message always names the annotation file."""
    with pytest.raises(DatasetError) as caught:
        read(coco, **options)
    assert str(coco.annotations) in str(caught.value)
    return caught.value


def decode(counts: bytes, height: int, width: int) -> np.ndarray:
    return coco_mask.decode({"size": [height, width], "counts": counts}).astype(bool)


def runs(mask: np.ndarray) -> list[int]:
    """Uncompressed RLE: lengths of runs in columns' order, the first one of background."""
    counts, value, length = [], False, 0
    for pixel in mask.T.ravel():
        if pixel == value:
            length += 1
        else:
            counts.append(length)
            value, length = bool(pixel), 1
    return [*counts, length]


def compressed(mask: np.ndarray) -> str:
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode("ascii")


# What is read


def test_a_split_is_read_in_order_of_ids(coco: Any) -> None:
    data = read(coco, num_images=3)
    assert [(c.id, c.name) for c in data.categories] == [(2, "bolt"), (5, "nut"), (9, "gear")]
    assert [(i.id, i.file_name, i.height, i.width) for i in data.images] == [
        (3, "train/tall.jpg", 36, 24),
        (7, "train/wide.png", 30, 40),
        (12, "train/empty.png", 20, 20),
    ]
    assert [[a.id for a in image.annotations] for image in data.images] == [[24], [21, 22, 23], []]
    first, _, crowd = data.images[1].annotations
    assert (first.category_id, first.bbox, first.area, first.iscrowd) == (9, (4, 5, 10, 8), 80, False)
    assert crowd.iscrowd
    assert data.dropped == []


def test_every_annotation_s_mask_is_its_rectangle(coco: Any) -> None:
    for image in read(coco).images:
        for annotation in image.annotations:
            x, y, width, height = (int(v) for v in annotation.bbox)
            expected = np.zeros((image.height, image.width), bool)
            expected[y : y + height, x : x + width] = True
            assert np.array_equal(decode(annotation.counts, image.height, image.width), expected)


@pytest.mark.parametrize("value", [None, MISSING])
def test_a_missing_area_or_box_is_that_of_the_mask(coco: Any, value: Any) -> None:
    entry = coco.find("annotations", 21)
    entry["segmentation"] = [[4, 5, 14, 5, 4, 15]]
    entry.update(bbox=value, area=value)
    coco.data["annotations"][0] = {key: v for key, v in entry.items() if v is not MISSING}
    coco.write()
    found = read(coco).images[1].annotations[0]
    mask = decode(found.counts, 30, 40)
    assert found.area == mask.sum()
    rows, columns = np.nonzero(mask)
    assert found.bbox == (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)


def test_progress_counts_every_image_once(coco: Any) -> None:
    calls = []
    read(coco, on_image=lambda: calls.append(1))
    assert len(calls) == 3


# Segmentations


def test_polygons_and_both_rles_are_the_same_mask() -> None:
    mask = np.zeros((30, 40), bool)
    mask[5:13, 4:14] = True
    polygons = [[4, 5, 14, 5, 14, 13, 4, 13]]
    uncompressed = {"size": [30, 40], "counts": runs(mask)}
    assert uncompressed["counts"][:2] == [4 * 30 + 5, 8]
    rle = {"size": [30, 40], "counts": compressed(mask)}
    encoded = {encode_segmentation(segmentation, 30, 40) for segmentation in (polygons, uncompressed, rle)}
    assert len(encoded) == 1
    assert np.array_equal(decode(encoded.pop(), 30, 40), mask)


def test_several_polygons_are_one_mask() -> None:
    counts = encode_segmentation([[0, 0, 3, 0, 3, 2, 0, 2], [5, 4, 8, 4, 8, 6, 5, 6]], 10, 12)
    expected = np.zeros((10, 12), bool)
    expected[0:2, 0:3] = expected[4:6, 5:8] = True
    assert np.array_equal(decode(counts, 10, 12), expected)


@settings(deadline=None)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_any_mask_survives_either_rle(mask: np.ndarray) -> None:
    height, width = mask.shape
    for counts in (runs(mask), compressed(mask), compressed(mask).encode("ascii")):
        encoded = encode_segmentation({"size": [height, width], "counts": counts}, height, width)
        assert np.array_equal(decode(encoded, height, width), mask)


FULL = np.ones((30, 40), bool)
BAD_SEGMENTATIONS = {
    "no polygon": ([], "empty"),
    "an empty polygon": ([[]], "polygon 0 has 0 points"),
    "two points": ([[0, 0, 5, 5]], "polygon 0 has 2 points"),
    "odd count": ([[0, 0, 5, 0, 5, 5, 7]], "polygon 0 is not a list of x, y pairs"),
    "nested points": ([[[0, 0], [5, 0], [5, 5], [0, 5], [1, 1], [2, 2]]], "not a finite number"),
    "no lists": ([0, 0, 5, 0, 5, 5], "polygon 0 is not a list of x, y pairs"),
    "a text coordinate": ([[0, 0, "5", 0, 5, 5]], "not a finite number"),
    "a null coordinate": ([[0, 0, None, 0, 5, 5]], "not a finite number"),
    "a NaN coordinate": ([[0, 0, float("nan"), 0, 5, 5]], "not a finite number"),
    "an infinite coordinate": ([[0, 0, float("inf"), 0, 5, 5]], "not a finite number"),
    "another size": ({"size": [40, 30], "counts": compressed(FULL)}, "of size [40, 30], its image of [30, 40]"),
    "uncompressed, another size": ({"size": [3, 4], "counts": [0, 12]}, "of size [3, 4]"),
    "too few pixels": ({"size": [30, 40], "counts": [0, 1199]}, "add up to 1199 pixels, its image has 1200"),
    "too many pixels": ({"size": [30, 40], "counts": [1, 1200]}, "add up to 1201"),
    "no counts": ({"size": [30, 40], "counts": []}, "add up to 0"),
    "counts of text": ({"size": [30, 40], "counts": ["0", "1200"]}, "RLE"),
    "negative counts": ({"size": [30, 40], "counts": [1300, -100]}, "RLE"),
    "fractions of pixels": ({"size": [30, 40], "counts": [600.5, 599.5]}, "RLE"),
    "null counts": ({"size": [30, 40], "counts": None}, "RLE"),
    "a number as counts": ({"size": [30, 40], "counts": 1200}, "RLE"),
    "a number as size": ({"size": 30, "counts": compressed(FULL)}, "size"),
    "compressed, too few pixels": ({"size": [30, 40], "counts": compressed(FULL[:, :20])}, "RLE"),
    "compressed, too many pixels": ({"size": [30, 40], "counts": compressed(np.ones((50, 50)))}, "RLE"),
    "compressed, cut short": ({"size": [30, 40], "counts": compressed(np.tri(30, 40))[:-9]}, "RLE"),
    "compressed, empty": ({"size": [30, 40], "counts": ""}, "RLE"),
    "compressed, no RLE": ({"size": [30, 40], "counts": "hello world"}, "RLE"),
    "compressed, not ASCII": ({"size": [30, 40], "counts": "é"}, "annotation 21"),
    "without size": ({"counts": compressed(FULL)}, "neither a list of polygons nor an RLE"),
    "without counts": ({"size": [30, 40]}, "neither a list of polygons nor an RLE"),
    "null": (None, "neither a list of polygons nor an RLE"),
    "text": ("polygon", "neither a list of polygons nor an RLE"),
    "missing": (MISSING, "segmentation"),
}  # fmt: skip


@pytest.mark.parametrize(("segmentation", "said"), BAD_SEGMENTATIONS.values(), ids=BAD_SEGMENTATIONS.keys())
def test_a_bad_segmentation_is_named(coco: Any, segmentation: Any, said: str) -> None:
    if segmentation is MISSING:
        del coco.find("annotations", 21)["segmentation"]
    else:
        coco.find("annotations", 21)["segmentation"] = segmentation
    coco.write()
    (problem,) = refusal(coco).problems
    assert problem.startswith("annotation 21 (image 7): ")
    assert said in problem


@pytest.mark.parametrize("coordinate", [1e9, -1e9, 1e300])
def test_a_coordinate_far_outside_does_not_end_the_process(coco: Any, coordinate: float) -> None:
    # pycocotools' rasteriser overflows; in a process of its own, for it may take the process with it.
    coco.find("annotations", 21)["segmentation"] = [[0, 0, coordinate, 0, coordinate, coordinate]]
    coco.write()
    program = (
        "import sys; from pathlib import Path; from pipeline.data.coco import DatasetError, read_coco\n"
        "from pipeline.data.pictures import KnownPictures; from pipeline.data.storage import Storage\n"
        "try: read_coco(Path(sys.argv[1]), Storage(sys.argv[2]), 'train', KnownPictures({}))\n"
        "except DatasetError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(coco.annotations), str(coco.root)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr
    assert "annotation 21 (image 7)" in done.stdout


# Boxes


@pytest.mark.parametrize(
    "box",
    [
        [4, 5, 0, 8],
        [4, 5, 10, 0],
        [4, 5, -10, 8],
        [40, 5, 10, 8],
        [4, 30, 10, 8],
        [-10, 5, 10, 8],
        [100, 100, 5, 5],
        [4, 5, 10],
        [4, 5, 10, 8, 1],
        [4, 5, 10, None],
        [4, 5, 10, "8"],
        [4, 5, 10, float("nan")],
        [4, 5, float("inf"), 8],
        "4 5 10 8",
        [],
        [4, 5, 10, True],
    ],
    ids=str,
)
def test_a_bad_box_is_named(coco: Any, box: Any) -> None:
    coco.find("annotations", 21)["bbox"] = box
    coco.write()
    (problem,) = refusal(coco).problems
    assert problem.startswith("annotation 21 (image 7): ")
    assert "box" in problem


@pytest.mark.parametrize("box", [[-5, -5, 20, 20], [0, 0, 40, 30]])
def test_a_box_that_is_partly_inside_is_kept_as_it_is(coco: Any, box: list[float]) -> None:
    coco.find("annotations", 21)["bbox"] = box
    coco.write()
    assert list(read(coco).images[1].annotations[0].bbox) == box


# Ids


@pytest.mark.parametrize("invalid", ["error", "drop"])
def test_an_annotation_of_an_unknown_image(coco: Any, invalid: str) -> None:
    coco.find("annotations", 22)["image_id"] = 8
    coco.write()
    (problem,) = refusal(coco, invalid=invalid).problems
    assert problem == "annotation 22 (image 8): there is no such image"


@pytest.mark.parametrize("invalid", ["error", "drop"])
def test_an_annotation_of_an_unknown_category(coco: Any, invalid: str) -> None:
    coco.find("annotations", 22)["category_id"] = 1
    coco.write()
    (problem,) = refusal(coco, invalid=invalid).problems
    assert problem == "annotation 22 (image 7): unknown category id 1"


@pytest.mark.parametrize(("kind", "id_"), [("images", 7), ("annotations", 21), ("categories", 5)])
def test_a_repeated_id(coco: Any, kind: str, id_: int) -> None:
    coco.data[kind].append(dict(coco.find(kind, id_)))
    coco.write()
    noun = {"images": "image", "annotations": "annotation", "categories": "category"}[kind]
    assert any(p.startswith(f"{noun} {id_}:") and "2 times" in p for p in refusal(coco).problems)


def test_what_refers_to_a_repeated_image_is_no_problem_of_its_own(coco: Any) -> None:
    coco.data["images"].append({"id": 7, "file_name": "tall.jpg", "height": 4, "width": 4})  # masks do not fit it
    coco.write()
    assert refusal(coco).problems == [
        "image 7: the id occurs 2 times",
        "images 3, 7: have the same file_name, tall.jpg",
    ]


def test_a_file_of_two_images(coco: Any) -> None:
    coco.data["images"].append({"id": 8, "file_name": "wide.png", "height": 15, "width": 20})
    coco.write()
    error = refusal(coco)
    assert error.problems == ["images 7, 8: have the same file_name, wide.png"]
    assert "to one image" in str(error)


@pytest.mark.parametrize("expected", [2, 4])
def test_another_number_of_images(coco: Any, expected: int) -> None:
    assert refusal(coco, num_images=expected).problems == [f"3 images, expected {expected}"]


# Image files


@pytest.mark.parametrize(("id_", "name"), [(7, "wide.png"), (3, "tall.jpg")])
def test_a_truncated_image(coco: Any, id_: int, name: str) -> None:
    path = coco.images / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (problem,) = refusal(coco, invalid="drop").problems
    assert problem.startswith(f"image {id_}: {path}: not a readable image")


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_image(coco: Any, content: bytes) -> None:
    (coco.images / "wide.png").write_bytes(content)
    (problem,) = refusal(coco).problems
    assert problem.startswith(f"image 7: {coco.images / 'wide.png'}: not a readable image")


def test_a_missing_image(coco: Any) -> None:
    (coco.images / "tall.jpg").unlink()
    assert refusal(coco).problems == [f"image 3: {coco.images / 'tall.jpg'}: no such file"]


def test_an_image_of_another_size(coco: Any) -> None:
    Image.new("RGB", (30, 40)).save(coco.images / "wide.png")
    assert refusal(coco).problems == [f"image 7: {coco.images / 'wide.png'} is 30x40, annotated as 40x30"]


def test_an_image_of_an_absurd_size(coco: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 20x20 is more than twice as many
    problems = refusal(coco).problems
    assert [p.split(":")[0] for p in problems] == ["image 7", "image 3", "image 12"]


# The annotation file


def test_a_missing_annotation_file(coco: Any) -> None:
    coco.annotations.unlink()
    assert refusal(coco).problems == ["no such annotation file"]


def test_truncated_json(coco: Any) -> None:
    coco.annotations.write_bytes(coco.annotations.read_bytes()[: coco.annotations.stat().st_size // 2])
    (problem,) = refusal(coco).problems
    assert "truncated" in problem


def test_a_file_that_is_no_text(coco: Any) -> None:
    coco.annotations.write_bytes(b"\xff\xd8\xff\xe0")
    (problem,) = refusal(coco).problems
    assert "not JSON" in problem


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
@pytest.mark.parametrize("value", [MISSING, None, {}])
def test_json_without_one_of_its_lists(coco: Any, key: str, value: Any) -> None:
    del coco.data[key]
    if value is not MISSING:
        coco.data[key] = value
    coco.write()
    assert refusal(coco).problems == [f"no list '{key}': not a COCO instances file"]


@pytest.mark.parametrize("content", [[], [{"image_id": 7}], None, 5, "text"])
def test_json_that_is_no_object(coco: Any, content: Any) -> None:
    coco.annotations.write_text(json.dumps(content))
    assert "not a COCO instances file" in str(refusal(coco))


ENTRY_FAULTS = [
    *(("images", 7, "id", v, "image") for v in (MISSING, None, "7", 7.5, [7], {})),
    *(("images", 12, "file_name", v, "image 12") for v in (MISSING, None, 5, [])),
    *(("images", 12, k, v, "image 12") for k in ("height", "width") for v in (MISSING, None, "20", 20.5, 0, -20)),
    *(("annotations", 21, "id", v, "annotation") for v in (MISSING, None, "x", 21.5, [21], {})),
    *(("annotations", 21, "image_id", v, "annotation 21") for v in (MISSING, None, "7", [7], {})),
    *(("annotations", 21, "category_id", v, "annotation 21") for v in (MISSING, None, "9", [9], {})),
    *(("annotations", 21, "area", v, "annotation 21") for v in ("80", [], float("nan"), -1, True)),
    *(("annotations", 21, "iscrowd", v, "annotation 21") for v in ("0", "1", None, 2, 1.0, [])),
    *(("categories", 9, "id", v, "category") for v in (MISSING, None, "9", 9.5, [9])),
    *(("categories", 9, "name", v, "category 9") for v in (MISSING, None, 5)),
]


@pytest.mark.parametrize(
    ("kind", "id_", "key", "value", "named"),
    ENTRY_FAULTS,
    ids=[f"{kind}-{key}-{'missing' if value is MISSING else value}" for kind, _, key, value, _ in ENTRY_FAULTS],
)
def test_an_entry_with_a_fault_is_named(coco: Any, kind: str, id_: int, key: str, value: Any, named: str) -> None:
    entry = coco.find(kind, id_)
    del entry[key]
    if value is not MISSING:
        entry[key] = value
    coco.write()
    problems = refusal(coco).problems
    assert any(named in problem for problem in problems)


@pytest.mark.parametrize("kind", ["images", "annotations", "categories"])
@pytest.mark.parametrize("entry", [None, 5, "text", []])
def test_an_entry_that_is_no_object(coco: Any, kind: str, entry: Any) -> None:
    coco.data[kind].insert(1, entry)
    coco.write()
    assert refusal(coco).problems


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory, coco_folder: Callable[..., Any]) -> Any:
    return coco_folder(tmp_path_factory.mktemp("fuzzed"))


@settings(deadline=None)
@given(
    kind=st.sampled_from(["images", "annotations", "categories"]),
    index=st.integers(0, 2),
    data=st.data(),
    value=st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.floats()
    | st.text(max_size=3)
    | st.lists(st.integers(-9, 9), max_size=3)
    | st.dictionaries(st.sampled_from(["size", "counts", "id"]), st.integers(-9, 9), max_size=2),
)
def test_whatever_stands_in_an_entry_it_is_refused_or_can_be_used(
    fuzzed: Any, kind: str, index: int, data: st.DataObject, value: Any
) -> None:
    content = copy.deepcopy(fuzzed.data)
    entry = content[kind][index]
    entry[data.draw(st.sampled_from(sorted(entry)))] = value
    fuzzed.annotations.write_text(json.dumps(content))
    try:
        split = read(fuzzed)
    except DatasetError as error:
        assert error.problems  # noqa: PT017
    else:
        write_prepared(fuzzed.root, split.categories, {"train": SplitManifest(split.images)})
        for image in split.images:
            for annotation in image.annotations:
                assert decode(annotation.counts, image.height, image.width).shape == (image.height, image.width)


# Errors as a whole


def test_all_problems_are_in_one_error(coco: Any) -> None:
    coco.find("annotations", 21)["image_id"] = 8
    coco.find("annotations", 22)["category_id"] = 1
    coco.find("annotations", 24)["bbox"] = [0, 0, 0, 0]
    coco.write()
    (coco.images / "empty.png").unlink()
    error = refusal(coco, num_images=5)
    assert len(error.problems) == 5
    for part in ("5 problems", "3 images", "annotation 21", "annotation 22", "annotation 24", "image 12"):
        assert part in str(error)


def test_problems_of_a_kind_are_one_line_with_a_count_two_examples_and_the_remedy(coco: Any) -> None:
    coco.data["annotations"] = [coco.annotation(100 + i, 7, 1, (0, 0, 5, 5)) for i in range(25)]
    coco.write()
    error = refusal(coco)
    assert len(error.problems) == 25
    first, kind, examples, remedy = str(error).splitlines()
    assert first == f"{coco.annotations}: 25 problems"
    assert kind == "problem: 25 annotations with a category id that no category has"
    assert examples.split("; ") == [
        "    annotation 100 (image 7): unknown category id 1", "annotation 101 (image 7): unknown category id 1", "...",
    ]  # fmt: skip
    assert remedy.startswith("    -> ")


def test_more_than_twenty_kinds_are_cut_with_their_number() -> None:
    lines = str(DatasetError("a.json", [f"something new {number}" for number in range(25)])).splitlines()
    assert len(lines) == 1 + 20 + 1
    assert lines[-1] == "... and 5 more of 5 other kinds"


def test_the_error_survives_the_way_back_from_a_worker(coco: Any) -> None:
    error = pickle.loads(pickle.dumps(DatasetError(coco.annotations, ["one", "two"])))  # noqa: S301
    assert isinstance(error, DatasetError)
    assert str(error) == str(DatasetError(coco.annotations, ["one", "two"]))
    assert error.problems == ["one", "two"]


# Dropping


def test_unusable_annotations_are_dropped_and_listed(coco: Any) -> None:
    coco.find("annotations", 21)["segmentation"] = [[0, 0, 5, 5]]
    coco.find("annotations", 24)["bbox"] = [6, 3, 0, 30]
    coco.write()
    data = read(coco, invalid="drop")
    assert [[a.id for a in image.annotations] for image in data.images] == [[], [22, 23], []]
    assert [line.split(":")[0] for line in data.dropped] == ["annotation 21 (image 7)", "annotation 24 (image 3)"]
    assert "2 points" in data.dropped[0]
    assert "no area" in data.dropped[1]


def test_dropping_does_not_hide_other_problems(coco: Any) -> None:
    coco.find("annotations", 21)["bbox"] = [6, 3, 0, 30]
    coco.find("annotations", 22)["image_id"] = 99
    coco.write()
    (coco.images / "wide.png").unlink()
    problems = refusal(coco, invalid="drop").problems
    assert [p.split(":")[0] for p in problems] == ["annotation 22 (image 99)", "image 7"]
