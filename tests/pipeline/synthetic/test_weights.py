"""The files of weights that come with the project, from which the demo's runs start: `make weights` writes them."""

from pathlib import Path

import pytest
from safetensors import safe_open

from pipeline.config.experiments import RunConfig, is_weights_file
from pipeline.config.project import Project
from pipeline.training.model import RETRAINED_HEADS, build_initial_model, build_run_model
from pointrend.weights import read_state_dict

PROJECT = Project(Path(__file__).parents[3])
FOLDER = "pipeline/synthetic/weights"
NAMES = PROJECT.experiment_names("pretraining")
FILES = {name: PROJECT.root / FOLDER / f"{name}.safetensors" for name in NAMES}
CLASSES = {"shapes": 5, "streets_instance": 8, "streets_semantic": 19}
STARTS = {
    f"{name}-{seed}": experiment
    for name in PROJECT.experiment_names("demo")
    if is_weights_file((experiment := PROJECT.experiment("demo", name)).starts_from)
    for seed in experiment.seeds
}


@pytest.fixture(scope="module")
def pretraining() -> dict[str, RunConfig]:
    """The runs that `make weights` trains, as they are now."""
    selected = PROJECT.select("pretraining", "data").runs
    return {name: PROJECT.run("pretraining", name, entry)[0] for name, entry in selected.items()}


@pytest.fixture(scope="module")
def demo() -> dict[str, RunConfig]:
    selected = PROJECT.select("demo", "data").runs
    return {name: PROJECT.run("demo", name, entry)[0] for name, entry in selected.items()}


def test_every_file_is_there_and_is_used() -> None:
    assert sorted((PROJECT.root / FOLDER).iterdir()) == sorted(FILES.values())
    assert {experiment.starts_from for experiment in STARTS.values()} == {
        f"{FOLDER}/{name}.safetensors" for name in NAMES
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_what_make_weights_trains(name: str, pretraining: dict[str, RunConfig]) -> None:
    with safe_open(FILES[name], "pt") as opened:
        metadata = opened.metadata() or {}
    assert metadata.keys() == {"config", "data", "code"}
    assert RunConfig.model_validate_json(metadata["config"]) == pretraining[f"{name}-0"], "train it again: make weights"


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_small_and_has_all_but_the_heads(name: str, pretraining: dict[str, RunConfig]) -> None:
    assert FILES[name].stat().st_size < 5_000_000
    run = pretraining[f"{name}-0"]
    classes = CLASSES[run.dataset.replace("_pretraining", "")]
    own = build_run_model(run, classes, pretrained=False).state_dict()
    found = read_state_dict(FILES[name])
    assert found.keys() == {key for key in own if not key.startswith(RETRAINED_HEADS)}
    assert all(tensor.shape == own[key].shape and tensor.isfinite().all() for key, tensor in found.items())


@pytest.mark.parametrize("name", STARTS)
def test_a_run_of_the_demo_starts_from_its_file(name: str, demo: dict[str, RunConfig]) -> None:
    run = demo[name]
    file = PROJECT.root / str(run.starts_from)
    # Of a detector that a run does not train, nothing may be missing; of another, no part of the file's backbone.
    model = build_initial_model(run, CLASSES[run.dataset], file)
    own = model.state_dict()
    for key, tensor in read_state_dict(file).items():
        if run.train == "mask_head" or key.startswith("backbone.body."):
            assert own[key].equal(tensor.to(own[key].dtype)), key
