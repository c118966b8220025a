"""What a report is made from."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config.figures import FiguresConfig
from pipeline.config.findings import FindingsConfig
from pipeline.config.tables import TableConfig
from pipeline.evaluation.trained_run import TrainedRun
from pipeline.report.results import RunResult
from pipeline.report.sweep_results import SweepResult


@dataclass(frozen=True)
class ReportInputs:
    """The results of one scale, and how to show them.

    Attributes:
        scale: the scale of the runs.
        tables: the tables' configurations by name.
        figures: what the figures of PointRend's masks show.
        tracking_uri: the address of MLflow, which the page names.
        predictions: the folder of all runs' predictions.
        experiments: the selected experiments; tables without any of them are left out, unless they need no run.
        results: the results of the selected runs.
        trained: the network of each run in ``results``, by the run's name.
        missing: why the other selected runs have no results, by the run's name.
        sweeps: the results of the selected sweeps.
        findings: the paper's claims; those without any of the selected experiments are left out.
        defined: all experiments of the scale; tables leave out, and name, the rows of others. None for all rows.
        excluded: the experiments that the selection leaves out; tables leave out, and name, their rows.
        own: whether the page is about somebody's own data; then ``tables`` are those that were asked for.
    """

    scale: str
    tables: Mapping[str, TableConfig]
    figures: FiguresConfig
    tracking_uri: str
    predictions: Path
    experiments: Set[str] = frozenset()
    results: Sequence[RunResult] = ()
    trained: Mapping[str, TrainedRun] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    sweeps: Sequence[SweepResult] = ()
    findings: FindingsConfig = field(default_factory=lambda: FindingsConfig({}))
    defined: Set[str] | None = None
    excluded: Set[str] = frozenset()
    own: bool = False
