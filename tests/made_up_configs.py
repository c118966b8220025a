"""Configuration files to break in one place at a time."""

import re
import shutil
from pathlib import Path

import pytest

from pipeline.config.project import Project
from pipeline.config.reader import ConfigError, load

REPOSITORY = Path(__file__).parents[1]
CONFIGS = REPOSITORY / "configs"
SCALES = sorted(path.name for path in (CONFIGS / "experiments").iterdir())

SCHEDULE = """\
batch_size: 16
warmup: {updates: 1000, learning_rate: 0.001}
phases:
  - {updates: 60000, learning_rate: 0.02}
  - {updates: 20000, learning_rate: 0.002}
"""
MODEL = """\
name: pointrend_rcnn_tiny_fpn
pretrained_backbone: null
norm: group
train_min_sizes: [144, 160]
test_min_size: 176
max_size: 256
"""
EXPERIMENT = """\
description: PointRend on shapes
dataset: shapes
model: pointrend_tiny_shapes
schedule: demo
seeds: [0, 1]
sampling: {strategy: biased, num_points: 196, oversample_ratio: 3.0, importance_sample_ratio: 0.75}
evaluations:
  28x28: {resolution: 28, num_points: 784}
"""
TABLE = """\
title: A table
row_labels: [mask head, resolution]
columns:
  - {key: ap, label: AP}
rows:
  - labels: [PointRend, 28x28]
    cells:
      ap: {experiment: coco_pointrend_r50, evaluation: 28x28, metric: AP, paper: 36.1}
"""
COSTS = """\
title: A table
row_labels: [mask head]
columns:
  - {key: flops, label: "FLOPs, 10⁹", unit: 1.0e9}
rows:
  - labels: ["4×conv"]
    cells:
      flops: {model: maskrcnn_r50_fpn_coco, resolution: 28, cost: multiply_adds, paper: 0.5}
"""
COCO = """\
source: coco
root: x
train: {annotations: a, images: b}
val: {annotations: c, images: d}
lvis:
  root: y
  annotations: e
"""
LABELS = """\
source: labels
root: x
train: {images: a, labels: b}
val: {images: c, labels: d}
classes: {sky: 0, road: 1}
"""
CITYSCAPES = """\
source: cityscapes
task: instance
root: x
train: {images: a, labels: b}
val: {images: c, labels: d}
"""
SELECTION = """\
synthetic: [shapes]
datasets:
  shapes: {task: instance, train: a.json, val: b.json, lvis: c.json}
runs:
  mine-0: {task: instance, dataset: shapes, experiment: coco_pointrend_r50, seed: 0, starts_from: data/shapes}
sweeps: {}
"""


def refusal(schema: type, path: Path) -> str:
    """The message of the ConfigError of a file; it always names the file."""
    with pytest.raises(ConfigError) as caught:
        load(schema, path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def edited(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


def linked_project(root: Path) -> Project:
    """The project's own configuration in another folder, to read."""
    (root / "configs").symlink_to(CONFIGS)
    shutil.copy(REPOSITORY / "dvc.yaml", root)  # no link: tests write their own
    (root / "pipeline").symlink_to(REPOSITORY / "pipeline")  # with the weights that the demo's runs start from
    return Project(root)


def copied_project(root: Path) -> Project:
    """A copy of the project's own configuration, to change."""
    shutil.copytree(CONFIGS, root / "configs")
    shutil.copy(REPOSITORY / "dvc.yaml", root)
    for package in ("pipeline", "pointrend"):
        (root / package).symlink_to(REPOSITORY / package)
    return Project(root)


def chained_project(root: Path) -> Project:
    """A copy whose demo trains what its other runs start from.

    Each of them starts from a run in place of a file of weights, and trains all of its network.
    """
    project = copied_project(root)
    demo = project.configs / "experiments" / "demo"
    for path in demo.iterdir():
        text = re.sub(r"(?m)^starts_from: .*/(\w+)\.safetensors$", r"starts_from: \1-0", path.read_text())
        path.write_text(text.replace("train: mask_head\n", ""))
    for path in (project.configs / "experiments" / "pretraining").iterdir():
        shutil.copy(path, demo)
    return project
