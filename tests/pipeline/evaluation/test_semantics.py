"""Predictions of semantic models: label PNGs that the metric finds, whatever setting and chunk they come from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_labels import OWN, label_ids, prepared_labels
from PIL import Image
from torch import Tensor

from pipeline.config.evaluations import EvaluationConfig, SemanticRenderingConfig
from pipeline.config.experiments import RunConfig
from pipeline.config.labels import LabelTable
from pipeline.config.project import Project
from pipeline.data.coco import DatasetError
from pipeline.data.labels import CITYSCAPES, read_ids
from pipeline.evaluation.instances import IncompletePredictionsError
from pipeline.evaluation.outputs import labels_folder, prediction_names
from pipeline.evaluation.run import predict, score
from pipeline.evaluation.semantics import gather_predictions, predict_classes, write_ids
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.training.model import build_run_model
from pointrend import save_weights
from pointrend.semantic import SemanticSegmenter

OS16, OS8 = (SemanticRenderingConfig(output_stride=stride, num_points=20) for stride in (16, 8))  # type: ignore[arg-type]


def run(repository: Path) -> RunConfig:
    """CamVid's DeepLabV3 with PointRend."""
    project = Project(repository)
    params = project.select("camvid", "data")
    name = "cityscapes_deeplabv3_pointrend_r103-0"
    return project.run("camvid", name, params.runs[name])[0]


@pytest.fixture(scope="module")
def model(repository: Path) -> SemanticSegmenter:
    torch.manual_seed(0)
    built = build_run_model(run(repository), 19, pretrained=False)
    assert isinstance(built, SemanticSegmenter)
    torch.nn.init.normal_(built.head.predictor.weight)  # type: ignore[arg-type]
    return built.eval()


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.rand(3, 37, 52, generator=torch.Generator().manual_seed(0))


# Which prediction belongs to which ground truth


@pytest.mark.parametrize(
    ("table", "names"),
    [
        (CITYSCAPES, {f"labels/val/town/town_{i}_gtFine_labelIds.png": f"town/town_{i}.png" for i in range(2)}),
        (OWN, {f"labels/val/deep/{i}.png": f"deep/{i}.png" for i in range(2)}),
    ],
    ids=["cityscapes", "own"],
)
def test_predictions_are_named_after_their_ground_truth(
    tmp_path: Path, table: LabelTable, names: dict[str, str]
) -> None:
    prepared, _ = prepared_labels(tmp_path, table, images=2)
    assert prediction_names(prepared) == names


def test_ground_truth_of_other_images_is_refused(tmp_path: Path) -> None:
    prepared, _ = prepared_labels(tmp_path, images=2)
    (prepared.truth / "town" / "town_0_gtFine_labelIds.png").unlink()
    with pytest.raises(DatasetError, match="not the ground truth of the val split"):
        prediction_names(prepared)


# Predicting


@torch.inference_mode()
def test_each_setting_is_what_the_model_itself_predicts(model: SemanticSegmenter, image: Tensor) -> None:
    found = predict_classes(model, image, {"a": OS16, "b": OS8, "c": OS16.model_copy(update={"num_points": 2000})})
    assert model.pointrend is not None
    expected = {}
    for name, (stride, points) in {"a": (16, 20), "b": (8, 20), "c": (16, 2000)}.items():
        model.set_output_stride(stride)
        model.pointrend.points_per_step = points
        expected[name] = model([image])[0].argmax(0)
    for name, classes in found.items():
        assert classes.shape == (37, 52)
        assert torch.equal(classes, expected[name]), name
    assert len({tuple(classes.flatten().tolist()) for classes in found.values()}) == 3


@pytest.mark.parametrize(
    "table", [CITYSCAPES, OWN, LabelTable(("a", "b"), (5, 40_000), ())], ids=["city", "own", "wide"]
)
def test_classes_are_written_as_label_ids(tmp_path: Path, table: LabelTable) -> None:
    classes = torch.arange(12).view(3, 4) % len(table.ids)
    write_ids(classes, table, tmp_path / "deep" / "x.png")
    assert read_ids(tmp_path / "deep" / "x.png").tolist() == np.array(table.ids)[classes.numpy()].tolist()


def test_a_run_s_predictions_and_their_scores(tmp_path: Path, repository: Path, model: SemanticSegmenter) -> None:
    prepared, images = prepared_labels(tmp_path, images=9)  # two chunks
    weights, output = tmp_path / "model.safetensors", tmp_path / "output"
    save_weights(model, weights)
    output.mkdir()
    trained = TrainedRun(run(repository), prepared.folder, images, weights)
    settings = EvaluationConfig({"os16": OS16, "os8": OS8})
    predict(trained, settings, torch.device("cpu"), tmp_path / "chunks", output)
    assert sorted(path.name for path in output.iterdir()) == ["labels_os16", "labels_os8"]
    assert len(list(labels_folder(output, "os8").rglob("*.png"))) == 9
    values, details, _ = score(prepared, output, "os16", OS16.model_copy(update={"trimap_widths": [3]}))
    assert set(values) == {"mIoU", "trimap3_mIoU"}
    assert 0 <= values["mIoU"] < 50
    assert details["IoU"].keys() <= set(CITYSCAPES.names)


def test_a_perfect_prediction(tmp_path: Path) -> None:
    prepared, _ = prepared_labels(tmp_path, OWN, images=2)
    for number, name in enumerate(prediction_names(prepared).values()):
        classes = OWN.classes(label_ids(number, OWN)).clip(max=1)
        write_ids(torch.from_numpy(classes).long(), OWN, labels_folder(tmp_path, "x") / name)
    values, details, drawn = score(prepared, tmp_path, "x", SemanticRenderingConfig(trimap_widths=[8, 20], resamples=3))
    assert values == {"mIoU": 100, "trimap8_mIoU": 100, "trimap20_mIoU": 100}
    assert details.keys() == {"IoU", "trimap8_IoU", "trimap20_IoU"}
    assert details["IoU"] == {"sand": 100, "sea": 100}
    assert drawn == {"mIoU": [100] * 3, "trimap8_mIoU": [100] * 3, "trimap20_mIoU": [100] * 3}


# Every image exactly once


def parts(root: Path, *names: list[str]) -> list[Path]:
    folders = [root / f"part{number}" for number in range(len(names))]
    for folder, files in zip(folders, names, strict=True):
        for name in files:
            path = folder / "x" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (2, 2)).save(path)
    return folders


def test_predictions_are_gathered(tmp_path: Path) -> None:
    gather_predictions(
        parts(tmp_path, ["a/1.png", "b/2.png"], ["a/3.png"]), "x", ["a/1.png", "a/3.png", "b/2.png"], tmp_path / "all"
    )
    assert sorted(path.relative_to(tmp_path / "all").as_posix() for path in (tmp_path / "all").rglob("*.png")) == [
        "a/1.png",
        "a/3.png",
        "b/2.png",
    ]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([["1.png"], ["1.png", "2.png"]], r"part1, x: 1\.png is there twice"),
        ([["1.png"], ["3.png"]], r"part1, x: 3\.png"),
        ([["1.png"], []], r"no prediction 2\.png; 1 are missing"),
    ],
    ids=["twice", "unknown", "missing"],
)
def test_an_image_that_is_not_there_exactly_once(tmp_path: Path, found: list[list[str]], said: str) -> None:
    with pytest.raises(IncompletePredictionsError, match=said):
        gather_predictions(parts(tmp_path, *found), "x", ["1.png", "2.png"], tmp_path / "all")
