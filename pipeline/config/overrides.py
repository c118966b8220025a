"""Applies the settings that ``params.yaml`` changes to experiments."""

from collections.abc import Mapping

from pydantic import ValidationError

from pipeline.config.experiments import ExperimentConfig
from pipeline.config.models import SamplingConfig
from pipeline.config.params import ExperimentOverrides, Params, Setting
from pipeline.config.reader import first_message

RATIOS = ("oversample_ratio", "importance_sample_ratio")  # a regular grid ignores both


class OverrideError(ValueError):
    """A setting of ``params.yaml`` that cannot be applied, as "key: problem"."""


def apply_overrides(name: str, experiment: ExperimentConfig, params: Params) -> ExperimentConfig:
    """An experiment with the settings that ``params.yaml`` changes; its own changes go before those for all.

    Raises:
        OverrideError: if a value is outside its domain.
    """
    own, of_all = params.of(name), params.of_all
    sampling = experiment.sampling
    if sampling is not None:
        given = of_all.points | own.points
        if given.get("strategy", sampling.strategy) == "grid":
            given = {key: value for key, value in given.items() if key not in RATIOS}
        try:
            sampling = SamplingConfig.model_validate(sampling.model_dump() | given)
        except ValidationError as error:
            key = f"experiments.{name}.sampling" if own.points else "sampling"
            raise OverrideError(f"{key}: experiment {name!r}: {first_message(error)}") from error
    schedule = own.schedule or of_all.schedule or experiment.schedule
    return experiment.model_copy(update={"sampling": sampling, "schedule": schedule})


def changed_settings(before: ExperimentConfig, after: ExperimentConfig) -> dict[str, Setting]:
    """The settings whose values overrides have changed, without the ratios that a grid ignores."""
    old = _settings(before)
    return {key: value for key, value in _settings(after).items() if old.get(key) != value}


def _settings(experiment: ExperimentConfig) -> dict[str, Setting]:
    sampling = experiment.sampling.model_dump() if experiment.sampling else {}
    ignored = RATIOS if sampling.get("strategy") == "grid" else ()
    return {key: value for key, value in sampling.items() if key not in ignored} | {"schedule": experiment.schedule}


def check_overrides(params: Params, selected: Mapping[str, ExperimentConfig]) -> None:
    """Checks that every changed setting applies to a selected experiment; these are given as their files have them.

    Raises:
        OverrideError: if a changed setting applies to none; the message names the first one.
    """
    _check_applies("", params.of_all, selected, params)
    for name, own in params.experiments.items():
        if own.given and name not in selected:
            key = next(iter(own.given))
            known = ", ".join(sorted(selected))
            raise OverrideError(f"experiments.{name}.{key}: {name!r} is not selected; the selection has {known}")
        _check_applies(f"experiments.{name}.", own, {name: selected[name]} if own.given else {}, params)


def _check_applies(
    prefix: str, overrides: ExperimentOverrides, experiments: Mapping[str, ExperimentConfig], params: Params
) -> None:
    """Checks overrides against the experiments that they are meant for; ``prefix`` goes before their keys in errors."""
    sampled = {name: experiment.sampling for name, experiment in experiments.items() if experiment.sampling}
    # Ratios may be given together with the strategy "grid", which then ignores them; not to a grid of the file.
    fixed_grids = [
        name
        for name, sampling in sampled.items()
        if sampling.strategy == "grid" and "strategy" not in params.of_all.points | params.of(name).points
    ]
    which = "it" if prefix else "each of the selected experiments"
    for key in overrides.given:
        if not key.startswith("sampling."):
            continue
        if not sampled:
            raise OverrideError(f"{prefix}{key}: applies to nothing; {which} has no point head to sample points for")
        if key.removeprefix("sampling.") in RATIOS and len(fixed_grids) == len(sampled):
            raise OverrideError(f"{prefix}{key}: applies to nothing; the strategy is 'grid', which ignores it")
