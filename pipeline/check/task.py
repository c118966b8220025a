"""The check of one training: what it runs, where it writes, and what it found. Needs neither torch nor Ray."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from pipeline.config.clusters import ClusterConfig
from pipeline.config.evaluations import EvaluationConfig, RenderingConfig
from pipeline.config.experiments import RunConfig
from pipeline.config.reader import Strict, load
from pipeline.config.schedules import Phase, ScheduleConfig
from pipeline.plan.measured import kind_of

UPDATES = 3
CHECKPOINT_AT = 2
IMAGES = 2

RESULT = "check.json"  # written last, by the process that started the workers
FAILURES = "failed*.json"


@dataclass(frozen=True)
class Kind:
    """Trainings that differ in names, seed, learning rates and length alone.

    Attributes:
        key: see :func:`pipeline.plan.measured.kind_of`.
        configs: the runs.
        settings: all of their evaluation settings, each once; none is timed.
    """

    key: str
    configs: list[RunConfig]
    settings: EvaluationConfig

    @property
    def first(self) -> RunConfig:
        return self.configs[0]

    @property
    def experiments(self) -> Mapping[str, Sequence[RunConfig]]:
        """The runs of each experiment."""
        names = dict.fromkeys(config.experiment for config in self.configs)
        return {name: [config for config in self.configs if config.experiment == name] for name in names}


def distinct_trainings(runs: Iterable[tuple[RunConfig, EvaluationConfig]]) -> list[Kind]:
    """The distinct trainings among runs, in the order of their first runs."""
    kinds: dict[str, Kind] = {}
    for config, evaluation in runs:
        key = kind_of(config)
        kind = kinds.setdefault(key, Kind(key, [], EvaluationConfig({})))
        kind.configs.append(config)
        for name, setting in evaluation.root.items():
            if isinstance(setting, RenderingConfig):
                setting = setting.model_copy(update={"timed_images": None})
            if setting in kind.settings.root.values():
                continue
            free = name if name not in kind.settings.root else f"{config.experiment}_{name}"
            kind.settings.root[free] = setting
    return list(kinds.values())


def three_updates(schedule: ScheduleConfig) -> ScheduleConfig:
    """The first updates of a schedule, with a checkpoint before the last one and without validation."""
    return schedule.model_copy(
        update={
            "phases": [Phase(updates=UPDATES, learning_rate=schedule.learning_rate)],
            "poly": None,
            "checkpoint_every": CHECKPOINT_AT,
            "validate_every": None,
            "stop_early": None,
        }
    )


class CheckTask(Strict):
    """The check of one training. Every path is absolute, and every worker can reach it."""

    name: str = Field(description="the run that is checked, for all of its kind")
    key: str = Field(description="a hash of what the check depends on")
    config: RunConfig = Field(description="with a schedule of three updates")
    start: RunConfig | None = Field(description="of the weights to draw that it starts from, if they are not there")
    settings: EvaluationConfig
    cluster: ClusterConfig
    prepared: str
    images: str = Field(description="the folder or URI of the dataset's images")
    weights: str | None = Field(description="the file of weights that it starts from")
    folder: str
    random: bool = Field(False, description="whether the network starts from drawn weights in place of pretrained ones")

    @property
    def path(self) -> Path:
        return Path(self.folder)

    @property
    def result(self) -> Path:
        return self.path / RESULT


class Found(Strict):
    """What the check of a training found."""

    seconds_per_update: float = Field(description="the mean of all updates but the first")
    memory: int = Field(description="the most bytes of a worker: of its GPU, or of its process")
    device_memory: int | None = Field(description="the bytes that its GPU has")
    device: str
    workers: int
    passes: int = Field(description="forward passes of a worker in an update")
    losses: list[float] = Field(description="the total loss of each update")
    resume: str = Field(description="equal bits, or how far the resumed weights are from the others")
    masks: int = Field(description="masks or label maps predicted for the evaluated images, over all settings")


class Failure(Strict):
    """Why the check of a training failed."""

    kind: str = Field(description="the name of the exception's class")
    message: str
    fixable: bool = Field(description="whether the message says what to do")
    where: str = Field("", description="the line that raised the exception")


def read_failure(folder: Path) -> Failure | None:
    """Why a check failed, from the workers if they said it, or else from the process that started them.

    Of several workers the first one whose error is not about a lost connection to the others.
    """
    failures = [load(Failure, path) for path in sorted(folder.glob(FAILURES))]
    own = [each for each in failures if not any(word in each.message for word in ("Connection closed", "Gloo", "NCCL"))]
    return next(iter(own or failures), None)
