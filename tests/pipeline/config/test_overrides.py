"""Settings that params.yaml changes, as `dvc exp run -S` writes them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.hydra import apply_overrides as set_params
from made_up_configs import linked_project

from pipeline.config.parameters import run_parameters
from pipeline.config.params import Params
from pipeline.config.project import Project
from pipeline.config.reader import ConfigError
from pipeline.config.selection import Selection
from pipeline.config.selection_files import params_text
from pipeline.config.sweep_tasks import TrainingTask, resolve_selected

POINTREND, GRID, CONV = "coco_pointrend_r50", "coco_pointrend_r50_grid", "coco_4xconv_r50"
RATIOS = ("oversample_ratio", "importance_sample_ratio")

Set = Callable[..., Params]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return linked_project(tmp_path)


@pytest.fixture
def set_(project: Project) -> Set:
    """``dvc exp run -S ...`` on what `pointrend select demo` writes: DVC itself changes the file."""

    def set_(*settings: str) -> Params:
        project.params_file.write_text(params_text(project.initial_params("demo", "data", "laptop")))
        set_params(str(project.params_file), list(settings))
        params = project.params()
        project.check(params, project.select("demo", "data"))
        return params

    return set_


def changes(project: Project, params: Params, *experiments: str) -> list[dict[str, Any]]:
    runs = project.select("demo", "data").runs
    return [project.run("demo", f"{name}-0", runs[f"{name}-0"], params)[0].changes for name in experiments]


def test_nothing_is_changed_at_first(project: Project, set_: Set) -> None:
    params = set_()
    for name, selected in project.select("demo", "data").runs.items():
        assert project.run("demo", name, selected, params) == project.run("demo", name, selected)


def test_every_setting_of_every_experiment_has_its_key(project: Project) -> None:
    params = project.initial_params("demo", "data", "laptop")
    assert list(params.experiments) == project.experiment_names("demo")
    for name in project.experiment_names("demo"):
        assert (params.experiments[name].sampling is None) == (project.experiment("demo", name).sampling is None)


def test_one_setting_of_one_experiment(project: Project, set_: Set) -> None:
    params = set_(f"experiments.{POINTREND}.sampling.importance_sample_ratio=0.5")
    runs = project.select("demo", "data").runs
    run, _ = project.run("demo", f"{POINTREND}-0", runs[f"{POINTREND}-0"], params)
    assert (run.run, run.changes) == (f"{POINTREND}-0", {"importance_sample_ratio": 0.5})
    assert run.sampling is not None
    assert (run.sampling.oversample_ratio, run.sampling.importance_sample_ratio) == (3.0, 0.5)
    assert run_parameters(run)["importance_sample_ratio"] == "0.5"
    others = [name for name in project.experiment_names("demo") if name != POINTREND]
    assert changes(project, params, *others) == [{}] * len(others)


def test_settings_of_all_experiments(project: Project, set_: Set) -> None:
    params = set_("sampling.num_points=49", "schedule=demo_3x")
    both = {"num_points": 49, "schedule": "demo_3x"}
    assert changes(project, params, POINTREND, GRID, CONV) == [both, both, {"schedule": "demo_3x"}]
    # Whose own schedule that is.
    assert changes(project, params, f"{POINTREND}_3x") == [{"num_points": 49}]


def test_an_experiment_s_own_go_before_those_of_all(project: Project, set_: Set) -> None:
    params = set_("sampling.oversample_ratio=5", f"experiments.{POINTREND}.sampling.oversample_ratio=8")
    assert changes(project, params, POINTREND, f"{POINTREND}_3x") == [
        {"oversample_ratio": 8.0},
        {"oversample_ratio": 5.0},
    ]


def test_a_grid_ignores_ratios_and_shows_none(project: Project, set_: Set) -> None:
    own = f"experiments.{POINTREND}.sampling"
    params = set_(f"{own}.strategy=grid", f"{own}.oversample_ratio=8", f"{own}.importance_sample_ratio=1")
    assert changes(project, params, POINTREND) == [{"strategy": "grid"}]
    # Nor does one run again for the ratios of all.
    params = set_("sampling.oversample_ratio=5")
    runs = project.select("demo", "data").runs
    assert changes(project, params, GRID) == [{}]
    selected = runs[f"{GRID}-0"]
    assert project.run("demo", f"{GRID}-0", selected, params) == project.run("demo", f"{GRID}-0", selected)


def test_a_grid_that_is_biased_now_shows_its_ratios(project: Project, set_: Set) -> None:
    params = set_(f"experiments.{GRID}.sampling.strategy=biased", f"experiments.{GRID}.sampling.oversample_ratio=8")
    assert changes(project, params, GRID) == [
        {"strategy": "biased", "oversample_ratio": 8.0, "importance_sample_ratio": 0.75}
    ]


def test_what_is_as_before_is_no_change(project: Project, set_: Set) -> None:
    params = set_(f"experiments.{POINTREND}.sampling.oversample_ratio=3", f"experiments.{CONV}.schedule=demo_4xconv")
    assert changes(project, params, POINTREND, CONV) == [{}, {}]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (f"experiments.{GRID}.sampling.oversample_ratio=5", f"experiments.{GRID}.sampling.oversample_ratio: applies"),
        ("+experiments.coco_pointrend.schedule=demo", "experiments.coco_pointrend.schedule: 'coco_pointrend' is not"),
        (f"+experiments.{CONV}.sampling.num_points=9", f"experiments.{CONV}.sampling.num_points: applies to nothing"),
        ("sampling.importance_sample_ratio=2", "sampling: experiment 'cityscapes_deeplabv3_pointrend_r103'"),
        (f"experiments.{POINTREND}.sampling.num_points=0", f"experiments.{POINTREND}.sampling: .*num_points is 0"),
        (f"experiments.{POINTREND}.sampling.strategy=heavy", "sampling.strategy: .*'biased' or 'grid'"),
        (f"experiments.{POINTREND}.sampling.num_points=14.5", "sampling.num_points: .*integer"),
        ("+sampling.k=3", "sampling.k: unknown key"),
        ("schedule=demo_4x", r"demo_4x\.yaml: no such configuration file"),
        (f"experiments.{CONV}.schedule=cityscapes_deeplabv3", f"schedule: .* head_multiplier.* .experiment '{CONV}'."),
    ],
)  # fmt: skip
def test_what_cannot_be_applied_is_an_error_that_names_the_key(
    project: Project, set_: Set, setting: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        changes(project, set_(setting), *project.experiment_names("demo"))


def test_what_applies_to_nothing_that_is_selected_is_an_error(project: Project, set_: Set) -> None:
    params, everything = set_("sampling.num_points=49"), project.select("demo", "data")

    def select(*runs: str) -> Selection:
        return everything.model_copy(update={"runs": {name: everything.runs[name] for name in runs}, "sweeps": {}})

    project.check(params, select(f"{POINTREND}-0", f"{CONV}-0"))
    with pytest.raises(ConfigError, match=rf"{re.escape(str(project.params_file))}:\n  sampling\.num_points: applies"):
        project.check(params, select(f"{CONV}-0"))
    params = set_("sampling.oversample_ratio=5")
    with pytest.raises(ConfigError, match=r"sampling\.oversample_ratio: .* 'grid', which ignores it"):
        project.check(params, select(f"{GRID}-0"))
    # Asked for together they are fine.
    project.check(set_("sampling.oversample_ratio=5", "sampling.strategy=grid", "sampling.num_points=196"), everything)


def test_a_sweep_varies_the_changed_experiment(project: Project, set_: Set) -> None:
    params = set_("sampling.num_points=49", "sampling.oversample_ratio=8")
    task = resolve_selected(project, "demo", "oversampling_importance", project.select("demo", "data"), params)
    assert isinstance(task, TrainingTask)
    assert task.base.changes == {"num_points": 49, "oversample_ratio": 8.0}
    trial = task.trial({"oversample_ratio": 10.0})
    assert trial.sampling is not None
    assert (trial.sampling.num_points, trial.sampling.oversample_ratio) == (49, 10.0)
    assert trial.changes == {"num_points": 49}, "what the sweep varies is no change"


def test_raw_files_of_another_data_root(project: Project, repository: Path) -> None:
    selection = project.select("nuclei", "data")
    params = project.initial_params("nuclei", "data", "laptop")
    project.check(params, selection)
    elsewhere = params.model_copy(update={"data_root": "/elsewhere"})
    with pytest.raises(ConfigError, match=r"datasets\.nuclei: .*`pointrend select nuclei --data-root /elsewhere`"):
        project.check(elsewhere, selection)
