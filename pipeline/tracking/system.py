"""Measures CPU, memory, disk, network and GPU of the machine that trains, for the system metrics of an MLflow run."""

import logging
from typing import Self

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

#: What the names of these metrics begin with.
SYSTEM = "system/"


class SystemMetrics:
    """MLflow's own monitor, which starts at the first update, as :class:`pipeline.tracking.sender.MetricSender` does.

    A machine or server that it cannot read from or write to delays and fails nothing.

    Args:
        uri: the tracking server or database.
        run_id: the MLflow run.
        seconds: between two measurements; None for none.
    """

    def __init__(self, uri: str, run_id: str, seconds: float | None) -> None:
        self._uri, self._run_id, self._seconds = uri, run_id, seconds
        self._monitor: SystemMetricsMonitor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._monitor is not None:
            self._monitor.finish()

    def start(self) -> None:
        """Starts measuring, unless that is done or not wanted."""
        if self._seconds is None or self._monitor is not None:
            return
        # It says on every start and stop that it does so.
        logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
        self._monitor = SystemMetricsMonitor(
            self._run_id, sampling_interval=self._seconds, resume_logging=True, tracking_uri=self._uri
        )
        self._monitor.start()
