"""Saved views of MLflow's page: which columns of an experiment's runs are shown, in the order of which one.

MLflow 3.17 keeps a view as a tag of the experiment and offers it under "Views"; an older page ignores the tag. The
format is that of its page, which has no function for it in Python.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.tracking.client import Tracker
from pipeline.training.metrics_file import now

TAG_PREFIX = "mlflow.sharedViewState."


@dataclass(frozen=True)
class View:
    """A saved view.

    Attributes:
        name: as the page shows it.
        parameters: the parameters that are columns.
        metrics: the metrics that are columns; the best runs by the first one come first.
    """

    name: str
    parameters: Sequence[str]
    metrics: Sequence[str]

    @property
    def state(self) -> str:
        """What the page shows, in its own format."""
        metrics = [f"metrics.`{name}`" for name in self.metrics]
        columns = [*(f"params.`{name}`" for name in self.parameters), *metrics]
        order = {"orderByKey": metrics[0], "orderByAsc": False} if metrics else {}
        return json.dumps({"selectedColumns": columns, **order})


def save_view(tracker: Tracker, key: str, view: View) -> None:
    """Offers a view in the tracker's experiment. A view with this key is replaced if it is another one.

    Raises:
        TrackingError: if MLflow does not answer.
    """
    subject, tag = f"experiment {tracker.experiment}", TAG_PREFIX + key
    tags = tracker.call(subject, lambda: tracker.client.get_experiment(tracker.experiment_id)).tags
    saved = json.loads(tags[tag]) if tag in tags else {}
    if (saved.get("name"), saved.get("state")) != (view.name, view.state):
        time = now()
        value = json.dumps({"name": view.name, "createdAt": time, "updatedAt": time, "state": view.state})
        tracker.call(subject, lambda: tracker.client.set_experiment_tag(tracker.experiment_id, tag, value))
