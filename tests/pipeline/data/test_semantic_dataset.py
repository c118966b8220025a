"""Semantic datasets: the ids of a label PNG as classes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_labels import OWN, label_ids, prepared_labels

from pipeline.config.labels import LabelTable
from pipeline.config.models import Scales, SemanticModelConfig
from pipeline.data.coco import DatasetError
from pipeline.data.dataset import EvaluationImages
from pipeline.data.labels import CITYSCAPES
from pipeline.data.samplers import Draw, TrainingBatches
from pipeline.data.semantic_dataset import SemanticTrainingImages
from pipeline.data.semantic_transforms import change_colors

WHOLE = SemanticModelConfig(
    name="semantic_fpn_tiny",
    pretrained_backbone=None,
    norm="group",
    crop_size=[30, 44],
    scales=Scales(smallest=1.0, largest=1.0, step=1),
    color_augmentation=False,
    max_class_share=None,
)


@pytest.mark.parametrize(("table", "classes"), [(CITYSCAPES, (0, 2)), (OWN, (0, 1))], ids=["cityscapes", "own"])
def test_label_ids_become_classes_and_255(tmp_path: Path, table: LabelTable, classes: tuple[int, int]) -> None:
    prepared, storage = prepared_labels(tmp_path, table)
    example = SemanticTrainingImages(prepared, storage, WHOLE)[Draw(1, 0)]
    assert example.image_id == 2
    labels = example.target["labels"]
    assert labels.shape == (30, 44)
    assert sorted(labels.unique().tolist()) == [*classes, 255]
    assert int((labels == 255).sum()) == 4 * 5
    # The picture is of the ids.
    ids = label_ids(1, table)
    expected = torch.from_numpy(np.stack([ids * 9] * 3))
    assert example.image.dtype == torch.uint8
    assert torch.equal(example.image, expected) or torch.equal(example.image, expected.flip(-1))


def test_colors_are_drawn_here_and_changed_on_the_device(tmp_path: Path) -> None:
    prepared, storage = prepared_labels(tmp_path)
    plain = SemanticTrainingImages(prepared, storage, WHOLE)
    colored = SemanticTrainingImages(prepared, storage, WHOLE.model_copy(update={"color_augmentation": True}))
    changed = 0
    for seed in range(8):
        example = colored[Draw(1, seed)]
        assert example.image.dtype == torch.uint8
        assert example.colors is not None
        image, _ = example.to_device(torch.device("cpu"))
        before = example.image.float() / 255
        assert torch.equal(image, change_colors(before, example.colors))
        changed += not torch.equal(image, before)
        assert plain[Draw(1, seed)].colors is None
    assert changed > 4


def test_evaluation_images_come_as_they_are(tmp_path: Path) -> None:
    prepared, storage = prepared_labels(tmp_path)
    images = EvaluationImages(prepared, storage, "label_file")
    assert len(images) == 3
    label_file, image = images[2]
    assert label_file == "labels/val/town/town_2_gtFine_labelIds.png"
    assert image.shape == (3, 30, 44)
    assert image.dtype == torch.uint8


def test_batches_need_no_groups(tmp_path: Path) -> None:
    prepared, storage = prepared_labels(tmp_path)
    images = SemanticTrainingImages(prepared, storage, WHOLE)
    batches = TrainingBatches(images.groups, batch_size=2, seed=0, start=0, stop=3)
    drawn = [draw.image for batch in batches for draw in batch]
    # Two epochs in three batches.
    assert sorted(drawn[:3]) == sorted(drawn[3:]) == [0, 1, 2]


def test_labels_that_changed_since_they_were_prepared(tmp_path: Path) -> None:
    prepared, storage = prepared_labels(tmp_path, OWN)
    file = tmp_path / "raw" / "labels" / "val" / "deep" / "0.png"
    file.write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"(?s)deep/0\.png.*prepare it again"):
        SemanticTrainingImages(prepared, storage, WHOLE)[Draw(0, 0)]


def test_a_dataset_of_the_other_task_is_refused(tmp_path: Path) -> None:
    prepared, _ = prepared_labels(tmp_path)
    with pytest.raises(DatasetError, match="expected a dataset of instances"):
        assert prepared.categories
