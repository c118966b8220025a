"""What every DVC stage shares: its project, its folders, and how its errors are shown."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.markup import escape

from pipeline.config.clusters import ClusterConfig
from pipeline.config.datasets import DatasetConfig, load_dataset
from pipeline.config.evaluations import EvaluationConfig
from pipeline.config.experiments import RunConfig
from pipeline.config.locations import is_remote, join
from pipeline.config.params import Params
from pipeline.config.project import Project
from pipeline.config.reader import load
from pipeline.data.storage import Storage
from pipeline.errors import UserError
from pipeline.tracking.store import tracking_uri

if TYPE_CHECKING:
    from pipeline.tracking.client import Tracker


class Outputs:
    """The folders of one scale: ``outputs/<scale>/...``, the same names as in ``dvc.yaml``."""

    def __init__(self, root: Path, scale: str) -> None:
        self.root = root / "outputs" / scale

    def config(self, kind: str, name: str) -> Path:
        return self.root / "config" / kind / f"{name}.json"

    def prepared(self, dataset: str) -> Path:
        return self.root / "data" / dataset

    def trained(self, run: str) -> Path:
        return self.root / "train" / run

    def predictions(self, run: str) -> Path:
        return self.root / "predictions" / run

    def sweep(self, name: str) -> Path:
        return self.root / "sweeps" / name

    @property
    def shown_sweeps(self) -> Path:
        return self.root / "sweeps" / "shown.json"

    def metrics(self, run: str) -> Path:
        """The metrics file that DVC shows: a few numbers."""
        return self.root / "metrics" / f"{run}.json"

    def evaluation_record(self, run: str) -> Path:
        """All that the evaluations of a run came to."""
        return self.root / "evaluations" / f"{run}.json"


class Stage:
    """A stage's view of the project it runs in, the working directory."""

    def __init__(self) -> None:
        self.root = Path.cwd()
        self.project = Project(self.root)
        self.params: Params = self.project.params()
        self.outputs = Outputs(self.root, self.params.scale)

    def run(self, name: str) -> RunConfig:
        return load(RunConfig, self.outputs.config("train", name))

    @property
    def cluster(self) -> ClusterConfig:
        return self.project.cluster(self.params.cluster)

    def tracker(self) -> "Tracker":
        """The MLflow experiment of the selected scale."""
        from pipeline.tracking.client import Tracker  # MLflow takes seconds to import

        return Tracker(tracking_uri(self.root), f"pointrend-{self.params.scale}", self.root / "mlartifacts")

    def evaluation(self, name: str) -> EvaluationConfig:
        return load(EvaluationConfig, self.outputs.config("evaluate", name))

    def dataset(self, name: str) -> DatasetConfig:
        return load_dataset(self.outputs.config("datasets", name))

    @property
    def data_root(self) -> str:
        """The folder or URI of all raw data."""
        root = self.params.data_root
        return root if is_remote(root) else str(self.root / root)

    def images(self, dataset: str) -> Storage:
        """What the file names of a dataset's manifests are relative to."""
        return Storage(join(self.data_root, self.dataset(dataset).root))


def run_stage(main: Callable[[], None]) -> None:
    """Runs a stage; what its user can mend is one message instead of a traceback, and exit status 1."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (UserError, OSError) as error:
        fail(error)


def fail(error: Exception) -> NoReturn:
    """Prints an error as its user should see it and exits with status 1."""
    Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
    sys.exit(1)
