"""Leaves experiments and sweeps out of a selection: `pointrend select`, `plan` and `check` with ``--without``."""

import difflib
import shlex
from collections.abc import Iterable, Mapping, Sequence, Set
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from pipeline.config.params import DATA_ROOT, Params
from pipeline.config.selection import Selection
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.config.project import Project

NEAR = 3  # names that an error suggests
ALIKE = 0.7  # the least likeness of a name that an error suggests, as difflib measures it


class ExclusionError(UserError):
    """A pattern that matches nothing, or something that is left out although another one starts from it."""


def exclude(project: "Project", selection: Selection, patterns: Sequence[str]) -> Selection:
    """A selection without the experiments and sweeps that patterns match, and the datasets that only they use.

    What starts from a run that is left out is never left out silently: a pattern must match it too.

    Args:
        project: the project.
        selection: what to leave them out of.
        patterns: names of experiments or sweeps, or shell patterns over them.

    Raises:
        ExclusionError: if a pattern matches nothing, if something that stays starts from a run that does not, or if
            nothing is left to run.
    """
    if not patterns:
        return selection
    names = [*selection.experiments, *selection.sweeps]
    left_out = _matched(patterns, [*names, *selection.excluded])
    if needed := starting_from(selection, left_out):
        raise ExclusionError(_needed_text(selection, left_out, needed, names))
    runs = {name: run for name, run in selection.runs.items() if run.experiment not in left_out}
    sweeps = {name: sweep for name, sweep in selection.sweeps.items() if name not in left_out}
    if not runs:
        raise ExclusionError(f"--without {' --without '.join(map(shlex.quote, patterns))} leaves no experiment to run")
    used = {run.dataset for run in runs.values()} | {sweep.dataset for sweep in sweeps.values()}
    roots = {dataset.root for dataset in map(project.dataset, used) if dataset.synthetic}
    return selection.model_copy(
        update={
            "synthetic": [name for name in selection.synthetic if name in roots],
            "datasets": {name: dataset for name, dataset in selection.datasets.items() if name in used},
            "runs": runs,
            "sweeps": sweeps,
            "excluded": sorted({*selection.excluded, *left_out}),
        }
    )


def starting_from(selection: Selection, names: Set[str]) -> dict[str, str]:
    """The other experiments and sweeps that start from runs of the named experiments, each with the run."""
    entries = [(run.experiment, run) for run in selection.runs.values()] + [*selection.sweeps.items()]
    starts = {f"train/{name}": name for name, run in selection.runs.items() if run.experiment in names}
    return {
        name: starts[entry.starts_from] for name, entry in entries if name not in names and entry.starts_from in starts
    }


def patterns_of(chosen: Set[str], names: Iterable[str]) -> list[str]:
    """The shortest patterns that match the chosen ones of some names and no others.

    One pattern if a word or several that follow each other are in all of the chosen names and in no other one, or else
    the chosen names themselves.
    """
    every = dict.fromkeys(names)
    ordered = [name for name in every if name in chosen]
    if len(ordered) > 1:
        words = ordered[0].split("_")
        runs = [words[i:j] for i in range(len(words)) for j in range(i + 1, len(words) + 1)]
        for run in sorted(runs, key=lambda run: (len(run), -len("_".join(run)))):
            pattern = f"*{'_'.join(run)}*"
            if {name for name in every if fnmatchcase(name, pattern)} == set(ordered):
                return [pattern]
    return ordered


def without_text(patterns: Iterable[str]) -> str:
    """Options that leave out what patterns match, as a shell takes them."""
    return " ".join(f"--without {shlex.quote(pattern)}" for pattern in patterns)


def command_text(verb: str, scale: str | None, options: Mapping[str, object], without: Iterable[str]) -> str:
    """A command of ``pointrend`` as a shell takes it, with those of its options that are not None."""
    words = ["pointrend", verb, *([scale] if scale else [])]
    for name, value in options.items():
        words += [] if value is None else [f"--{name}", str(value)]
    return " ".join([*map(shlex.quote, words), *map(without_text, ([each] for each in without))])


def select_command(params: Params, without: Iterable[str], seeds: int | None = None) -> str:
    """The `pointrend select` that writes such a ``params.yaml``."""
    data_root = None if params.data_root == DATA_ROOT else params.data_root
    options = {"cluster": params.cluster, "data-root": data_root, "seeds": seeds}
    return command_text("select", params.scale, options, without)


def _matched(patterns: Sequence[str], names: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if fnmatchcase(name, pattern)}
        if not matched:
            near = near_names(pattern, names)
            more = f" and {len(names) - NEAR} more" if len(names) > NEAR else ""
            hint = f"near it: {', '.join(near)}" if near else f"there are {', '.join(names[:NEAR])}{more}"
            raise ExclusionError(f"--without {pattern}: matches no experiment or sweep that is selected; {hint}")
        found |= matched
    return found


def near_names(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that are most like a pattern, as a whole or in a word."""
    asked = pattern.strip("*").casefold()

    def likeness(name: str) -> float:
        return max(difflib.SequenceMatcher(None, asked, part.casefold()).ratio() for part in (name, *name.split("_")))

    return sorted((name for name in names if likeness(name) >= ALIKE), key=likeness, reverse=True)[:NEAR]


def _needed_text(selection: Selection, left_out: Set[str], needed: dict[str, str], names: Iterable[str]) -> str:
    first, run = next(iter(needed.items()))
    experiment = selection.runs[run].experiment
    more = f" and {len(needed) - 1} more" if len(needed) > 1 else ""
    kind = "sweep" if first in selection.sweeps else "experiment"
    return (
        f"--without leaves out {experiment}, but {kind} {first}{more} would start from its run {run}; leave out "
        f"{'these' if more else 'this'} too ({without_text(patterns_of(set(needed), names))}), or keep {experiment}"
    )
