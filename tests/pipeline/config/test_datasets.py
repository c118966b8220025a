"""Datasets."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from made_up_configs import (
    CITYSCAPES,
    COCO,
    LABELS,
    edited,
)

from pipeline.config.datasets import CityscapesDataset, CocoDataset, load_dataset
from pipeline.config.project import Project
from pipeline.config.reader import ConfigError


def test_an_empty_dataset_file(written: Callable[[str], Path]) -> None:
    path = written("")
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        load_dataset(path)


def test_a_dataset_is_of_the_kind_of_its_source(repository: Path) -> None:
    project = Project(repository)
    assert isinstance(project.dataset("coco2017"), CocoDataset)
    assert isinstance(project.dataset("shapes"), CocoDataset)
    for task in ("instance", "semantic"):
        dataset = project.dataset(f"cityscapes_{task}")
        assert isinstance(dataset, CityscapesDataset)
        assert dataset.task == task


@pytest.mark.parametrize(
    ("name", "train", "val", "lvis"),
    [
        ("coco2017", 118_287, 5_000, 5_000),
        ("coco2017_lvis_v1", 118_287, 5_000, 4_809),
        ("cityscapes_instance", 2_975, 500, None),
        ("cityscapes_semantic", 2_975, 500, None),
    ],
)
def test_the_published_numbers_of_images(repository: Path, name: str, train: int, val: int, lvis: int | None) -> None:
    dataset = Project(repository).dataset(name)
    assert (dataset.train.num_images, dataset.val.num_images) == (train, val)
    assert (dataset.lvis.num_images if isinstance(dataset, CocoDataset) and dataset.lvis else None) == lvis
    assert "https://" in dataset.obtain


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("root: coco\n", "source"),
        ("source: voc\n", "'voc'"),
        ("source: coco\nroot: x\n", "train: missing"),
        ("source: coco\nroot: x\ntrain: {annotations: a}\nval: {annotations: a, images: b}\n", "train.images: missing"),
        ("source: synthetic\ntrain_images: 1\n", "'synthetic'"),
        (COCO + "  synsets: {a: x.n.01, b: x.n.01}\n", "lvis.synsets: a synset appears more than once"),
        (COCO + "  num_images: 0\n", "lvis.num_images: "),
        (COCO + "finer_val: x.json\n", "finer_val and lvis both say what AP* is measured on; expected one of them"),
        (edited(COCO, "val: {annotations: c, images: d}", "val: c"), "val: "),
        (edited(COCO, "val: {annotations: c, images: d}", "val: {share: 1.0}"), "val.share: "),
        (edited(LABELS, "labels: b}\nval", "annotations: b}\nval"), "train.annotations: unknown key"),
        (edited(LABELS, "road: 1", "road: -1"), "classes.road: "),
        (edited(LABELS, "road: 1", "road: 0"), "label id 0 stands for 'sky' and 'road'"),
        (edited(LABELS, "road: 1", "road: 255"), "label id 255 stands for 'road' and ignored pixels"),
        (edited(LABELS, "road: 1", "road: 65536"), "ids from 0 to 65535"),
        (edited(LABELS, "{sky: 0, road: 1}", "{}"), "classes: "),
        (edited(CITYSCAPES, "instance", "panoptic"), "task: "),
        (edited(CITYSCAPES, "task: instance\n", ""), "task: missing"),
    ],
)
def test_faults_of_a_dataset_file(written: Callable[[str], Path], text: str, said: str) -> None:
    path = written(text)
    with pytest.raises(ConfigError) as caught:
        load_dataset(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
