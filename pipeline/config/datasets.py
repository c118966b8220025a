"""The schema of ``configs/datasets``: where a dataset's raw files lie and what is read from them."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
    RootModel,
    TypeAdapter,
    field_validator,
    model_validator,
)

from pipeline.config.labels import LabelTable
from pipeline.config.reader import Strict, read, validate
from pointrend.specs import (
    Task,
)


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


def load_dataset(path: Path) -> DatasetConfig:
    """As :func:`load`, for a dataset's file: its ``source`` says which kind it is."""
    return validate(TypeAdapter(DatasetConfig), [(path, read(path))])


def dataset_task(dataset: DatasetConfig) -> Task:
    """What a dataset is for."""
    if isinstance(dataset, CityscapesDataset):
        return dataset.task
    return "instance" if isinstance(dataset, CocoDataset) else "semantic"
