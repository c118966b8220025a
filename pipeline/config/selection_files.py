"""The text of ``params.yaml`` and ``selection.yaml``, as ``pointrend select`` writes them."""

from collections.abc import Mapping
from typing import Any

import yaml

from pipeline.config.params import Params
from pipeline.config.selection import Selection


def params_text(params: Params) -> str:
    """``params.yaml``. An experiment without a point head has no ``sampling``."""
    values = params.model_dump()
    single = {
        name: {key: value for key, value in overrides.items() if key != "sampling" or value is not None}
        for name, overrides in values.pop("experiments").items()
    }
    lines = {key: f"{key}: {_flow(value)}" for key, value in values.items()}
    return "\n".join(
        [
            f"# Written by `pointrend select {params.scale}`. `dvc exp run -S KEY=VALUE` changes settings for one "
            "DVC experiment:",
            "#   dvc exp run -S sampling.importance_sample_ratio=0.5 -S schedule=NAME",
            "# Null leaves a setting as the files in configs/experiments have it.",
            lines["scale"],
            lines["data_root"],
            lines["cluster"],
            "# For all selected experiments; sampling is for those with a point head.",
            lines["sampling"],
            lines["schedule"],
            "# For one experiment, before the settings for all.",
            *_block("experiments", single),
            "",
        ]
    )


def selection_text(scale: str, selection: Selection) -> str:
    """``selection.yaml``, with one line for each entry, so that an entry is deleted with its line."""
    sections = selection.model_dump()
    return "\n".join(
        [
            f"# What `dvc repro` runs. Written by `pointrend select {scale}`; delete lines to run less.",
            f"synthetic: {_flow(sections.pop('synthetic'))}",
            *(line for key in ("datasets", "runs", "sweeps") for line in _block(key, sections[key])),
            *(f"{key}: {_flow(sections[key])}" for key in ("excluded",) if key in sections),
            "",
        ]
    )


def _block(key: str, entries: Mapping[str, Any]) -> list[str]:
    if not entries:
        return [f"{key}: {{}}"]
    return [f"{key}:", *(f"  {name}: {_flow(value)}" for name, value in entries.items())]


def _flow(value: Any) -> str:
    """A value in YAML on one line."""
    return (
        yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=float("inf"))
        .removesuffix("...\n")
        .strip()
    )
