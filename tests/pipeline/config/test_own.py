"""The settings of a training of somebody's own data, and its files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up_configs import copied_project

from pipeline.config.datasets import CocoDataset, CocoSplit, HeldOut
from pipeline.config.own import Data, Device, Weights, Wishes, config_files, model_name, settings, write_files
from pipeline.config.project import Project
from pipeline.config.reader import ConfigError
from pointrend.specs import MODELS, list_models

CPU, GPU = Device(None, 2), Device(24.0, 8)
NUCLEI = Data("instance", 120, 256, 256, objects=117, mean_objects=30.5, object_side=13.4)
STREETS = Data("semantic", 100, 360, 480)
DATASET = CocoDataset(
    source="coco", root="/data/mine", train=CocoSplit(annotations="a.json", images="photos"), val=HeldOut(share=0.2)
)


def of(data: Data = NUCLEI, device: Device = CPU, weights: Weights = Weights(), **wishes: Any) -> dict[str, Any]:  # noqa: B008
    wishes = {"head": "pointrend", "backbone": "tiny", **wishes}
    return settings("mine", data, device, weights, Wishes(**wishes))


def test_settings_follow_from_data_and_device() -> None:
    found = of()
    assert found["schedules"]["batch_size"] == 2  # of images with many objects
    assert sum(phase["updates"] for phase in found["schedules"]["phases"]) == 900
    assert found["models"]["test_min_size"] == 320  # the objects are small
    assert found["models"]["detections_per_image"] == 200
    assert found["clusters"] == {"workers": 0, "driver_memory_gb": 2, "cpus_per_worker": 2}
    photographs = Data("instance", 300, 3000, 4000, objects=5, mean_objects=2, object_side=400)
    found = of(photographs, GPU, Weights("model.pkl", "frozen_batch"), backbone="r50")
    assert (found["models"]["test_min_size"], found["schedules"]["batch_size"]) == (800, 4)
    assert found["clusters"]["gpus_per_worker"] == 1
    assert "detections_per_image" not in found["models"]


def test_semantic_models_train_on_crops_of_images_at_their_size() -> None:
    model = of(STREETS, head="dense")["models"]
    assert model["crop_size"] == [192, 256]
    assert model["scales"] == {"smallest": 0.75, "largest": 1.25, "step": 16}


@pytest.mark.parametrize(
    ("data", "rate", "of_a_resnet"), [(NUCLEI, 0.02, 0.02), (STREETS, 0.01, 0.01)], ids=["instance", "semantic"]
)
def test_learning_rates_are_the_paper_s(data: Data, rate: float, of_a_resnet: float) -> None:
    """Appendix A and B have them for 16 images; that of a larger network is proportional to its batch."""

    def highest(**wishes: Any) -> float:
        schedule = of(data, **wishes)["schedules"]
        return max(part["learning_rate"] for part in schedule.get("phases", [schedule.get("poly")]))

    assert highest() == rate
    assert highest(backbone="r101", batch=16, head="pointrend") == of_a_resnet
    assert highest(backbone="r101", batch=4, head="pointrend") == of_a_resnet / 4


def test_weights_predict_with_the_points_that_scores_were_measured_with() -> None:
    found = of(STREETS)
    points = 4 * 192 * 192 // 64
    assert found["experiments"]["evaluations"] == {"full": {"num_points": points}}
    assert found["models"]["points_per_step"] == points
    assert "points_per_step" not in of(STREETS, head="dense")["models"]


@pytest.mark.parametrize(
    ("data", "backbone", "weights", "expected"),
    [
        (NUCLEI, "r50", Weights(), None),
        (NUCLEI, "r50", Weights("model.safetensors", "group"), None),
        (NUCLEI, "r50", Weights(imagenet=True, norm="frozen_batch"), "torchvision"),
        (NUCLEI, "r50", Weights("model.pkl", "frozen_batch", source="detectron2"), "detectron2"),
        (STREETS, "r101", Weights(imagenet=True, norm="frozen_batch"), "torchvision"),
        (STREETS, "r103", Weights(imagenet=True, norm="frozen_batch"), "detectron2"),  # torchvision has none
    ],
)
def test_whose_imagenet_weights_a_backbone_goes_back_to(
    data: Data, backbone: str, weights: Weights, expected: str | None
) -> None:
    assert of(data, GPU, weights, backbone=backbone)["models"]["pretrained_backbone"] == expected


def test_what_is_given_goes_first() -> None:
    found = of(updates=7, image_size=128, batch=3, head="4xconv", negatives=True)
    assert sum(phase["updates"] for phase in found["schedules"]["phases"]) == 7
    assert (found["models"]["test_min_size"], found["schedules"]["batch_size"]) == (128, 3)
    assert found["models"]["name"] == "maskrcnn_tiny_fpn"
    assert "sampling" not in found["experiments"]
    assert found["experiments"]["negatives"] is True


@pytest.mark.parametrize(
    ("val_images", "updates", "expected"),
    [(40, 900, 90), (0, 900, 90), (50, 900, 100), (225, 900, 450), (226, 900, None), (1, 8, 2), (50, 505, 101)],
)
def test_validations_take_a_small_share_of_the_time(val_images: int, updates: int, expected: int | None) -> None:
    """Ten at most; together they predict at most a quarter as many images as are trained on, here two per update."""
    data = replace(NUCLEI, val_images=val_images)
    assert of(data, updates=updates)["schedules"].get("validate_every") == expected


def test_validation_as_it_is_asked_for() -> None:
    assert "validate_every" not in of(validate_every=0)["schedules"]
    found = of(validate_every=7, stop_early=3)["schedules"]
    assert (found["validate_every"], found["stop_early"]) == (7, 3)
    assert "stop_early" not in of()["schedules"]
    with pytest.raises(ConfigError, match="--stop-early 3: there are no validations to stop after"):
        of(validate_every=0, stop_early=3)


@pytest.mark.parametrize("name", [name for name in list_models() if not name.endswith("rcnn_r50_fpn_cityscapes")])
def test_every_model_can_be_named(name: str) -> None:
    spec, task = MODELS[name], "instance" if "rcnn" in name else "semantic"
    head = "pointrend" if spec.has_pointrend else "4xconv" if task == "instance" else "dense"
    found = model_name(task, spec.backbone, head)  # type: ignore[arg-type]
    assert found == name or (spec.backbone == "tiny" and "deeplabv3" in name)


@pytest.mark.parametrize(
    ("task", "backbone", "head", "message"),
    [
        ("semantic", "r50", "pointrend", "no semantic model has it; expected one of r103, r101, tiny"),
        ("semantic", "tiny", "4xconv", "semantic models have dense or pointrend"),
        ("instance", "tiny", "dense", "instance models have 4xconv or pointrend"),
    ],
)
def test_a_model_that_there_is_not(task: Any, backbone: str, head: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_name(task, backbone, head)


CASES: list[tuple[Data, Device, Weights, dict[str, Any]]] = [
    (NUCLEI, CPU, Weights(), {}),
    (NUCLEI, CPU, Weights(), {"head": "4xconv"}),
    (NUCLEI, GPU, Weights(imagenet=True, norm="frozen_batch"), {"backbone": "r50"}),
    (Data("instance", 1, 50, 3000, 1, 1.0, 10.0), CPU, Weights(), {"negatives": True, "updates": 1}),
    (STREETS, CPU, Weights(), {"head": "dense"}),
    (STREETS, CPU, Weights(), {}),
    (STREETS, GPU, Weights(imagenet=True, norm="frozen_batch"), {"backbone": "r101"}),
    (STREETS, GPU, Weights(imagenet=True, norm="frozen_batch"), {"backbone": "r103"}),
]


@pytest.mark.parametrize(("data", "device", "weights", "wishes"), CASES)
def test_what_is_written_is_a_scale(
    tmp_path: Path, data: Data, device: Device, weights: Weights, wishes: dict[str, Any]
) -> None:
    project = copied_project(tmp_path)
    dataset = DATASET
    if data.task == "semantic":
        dataset = Project(tmp_path).dataset("camvid")  # type: ignore[assignment]
    assert write_files(config_files(project, "mine", dataset, of(data, device, weights, **wishes)))
    selection = project.select("mine", "data")
    project.cluster("mine")
    run, evaluation = project.run("mine", "mine-0", selection.runs["mine-0"])
    assert run.model.task == data.task
    assert evaluation.root
    assert project.dataset("mine") == dataset


def test_files_with_other_settings_are_not_touched(tmp_path: Path) -> None:
    project = copied_project(tmp_path)
    files = config_files(project, "mine", DATASET, of())
    assert write_files(files) is True
    assert write_files(files) is False
    path = project.configs / "schedules" / "mine.yaml"
    path.write_text("mine\n")
    (project.configs / "models" / "mine.yaml").unlink()
    with pytest.raises(
        ConfigError, match=r"schedules/mine\.yaml: is no mapping\nTo train with these, choose another name"
    ):
        write_files(files)
    assert path.read_text() == "mine\n"
    assert not (project.configs / "models" / "mine.yaml").exists()
