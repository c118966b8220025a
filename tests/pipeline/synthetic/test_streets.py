"""The streets against Cityscapes' conventions, by its own tools and by ours."""

from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.evaluation.instances2dict import instances2dict
from cityscapesscripts.helpers.labels import id2label
from cityscapesscripts.helpers.labels import labels as all_labels
from masks import dilate
from PIL import Image

from pipeline.data.labels import CITYSCAPES, read_ids
from pipeline.files import FolderExistsError
from pipeline.metrics.cityscapes_ap import cityscapes_ap
from pipeline.metrics.segmentation_iou import miou
from pipeline.synthetic import StreetsSpec, generate_streets
from pipeline.synthetic.streets import CITIES, SMALLEST_OBJECT, render_street

SPEC = StreetsSpec(train_images=1, val_images=8)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "streets"
    generate_streets(SPEC, root, processes=1)
    return root


def instance_files(dataset: Path) -> list[Path]:
    return sorted((dataset / "gtFine" / "val").rglob("*_gtFine_instanceIds.png"))


def picture_of(path: Path) -> Path:
    return Path(str(path).replace("gtFine_instanceIds", "leftImg8bit").replace("gtFine", "leftImg8bit"))


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_layout(dataset: Path) -> None:
    assert not {*CITIES["train"]} & {*CITIES["val"]}
    expected = set()
    for split, count in (("train", 1), ("val", 8)):
        for index in range(count):
            city = CITIES[split][index % len(CITIES[split])]
            name = f"{split}/{city}/{city}_{index:06d}_000019"
            expected.add(f"leftImg8bit/{name}_leftImg8bit.png")
            expected |= {f"gtFine/{name}_gtFine_{kind}.png" for kind in ("labelIds", "instanceIds")}
    assert {*files(dataset)} == expected
    for name in expected:
        with Image.open(dataset / name) as picture:
            assert picture.size == (256, 128)
            assert picture.mode == ("RGB" if "leftImg8bit" in name else "L" if "labelIds" in name else "I;16")


def test_ids_are_cityscapes(dataset: Path) -> None:
    """Numbers from 1000 times the label id for objects, the label id for stuff and groups, the same label in both."""
    classes, groups = set(), set()
    for path in instance_files(dataset):
        ids = read_ids(path).astype(int)
        labels = np.where(ids < 1000, ids, ids // 1000)
        np.testing.assert_array_equal(labels, read_ids(Path(str(path).replace("instanceIds", "labelIds"))))
        for value, count in zip(*np.unique(ids, return_counts=True), strict=True):
            if value >= 1000:
                assert id2label[value // 1000].hasInstances
                assert count >= SMALLEST_OBJECT
            elif id2label[value].hasInstances:
                groups.add(id2label[value].name)
        classes |= {id2label[label].name for label in np.unique(labels).tolist()}
    assert classes >= {*CITYSCAPES.names}
    assert classes >= {"ego vehicle", "rectification border", "static"}
    assert "person" in groups


def test_cityscapes_own_reader(dataset: Path) -> None:
    paths = instance_files(dataset)
    found = instances2dict([str(path) for path in paths])
    for path, instances in zip(paths, found.values(), strict=True):
        values, counts = np.unique(read_ids(path), return_counts=True)
        listed = {entry["instID"]: entry["pixelCount"] for of_class in instances.values() for entry in of_class}
        assert listed == dict(zip(values.tolist(), counts.tolist(), strict=True))
    with_instances = [label.name for label in all_labels if label.hasInstances and not label.ignoreInEval]
    assert all(any(i["instID"] >= 1000 for image in found.values() for i in image[name]) for name in with_instances)


def test_perfect_predictions_score_100(dataset: Path, tmp_path: Path) -> None:
    for path in instance_files(dataset):
        ids = read_ids(path)
        image = path.name.removesuffix("_gtFine_instanceIds.png")
        lines = []
        for value in np.unique(ids[ids >= 1000]).tolist():
            Image.fromarray((ids == value).astype(np.uint8) * 255).save(tmp_path / f"{image}_{value}.png")
            lines.append(f"{image}_{value}.png {value // 1000} 0.9\n")
        (tmp_path / f"{image}.txt").write_text("".join(lines))
    found = cityscapes_ap(dataset / "gtFine" / "val", tmp_path)
    assert len(found) == 2 * 9
    # No class is without an object of 100 pixels, the smallest that counts.
    assert set(found.values()) == {100.0}

    truth = dataset / "gtFine" / "val"
    (tmp_path / "labels").mkdir()
    for path in truth.rglob("*_gtFine_labelIds.png"):
        (tmp_path / "labels" / path.name).write_bytes(path.read_bytes())
    scores = miou(truth, tmp_path / "labels", trimap_widths=[8])
    assert scores["mIoU"] == scores["trimap8_mIoU"] == 100
    assert set(scores["IoU"].values()) == {100.0}


def test_what_is_farther_is_smaller_and_higher(dataset: Path) -> None:
    feet, sizes = [], []
    for path in instance_files(dataset):
        ids = read_ids(path)
        for value in np.unique(ids[ids // 1000 == 26]).tolist():
            rows, columns = np.nonzero(ids == value)
            if (
                rows.max() < 100
                and 3 < columns.min() <= columns.max() < 252
                and len(rows) > 0.6 * np.ptp(rows) * np.ptp(columns)
            ):
                feet.append(rows.max())
                sizes.append(np.ptp(rows))
    assert len(feet) >= 8
    assert np.corrcoef(feet, sizes)[0, 1] > 0.7


def test_labels_end_where_the_picture_changes(dataset: Path) -> None:
    for path in instance_files(dataset):
        ids, image = read_ids(path), np.array(Image.open(picture_of(path))).astype(float)
        change = np.abs(np.diff(image, axis=1)).sum(axis=2)
        edge = ids[:, 1:] != ids[:, :-1]
        assert np.median(change[edge]) > 4 * np.median(change[~dilate(edge)])


def test_edges_have_thin_parts(dataset: Path) -> None:
    """Most of the poles and the bicycles is within two pixels of something else."""
    thin, total = 0, 0
    for path in instance_files(dataset):
        for label in (17000, 33000):
            mask = np.isin(read_ids(path), [label // 1000, *range(label, label + 1000)])
            total += np.count_nonzero(mask)
            thin += np.count_nonzero(mask & dilate(dilate(~mask)))
    assert total > 4000
    assert thin > 0.9 * total


def test_an_image_depends_on_sizes_seed_split_and_index_only(dataset: Path) -> None:
    image, ids = render_street(StreetsSpec(500, 1), "val", 3)
    path = instance_files(dataset)[3]
    np.testing.assert_array_equal(read_ids(path), ids)
    picture = (
        dataset / "leftImg8bit" / "val" / path.parent.name / path.name.replace("gtFine_instanceIds", "leftImg8bit")
    )
    np.testing.assert_array_equal(np.array(Image.open(picture)), image)
    for other in (render_street(SPEC, "train", 3), render_street(StreetsSpec(1, 1, seed=1), "val", 3)):
        assert np.mean(other[1] != ids) > 0.1


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 256)])
def test_other_sizes(height: int, width: int) -> None:
    image, ids = render_street(StreetsSpec(1, 1, height=height, width=width), "train", 1)
    assert image.shape == (height, width, 3)
    labels = np.where(ids < 1000, ids, ids // 1000)
    assert {7, 8, 11, 23, 28} <= {*np.unique(labels).tolist()}


def test_same_bytes_with_other_processes_and_whole_or_not_at_all(tmp_path: Path) -> None:
    spec, calls = StreetsSpec(2, 1, height=64, width=64), []
    generate_streets(spec, tmp_path / "one", processes=1)
    generate_streets(spec, tmp_path / "two", processes=2, on_image=lambda: calls.append(None))
    assert len(calls) == 3
    before = files(tmp_path / "one")
    assert files(tmp_path / "two") == before

    def fail() -> None:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        generate_streets(StreetsSpec(1, 1, height=64, width=64, seed=1), tmp_path / "half", processes=1, on_image=fail)
    with pytest.raises(FolderExistsError, match="one: holds files already"):
        generate_streets(StreetsSpec(1, 1, height=64, width=64, seed=1), tmp_path / "one", processes=1)
    assert files(tmp_path / "one") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("train_images", 0), ("val_images", -1), ("height", 20), ("width", 100), ("width", 1000), ("seed", -1)],
)
def test_invalid_specs_name_the_field(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=field):
        StreetsSpec(**{"train_images": 1, "val_images": 1, field: value})
