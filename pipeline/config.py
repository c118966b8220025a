"""One typed schema for every YAML file of the project.

Each file is read by :func:`load`, which refuses unknown, repeated and ill-typed keys with an error that names the file
and the key. Numbers of the paper stand in those files, with their table and row; the code has none.
"""

import re
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    RootModel,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from pipeline.data.labels import LabelTable
from pipeline.errors import UserError
from pipeline.storage import is_remote, join
from pointrend.specs import (
    FOUR_CONV_SIDE,
    MODELS,
    DeepLabV3Spec,
    InstanceSpec,
    PointSampling,
    Rendering,
    SemanticFPNSpec,
    Task,
    list_models,
    task_of,
)


class ConfigError(UserError, ValueError):
    """A configuration file that cannot be used; the message names the file and the key."""


class Strict(BaseModel):
    """Unknown keys and implicit conversions are errors; values do not change after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*$")]


class CocoSplit(Strict):
    """One split of a COCO-instances dataset; paths are relative to the dataset's root."""

    annotations: str
    images: str
    num_images: PositiveInt | None = Field(None, description="how many images the split must have")


class LvisSource(Strict):
    """LVIS annotations of a COCO dataset's val images, which AP* is measured on."""

    root: str
    annotations: str
    num_images: PositiveInt | None = Field(None, description="how many of the val images it must have")
    synsets: dict[str, str] | None = Field(None, description="LVIS's synset of each category; by default COCO's own 80")

    @field_validator("synsets")
    @classmethod
    def _check_synsets(cls, synsets: dict[str, str] | None) -> dict[str, str] | None:
        if synsets is not None and len(set(synsets.values())) != len(synsets):
            raise ValueError("a synset stands more than once; expected one category for each")
        return synsets


class LabelSplit(Strict):
    """One split of images and label PNGs; folders are relative to the dataset's root."""

    images: str
    labels: str
    num_images: PositiveInt | None = Field(None, description="how many images the split must have")


class DatasetFolder(Strict):
    """What all datasets have in common."""

    root: str = Field(description="relative to the data root, or absolute")
    synthetic: bool = Field(False, description="drawn by the generate stage as configs/synthetic/<root>.yaml says")
    obtain: str = Field("", description="how to get the raw files; shown where they are missing")


class CocoDataset(DatasetFolder):
    """Any dataset in COCO's instances format."""

    source: Literal["coco"]
    train: CocoSplit
    val: CocoSplit
    lvis: LvisSource | None = None
    invalid_annotations: Literal["error", "drop"] = Field(
        "error", description="what to do with polygons of fewer than three points and boxes without area"
    )


class CityscapesDataset(DatasetFolder):
    """A tree laid out as Cityscapes': its eight object classes as instances, or its 19 classes as labels."""

    source: Literal["cityscapes"]
    task: Task
    train: LabelSplit
    val: LabelSplit


class LabelDataset(DatasetFolder):
    """A folder of images and one of label PNGs, each under its image's path."""

    source: Literal["labels"]
    train: LabelSplit
    val: LabelSplit
    classes: Annotated[dict[str, NonNegativeInt], Field(min_length=1)] = Field(description="label id by class name")
    ignored: list[NonNegativeInt] = Field([255], description="label ids of pixels that count nowhere")

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.table()
        return self

    def table(self) -> LabelTable:
        return LabelTable(tuple(self.classes), tuple(self.classes.values()), tuple(self.ignored))


DatasetConfig = Annotated[CocoDataset | CityscapesDataset | LabelDataset, Field(discriminator="source")]


class ShapesConfig(Strict):
    """Shapes drawn by :mod:`pipeline.data.synthetic`, as a COCO-instances dataset."""

    draws: Literal["shapes"]
    train_images: PositiveInt
    val_images: PositiveInt
    image_size: PositiveInt
    max_objects: PositiveInt
    polygon_tolerance: NonNegativeFloat
    seed: NonNegativeInt


class StreetsConfig(Strict):
    """Street scenes drawn by :mod:`pipeline.data.synthetic`, as a Cityscapes tree."""

    draws: Literal["streets"]
    train_images: PositiveInt
    val_images: PositiveInt
    height: PositiveInt
    width: PositiveInt
    seed: NonNegativeInt


SyntheticConfig = Annotated[ShapesConfig | StreetsConfig, Field(discriminator="draws")]


class CocoSynset(Strict):
    """One of COCO's 80 categories and the synset that LVIS has it under."""

    id: PositiveInt
    name: str
    synset: str


class SynsetTable(RootModel[list[CocoSynset]]):
    """COCO's categories in LVIS: a category of either has at most one of the other."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key in ("id", "name", "synset"):
            values = [getattr(entry, key) for entry in self.root]
            if repeated := sorted({value for value in values if values.count(value) > 1}):
                raise ValueError(f"{key} {', '.join(map(str, repeated))} stands more than once")
        return self


class SamplingConfig(Strict):
    """Training-point selection of PointRend (Section 3.1, Table 4)."""

    strategy: Literal["biased", "grid"]
    num_points: PositiveInt
    oversample: PositiveFloat = Field(3.0, description="k")
    importance: float = Field(0.75, ge=0, le=1, description="beta")

    def build(self) -> PointSampling:
        return PointSampling(self.strategy, self.num_points, self.oversample, self.importance)

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.build()
        return self


class PointHeadConfig(Strict):
    """The size of PointRend's point head (Section 3.2)."""

    layers: PositiveInt = Field(3, description="hidden layers")
    channels: PositiveInt | None = Field(None, description="of each; by default the model's own")


class RenderingConfig(Strict):
    """One way to evaluate an instance model (Table 3). The 4xconv head has one resolution and no subdivision."""

    resolution: PositiveInt
    num_points: PositiveInt | None = Field(None, description="N, the most points per subdivision step")

    def build(self) -> Rendering:
        return Rendering(self.resolution, self.num_points or Rendering().num_points)


class SemanticRenderingConfig(Strict):
    """One way to evaluate a semantic model (Tables 6 and 7); the prediction ends at the image's resolution."""

    output_stride: Literal[8, 16] | None = Field(None, description="of DeepLabV3 alone")
    num_points: PositiveInt | None = Field(None, description="N of PointRend, the most points per subdivision step")


def _setting_task(value: Any) -> Task | None:
    """Only an instance model renders at a resolution of its own."""
    if isinstance(value, dict):
        return "instance" if "resolution" in value else "semantic"
    if isinstance(value, RenderingConfig):
        return "instance"
    return "semantic" if isinstance(value, SemanticRenderingConfig) else None


EvaluationSetting = Annotated[
    Annotated[RenderingConfig, Tag("instance")] | Annotated[SemanticRenderingConfig, Tag("semantic")],
    Discriminator(_setting_task),
]


class _Network(Strict):
    """One of :func:`pointrend.list_models`."""

    name: str

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name not in MODELS:
            raise ValueError(f"expected one of {', '.join(list_models())}")
        return name

    @property
    def task(self) -> Task:
        return task_of(MODELS[self.name])

    @property
    def has_point_head(self) -> bool:
        return MODELS[self.name].has_pointrend


class InstanceModelConfig(_Network):
    """An instance model and the sizes of the images it sees."""

    pretrained_backbone: bool
    norm: Literal["frozen_batch", "group"]
    train_min_sizes: Annotated[list[PositiveInt], Field(min_length=1)] = Field(
        description="shorter edges to choose from in training, in pixels"
    )
    test_min_size: PositiveInt
    max_size: PositiveInt
    rois_per_image: PositiveInt | None = None
    detections_per_image: PositiveInt | None = Field(None, description="the most that are kept at inference; or 100")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.pretrained_backbone != (self.norm == "frozen_batch"):
            raise ValueError(
                f"pretrained_backbone is {self.pretrained_backbone} and norm {self.norm!r}; ImageNet weights go with "
                "'frozen_batch', training from scratch with 'group'"
            )
        return self


class Scales(Strict):
    """The sizes that a training image is resized to, from one multiple of its own to another in steps of pixels."""

    smallest: PositiveFloat
    largest: PositiveFloat
    step: PositiveInt = Field(description="from one shorter edge to the next, in pixels")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.smallest > self.largest:
            raise ValueError(f"smallest is {self.smallest}, above largest, which is {self.largest}")
        return self


class SemanticModelConfig(_Network):
    """A semantic model and the crops that it trains on (Appendix B). At inference images keep their size."""

    pretrained_backbone: Literal["torchvision", "R-103"] | None = Field(
        description="whose ImageNet weights, torchvision's or Detectron2's ResNet-103; null to train from scratch"
    )
    norm: Literal["frozen_batch", "batch", "group"]
    levels: list[str] | None = Field(None, description="the pyramid levels of SemanticFPN, by default P2 to P5")
    crop_size: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] = Field(description="[H, W] in pixels")
    scales: Scales
    color_augmentation: bool = Field(description="SSD's: brightness, contrast, saturation and hue")
    max_class_share: float | None = Field(
        gt=0, lt=1, description="crop bootstrapping: draw a crop again while one class covers more of it; null for none"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        spec = MODELS[self.name]
        if self.norm == ("frozen_batch" if self.pretrained_backbone is None else "group"):
            raise ValueError(
                f"pretrained_backbone is {self.pretrained_backbone!r} and norm {self.norm!r}; ImageNet weights go with "
                "'frozen_batch' or 'batch', training from scratch with 'group' or 'batch'"
            )
        if self.levels is not None:
            if not isinstance(spec, SemanticFPNSpec):
                raise ValueError(f"levels is for SemanticFPN; model {self.name!r} has no pyramid")
            replace(spec, levels=tuple(self.levels))
        return self

    @property
    def architecture(self) -> Literal["DeepLabV3", "SemanticFPN"]:
        return "DeepLabV3" if isinstance(MODELS[self.name], DeepLabV3Spec) else "SemanticFPN"


def _model_task(value: Any) -> Task | None:
    """A name that no model has is reported by the first of the two."""
    if isinstance(value, dict):
        name = value.get("name")
        return task_of(MODELS[name]) if isinstance(name, str) and name in MODELS else "instance"
    return value.task if isinstance(value, _Network) else None


ModelConfig = Annotated[
    Annotated[InstanceModelConfig, Tag("instance")] | Annotated[SemanticModelConfig, Tag("semantic")],
    Discriminator(_model_task),
]


class Phase(Strict):
    """A stretch of training at one learning rate."""

    updates: PositiveInt
    learning_rate: PositiveFloat


class Warmup(Strict):
    """A linear rise of the learning rate from this one to the first phase's."""

    updates: PositiveInt
    learning_rate: PositiveFloat


class Poly(Strict):
    """A learning rate that falls to zero as (1 - share of the updates done) to a power (Appendix B)."""

    updates: PositiveInt
    learning_rate: PositiveFloat
    power: PositiveFloat


class ScheduleConfig(Strict):
    """SGD and its learning rates, in steps (Appendix A) or falling all the time (Appendix B)."""

    batch_size: PositiveInt = Field(description="images per update, over all workers")
    warmup: Warmup
    phases: Annotated[list[Phase], Field(min_length=1)] | None = None
    poly: Poly | None = None
    head_multiplier: PositiveFloat = Field(
        1.0, description="of the learning rate of a semantic model's head: DeepLabV3's ASPP and prediction layer"
    )
    momentum: NonNegativeFloat = 0.9
    weight_decay: NonNegativeFloat = 0.0001
    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        "float32",
        description="float32: strict on GPUs, too; tf32: convolutions and matrix products in TF32; bfloat16: autocast. "
        "The CPU has no TF32: there tf32 is float32",
    )
    channels_last: bool = Field(False, description="keep weights and features channels last in memory (NHWC)")
    compile: bool = Field(False, description="compile the backbone with torch.compile, for images of any size")
    checkpoint_every: PositiveInt = 1000

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.phases is None) == (self.poly is None):
            raise ValueError("expected either phases or poly")
        return self

    @property
    def parts(self) -> Sequence[Phase | Poly]:
        """The stretches of training, one after the other."""
        return self.phases or [self.poly]  # type: ignore[list-item]

    @property
    def updates(self) -> int:
        return sum(part.updates for part in self.parts)

    @property
    def learning_rate(self) -> float:
        """The one that the warm-up leads to."""
        return self.parts[0].learning_rate


class ExperimentConfig(Strict):
    """A training of the paper: what a row of a table names. Runs are its seeds."""

    description: str
    dataset: Name
    model: Name
    schedule: Name
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)]
    starts_from: str | None = Field(
        None, description="a run of the same scale, whose weights this one begins with, but for what predicts masks"
    )
    sampling: SamplingConfig | None = None
    point_head: PointHeadConfig | None = Field(None, description="if another than the model's own")
    evaluations: dict[str, EvaluationSetting] = Field(description="by name; none where others only begin with it")


class Cell(Strict):
    """Where a table's number comes from, and the paper's own."""

    experiment: str
    evaluation: str
    metric: str
    paper: float | None = None


class CostCell(Strict):
    """A number that is counted on a model's mask head, one region with all classes, and the paper's own (Table 2)."""

    model: str
    resolution: PositiveInt
    num_points: PositiveInt | None = Field(None, description="N, of PointRend")
    cost: Literal["multiply_adds", "activations"]
    paper: float | None = None

    @field_validator("model")
    @classmethod
    def _check_model(cls, name: str) -> str:
        if not isinstance(MODELS.get(name), InstanceSpec):
            raise ValueError(f"expected one of {', '.join(list_models('instance'))}")
        return name


def _cell_kind(value: Any) -> str:
    # No tag is the name of a key: errors would be said to be of that key.
    return "counted" if isinstance(value, CostCell) or (isinstance(value, dict) and "cost" in value) else "measured"


class Column(Strict):
    key: Name
    label: str
    unit: PositiveFloat = Field(1.0, description="what its numbers are divided by")


class Row(Strict):
    labels: list[str]
    cells: dict[
        str,
        Annotated[Annotated[Cell, Tag("measured")] | Annotated[CostCell, Tag("counted")], Discriminator(_cell_kind)],
    ]
    baseline: bool = Field(False, description="whether others' gains are over this one, see TableConfig.baseline_of")

    @property
    def measured(self) -> dict[str, Cell]:
        """The cells that runs fill."""
        return {key: cell for key, cell in self.cells.items() if isinstance(cell, Cell)}


class TableConfig(Strict):
    """A table of the paper as data."""

    heading: str | None = Field(None, description="what the paper calls it, if not by its number")
    title: str
    row_labels: list[str]
    columns: list[Column]
    rows: list[Row]
    overlays: bool = Field(False, description="whether the report shows what its rows predict, side by side")

    @property
    def experiments(self) -> set[str]:
        """The names of all experiments that it has numbers of."""
        return {cell.experiment for row in self.rows for cell in row.measured.values()}

    def baseline_of(self, index: int) -> int:
        """The row that a row's gains are over: the nearest baseline above it, or else below; without any the first."""
        baselines = [number for number, row in enumerate(self.rows) if row.baseline] or [0]
        above = [number for number in baselines if number <= index]
        return above[-1] if above else baselines[0]

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = {column.key for column in self.columns}
        for index, row in enumerate(self.rows):
            if len(row.labels) != len(self.row_labels):
                raise ValueError(f"rows.{index}.labels has {len(row.labels)} entries, not {len(self.row_labels)}")
            if unknown := row.cells.keys() - known:
                raise ValueError(f"rows.{index}.cells names unknown columns: {', '.join(sorted(unknown))}")
        return self


class ClusterConfig(Strict):
    """Where training runs. It never changes what is learned: the batch is split over the workers there are."""

    workers: NonNegativeInt = Field(description="Ray Train workers of a run; 0 trains in the process of its job")
    min_workers: PositiveInt | None = Field(
        None, description="train with as few where there is room for no more, and with more once there is"
    )
    images_per_worker: PositiveInt | None = Field(
        None, description="the most images of one pass of a worker; a larger share of the batch takes several"
    )
    cpus_per_worker: PositiveInt = 1
    gpus_per_worker: NonNegativeFloat = 0
    loader_processes: NonNegativeInt = Field(0, description="image-loading processes of each worker")
    max_failures: int = Field(0, ge=-1, description="restarts after a lost worker or job; -1 for no limit")
    storage: str | None = Field(None, description="folder that all nodes share, for the trainings; else the project's")
    tracking_patience: NonNegativeFloat = Field(
        300.0, description="seconds that a finished training waits for an MLflow server that does not answer"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_workers is None:
            return self
        if self.min_workers > self.workers:
            raise ValueError(f"min_workers is {self.min_workers}, more than the {self.workers} workers")
        if self.images_per_worker is None:
            raise ValueError("min_workers needs images_per_worker, which any number of workers can share out")
        return self


class DatasetParams(Strict):
    """A dataset's raw annotations, which DVC watches.

    A stage has the same number of dependencies for every dataset, so what a dataset does not have is another of its
    files again; of raw files behind a URI, the dataset's configuration stands in.
    """

    train: str
    val: str
    lvis: str


class RunParams(Strict):
    """What a run is, and what it begins with, below ``outputs/<scale>``.

    A stage has the same number of dependencies for every run: one that begins with nothing has its dataset again.
    """

    dataset: Name
    experiment: Name
    seed: NonNegativeInt
    starts_from: str = Field(description="train/<run> of the weights that it begins with, or data/<dataset>")


class SweepParams(Strict):
    """What a sweep reads, below ``outputs/<scale>``.

    A stage has the same number of dependencies for every sweep: one that trains from nothing has its dataset again.
    """

    dataset: Name
    starts_from: str = Field(description="train/<run> of the weights that it takes, or data/<dataset>")


class Params(Strict):
    """``params.yaml``: the scale and what to run. Written by ``pointrend select``; lines may be deleted."""

    scale: Name
    data_root: str
    cluster: Name
    synthetic: list[Name]
    datasets: dict[Name, DatasetParams]
    runs: dict[str, RunParams]
    sweeps: dict[Name, SweepParams] = {}


class RunConfig(Strict):
    """Everything that a training depends on, resolved from the files above: one training run."""

    run: str
    experiment: str
    dataset: str
    seed: int
    starts_from: str | None = None
    model: ModelConfig
    sampling: SamplingConfig | None
    point_head: PointHeadConfig | None = None
    schedule: ScheduleConfig

    @property
    def point_head_size(self) -> tuple[int, int] | None:
        """Hidden layers and channels of the point head, where there is one."""
        spec = MODELS[self.model.name]
        if not spec.has_pointrend:
            return None
        own = self.point_head or PointHeadConfig(layers=spec.point_layers)
        default = spec.point_channels
        if default is None:
            assert isinstance(spec, InstanceSpec)
            default = spec.mask_channels
        return own.layers, own.channels or default


S = TypeVar("S", RenderingConfig, SemanticRenderingConfig)


class EvaluationConfig(RootModel[dict[str, EvaluationSetting]]):
    """The evaluation settings of one run, by name."""

    def all_of(self, kind: type[S]) -> dict[str, S]:
        """The settings, which are all of one kind.

        Raises:
            ConfigError: if one is not.
        """
        settings = {name: setting for name, setting in self.root.items() if isinstance(setting, kind)}
        if others := self.root.keys() - settings.keys():
            raise ConfigError(f"evaluations {', '.join(sorted(others))} are no {kind.__name__}")
        return settings


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML as it is meant: a repeated key is a mistake, and 1e-4 is a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                raise ConfigError(f"line {line}: {key!r} cannot be a key")
            if key in seen:
                raise ConfigError(f"line {line}: key {key!r} stands twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


_UniqueKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)

T = TypeVar("T")


def load(schema: type[T], path: Path) -> T:
    """Reads one YAML or JSON file and validates it.

    Args:
        schema: a model of this module.
        path: the file.

    Raises:
        ConfigError: naming the file and every key that is missing, unknown or ill-typed.
    """
    return _validate(TypeAdapter(schema), path)


def load_dataset(path: Path) -> DatasetConfig:
    """As :func:`load`, for a dataset's file: its ``source`` says which kind it is."""
    return _validate(TypeAdapter(DatasetConfig), path)


def load_synthetic(path: Path) -> SyntheticConfig:
    """As :func:`load`, for what is to be drawn: ``draws`` says which of the two it is."""
    return _validate(TypeAdapter(SyntheticConfig), path)


def load_model(path: Path) -> InstanceModelConfig | SemanticModelConfig:
    """As :func:`load`, for a model's file: its ``name`` says which of the two it is."""
    return _validate(TypeAdapter(ModelConfig), path)


def _validate(adapter: TypeAdapter[T], path: Path) -> T:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such configuration file{_alternatives(path)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error})") from error
    try:
        data = yaml.load(text, _UniqueKeyLoader)  # noqa: S506 - a subclass of SafeLoader
    except (yaml.YAMLError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        raise ConfigError(f"{path}:\n" + "\n".join(f"  {line}" for line in _explain(error, data))) from error


def _alternatives(path: Path) -> str:
    names = sorted(p.stem for p in path.parent.glob(f"*{path.suffix}"))
    return f"; {path.parent} has {', '.join(names)}" if names else ""


def _explain(error: ValidationError, data: Any) -> list[str]:
    lines = []
    for item in error.errors():
        location = ".".join(map(str, _keys(item["loc"], data, missing=item["type"] == "missing")))
        if item["type"] == "extra_forbidden":
            lines.append(f"{location}: unknown key")
        elif item["type"] == "missing":
            lines.append(f"{location}: missing")
        else:
            value = item.get("input")
            shown = f" (got {value!r})" if isinstance(value, str | int | float | bool | None) else ""
            lines.append(f"{location or 'file'}: {item['msg'].removeprefix('Value error, ')}{shown}")
    return lines


def _keys(location: tuple[int | str, ...], data: Any, *, missing: bool) -> list[int | str]:
    """The keys of the file in an error's location, which has the tags of the unions on its way among them."""
    keys: list[int | str] = []
    for place, part in enumerate(location, start=1):
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            if missing and place == len(location):
                keys.append(part)
        else:
            keys.append(part)
    return keys


class Project:
    """The configuration tree of one checkout: ``params.yaml`` and ``configs/``.

    Args:
        root: the folder that holds both.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.configs = root / "configs"

    def params(self) -> Params:
        path = self.root / "params.yaml"
        if not path.is_file():
            raise ConfigError(f"{path}: no such file; `pointrend select demo` writes one")
        return load(Params, path)

    def dataset(self, name: str) -> DatasetConfig:
        return load_dataset(self._dataset_file(name))

    def _dataset_file(self, name: str) -> Path:
        return self.configs / "datasets" / f"{name}.yaml"

    def synthetic(self, name: str) -> SyntheticConfig:
        return load_synthetic(self.configs / "synthetic" / f"{name}.yaml")

    def model(self, name: str) -> InstanceModelConfig | SemanticModelConfig:
        return load_model(self.configs / "models" / f"{name}.yaml")

    def schedule(self, name: str) -> ScheduleConfig:
        return load(ScheduleConfig, self.configs / "schedules" / f"{name}.yaml")

    def cluster(self, name: str) -> ClusterConfig:
        return load(ClusterConfig, self.configs / "clusters" / f"{name}.yaml")

    def table(self, name: str) -> TableConfig:
        return load(TableConfig, self.configs / "tables" / f"{name}.yaml")

    def table_names(self) -> list[str]:
        return sorted(path.stem for path in (self.configs / "tables").glob("*.yaml"))

    def scales(self) -> list[str]:
        return sorted(path.name for path in (self.configs / "experiments").iterdir() if path.is_dir())

    def experiment_names(self, scale: str) -> list[str]:
        return sorted(path.stem for path in (self.configs / "experiments" / scale).glob("*.yaml"))

    def experiment(self, scale: str, name: str) -> ExperimentConfig:
        path = self.configs / "experiments" / scale / f"{name}.yaml"
        experiment = load(ExperimentConfig, path)
        if problem := self._disagreement(experiment):
            raise ConfigError(f"{path}:\n  {problem}")
        return experiment

    def _disagreement(self, experiment: ExperimentConfig) -> str | None:
        """What in an experiment does not go with its model, as "key: problem"."""
        model, network = self.model(experiment.model), f"model {experiment.model!r}"
        if model.has_point_head and experiment.sampling is None:
            return f"sampling: missing; {network} has a point head"
        if not model.has_point_head and experiment.sampling is not None:
            return f"sampling: {network} has no point head to sample for"
        if not model.has_point_head and experiment.point_head is not None:
            return f"point_head: {network} has none"
        task = _dataset_task(self.dataset(experiment.dataset))
        if model.task != task:
            return f"dataset: {experiment.dataset!r} is for {task} models, which {network} is not"
        if model.task == "instance" and self.schedule(experiment.schedule).head_multiplier != 1:
            return f"schedule: {experiment.schedule!r} has a head_multiplier, which is for semantic models"
        for name, setting in experiment.evaluations.items():
            if problem := _setting_problem(setting, model):
                return f"evaluations.{name}: {network} {problem}"
        return None

    def run(self, scale: str, name: str, params: RunParams) -> tuple[RunConfig, EvaluationConfig]:
        """One run of ``params.yaml``, resolved: what its training depends on, and how it is evaluated.

        Raises:
            ConfigError: if the run does not agree with its experiment.
        """
        experiment = self.experiment(scale, params.experiment)
        where = f"{self.root / 'params.yaml'}:\n  runs.{name}"
        if params.dataset != experiment.dataset:
            raise ConfigError(f"{where}.dataset: {params.dataset!r}, but its experiment has {experiment.dataset!r}")
        if params.seed not in experiment.seeds:
            raise ConfigError(f"{where}.seed: {params.seed}, but its experiment has seeds {experiment.seeds}")
        if params.starts_from != _start(experiment):
            raise ConfigError(
                f"{where}.starts_from: {params.starts_from!r}, but its experiment has {_start(experiment)!r}"
            )
        run = RunConfig(
            run=name,
            experiment=params.experiment,
            dataset=experiment.dataset,
            seed=params.seed,
            starts_from=experiment.starts_from,
            model=self.model(experiment.model),
            sampling=experiment.sampling,
            point_head=experiment.point_head,
            schedule=self.schedule(experiment.schedule),
        )
        return run, EvaluationConfig(experiment.evaluations)

    def select(self, scale: str, data_root: str, cluster: str) -> Params:
        """The parameters that run everything of a scale.

        Args:
            scale: a folder of ``configs/experiments``.
            data_root: where the datasets lie.
            cluster: a file of ``configs/clusters``.

        Raises:
            ConfigError: if there is no such scale or cluster, or one of its files is wrong.
        """
        if scale not in self.scales():
            raise ConfigError(f"{self.configs / 'experiments'}: no scale {scale!r}; it has {', '.join(self.scales())}")
        self.cluster(cluster)
        experiments = {name: self.experiment(scale, name) for name in self.experiment_names(scale)}
        datasets = {e.dataset: self.dataset(e.dataset) for e in experiments.values()}
        first = {f"{n}-{seed}" for n, e in experiments.items() if e.starts_from is None for seed in e.seeds}
        for name, experiment in experiments.items():
            if experiment.starts_from not in (None, *first):
                file = self.configs / "experiments" / scale / f"{name}.yaml"
                raise ConfigError(
                    f"{file}:\n  starts_from: {experiment.starts_from!r} is no run of this scale that begins with "
                    f"nothing; those are {', '.join(sorted(first))}"
                )
        return Params(
            scale=scale,
            data_root=data_root,
            cluster=cluster,
            synthetic=sorted({dataset.root for dataset in datasets.values() if dataset.synthetic}),
            datasets={name: self._watched(name, dataset, data_root) for name, dataset in sorted(datasets.items())},
            runs={
                f"{name}-{seed}": RunParams(
                    dataset=experiment.dataset, experiment=name, seed=seed, starts_from=_start(experiment)
                )
                for name, experiment in self._in_order(experiments).items()
                for seed in experiment.seeds
            },
        )

    def _in_order(self, experiments: dict[str, ExperimentConfig]) -> dict[str, ExperimentConfig]:
        """Experiments in the order in which DVC comes to them: first what others begin with, the shortest first."""
        first = {experiment.starts_from for experiment in experiments.values()}

        def place(name: str) -> tuple[bool, int]:
            if first.isdisjoint(f"{name}-{seed}" for seed in experiments[name].seeds):
                return True, 0
            return False, self.schedule(experiments[name].schedule).updates

        return {name: experiments[name] for name in sorted(experiments, key=place)}

    def _watched(self, name: str, dataset: DatasetConfig, data_root: str) -> DatasetParams:
        file = str(self._dataset_file(name).relative_to(self.root))
        if is_remote(join(data_root, dataset.root)):
            if dataset.synthetic:
                raise ConfigError(
                    f"{self._dataset_file(name)}: is drawn here; {data_root} is no folder of this machine"
                )
            return DatasetParams(train=file, val=file, lvis=file)
        root = Path(join(data_root, dataset.root))
        if not isinstance(dataset, CocoDataset):
            val = str(root / dataset.val.labels)
            return DatasetParams(train=str(root / dataset.train.labels), val=val, lvis=val)
        val = str(root / dataset.val.annotations)
        lvis = join(join(data_root, dataset.lvis.root), dataset.lvis.annotations) if dataset.lvis else val
        lvis = file if is_remote(lvis) else lvis
        return DatasetParams(train=str(root / dataset.train.annotations), val=val, lvis=lvis)


def _start(experiment: ExperimentConfig) -> str:
    """What a run begins with, as ``params.yaml`` has it."""
    return f"train/{experiment.starts_from}" if experiment.starts_from else f"data/{experiment.dataset}"


def _dataset_task(dataset: DatasetConfig) -> Task:
    """What a dataset is for."""
    if isinstance(dataset, CityscapesDataset):
        return dataset.task
    return "instance" if isinstance(dataset, CocoDataset) else "semantic"


def _setting_problem(
    setting: RenderingConfig | SemanticRenderingConfig, model: InstanceModelConfig | SemanticModelConfig
) -> str | None:
    """Why a model cannot be evaluated so."""
    if isinstance(model, InstanceModelConfig):
        if not isinstance(setting, RenderingConfig):
            return "needs a resolution"
        if not model.has_point_head and setting != RenderingConfig(resolution=FOUR_CONV_SIDE):
            return f"renders at resolution {FOUR_CONV_SIDE}, without points"
        return None
    if not isinstance(setting, SemanticRenderingConfig):
        return "is a semantic one: it renders at the image's resolution and takes none"
    if model.has_point_head != (setting.num_points is not None):
        return "has a point head and needs num_points" if model.has_point_head else "has no point head for num_points"
    is_deeplab = model.architecture == "DeepLabV3"
    if is_deeplab != (setting.output_stride is not None):
        return "needs an output_stride" if is_deeplab else "has no output_stride to set"
    return None
