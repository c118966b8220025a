"""What MLflow's page shows of an experiment: a description, and saved views.

A view is which columns of the runs are shown, in the order of which one. MLflow 3.17 keeps it as a tag of the
experiment and offers it under "Views"; an older page ignores the tag. The format is that of its page, which has no
function for it in Python.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from pipeline.tracking.client import Tracker
from pipeline.training.metrics_file import now

TAG_PREFIX = "mlflow.sharedViewState."
DESCRIPTION_TAG = "mlflow.note.content"


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


def present(tracker: Tracker, description: str, key: str, view: View) -> None:
    """Describes the tracker's experiment and offers a view in it. What was there before, and is another, is replaced.

    Raises:
        TrackingError: if MLflow does not answer.
    """
    subject, tag = f"experiment {tracker.experiment}", TAG_PREFIX + key
    tags = tracker.call(subject, lambda: tracker.client.get_experiment(tracker.experiment_id)).tags
    wanted = {} if tags.get(DESCRIPTION_TAG) == description else {DESCRIPTION_TAG: description}
    saved = json.loads(tags[tag]) if tag in tags else {}
    if (saved.get("name"), saved.get("state")) != (view.name, view.state):
        time = now()
        wanted[tag] = json.dumps({"name": view.name, "createdAt": time, "updatedAt": time, "state": view.state})
    for name, value in wanted.items():
        tracker.call(subject, partial(tracker.client.set_experiment_tag, tracker.experiment_id, name, value))
