"""The weights of a run say what they are, to the library alone, and the same training writes the same bytes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from made_up_images import prepared_images, small_run

from pipeline.data.manifest import read_prepared
from pipeline.training.model import build_run_model, class_infos, load_shared_weights
from pipeline.training.run import Workers, train_run
from pipeline.training.training import Training
from pointrend.weights import load_model

CPU = torch.device("cpu")
ALONE = Workers(0, 1, CPU, broadcast=lambda value: value, report=lambda metrics: None, node_is_leaving=lambda: False)


@pytest.fixture
def trained(tmp_path: Path, repository: Path) -> Training:
    prepared, images = prepared_images(tmp_path, 4)
    training = Training(small_run(repository, "coco_pointrend_r50"), prepared, images, "code 1", tmp_path / "runs")
    train_run(training, ALONE, images_per_worker=1, loader_processes=0, notify=lambda: None)
    return training


def test_they_say_what_they_are(trained: Training) -> None:
    config, prepared = trained.config, read_prepared(trained.prepared)
    found: Any = load_model(trained.weights)
    expected: Any = build_run_model(config, prepared.num_classes, pretrained=False)
    assert found.metadata.spec == expected.metadata.spec
    assert [(known.id, known.name) for known in found.metadata.classes] == [
        (category.id, category.name) for category in prepared.categories
    ]
    assert found.metadata.origin == {
        "dataset": config.dataset, "run": config.run, "data": trained.data, "code": "code 1",
    }  # fmt: skip


def test_the_same_training_writes_the_same_bytes(trained: Training, tmp_path: Path) -> None:
    again = Training(trained.config, trained.prepared, trained.images, "code 1", tmp_path / "again")
    train_run(again, ALONE, images_per_worker=1, loader_processes=0, notify=lambda: None)
    assert again.weights.read_bytes() == trained.weights.read_bytes()


def test_another_run_can_start_from_them(trained: Training) -> None:
    model = build_run_model(trained.config, 2, pretrained=False)
    loaded = load_shared_weights(model, trained.weights)
    assert any(name.startswith("backbone.body.") for name in loaded)
    assert not any(name.startswith("mask_head.") for name in loaded)


def test_classes_of_semantic_labels(tmp_path: Path) -> None:
    from made_up_labels import OWN, prepared_labels

    dataset, _ = prepared_labels(tmp_path, OWN, images=2)
    assert [(known.id, known.name) for known in class_infos(dataset)] == list(
        zip(dataset.labels.ids, dataset.labels.names, strict=True)
    )
