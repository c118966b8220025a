"""The schema of ``configs/datasets``: where the raw files of a dataset lie and what is read from them."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    RootModel,
    Tag,
    TypeAdapter,
    field_validator,
    model_validator,
)

from pipeline.config.labels import LabelTable
from pipeline.config.reader import Strict, read, validate
from pointrend.specs import Orientation, Task


def _increasing(values: list[float]) -> list[float]:
    if len(values) != 2 or not values[0] < values[1]:
        raise ValueError(f"{values}: expected [black, white], the lower value first")
    return values


PixelRange = Annotated[list[FiniteFloat], AfterValidator(_increasing)]


class CocoSplit(Strict):
    """One split of a COCO-instances dataset; paths are relative to the dataset's root."""

    annotations: str
    images: str
    num_images: PositiveInt | None = Field(None, description="how many images the split must have")


class LvisSource(Strict):
    """LVIS annotations of a COCO dataset's val images, on which AP* is measured."""

    root: str
    annotations: str
    num_images: PositiveInt | None = Field(None, description="how many of the val images the annotations must cover")
    synsets: dict[str, str] | None = Field(None, description="LVIS synset by category name; null for COCO's own")

    @field_validator("synsets")
    @classmethod
    def _check_synsets(cls, synsets: dict[str, str] | None) -> dict[str, str] | None:
        if synsets is not None and len(set(synsets.values())) != len(synsets):
            raise ValueError("a synset appears more than once; expected one category for each")
        return synsets


class LabelSplit(Strict):
    """One split of images and label PNGs; folders are relative to the dataset's root."""

    images: str
    labels: str
    num_images: PositiveInt | None = Field(None, description="how many images the split must have")


class HeldOut(Strict):
    """A val split that has no files of its own: a share of the train split's images, which are held out of training."""

    share: float = Field(gt=0, lt=1)
    seed: NonNegativeInt = Field(0, description="decides which images; see pipeline.data.held_out")


def _split_kind(value: Any) -> str:
    keys = value.keys() if isinstance(value, dict) else getattr(type(value), "model_fields", ())
    return "held_out" if "share" in keys else "files"


class DatasetFolder(Strict):
    """Settings of every kind of dataset."""

    root: str = Field(description="folder of the raw files, relative to the data root, or absolute")
    synthetic: bool = Field(
        False, description="whether it is drawn, inside the project, by configs/synthetic/<root>.yaml"
    )
    obtain: str = Field("", description="how to get the raw files, for the error where they are missing")
    orientation: Orientation = Field(
        "stored", description="annotations refer to the pixels as stored, or turned as EXIF data say (as viewers do)"
    )
    pixel_range: PixelRange | None = Field(
        None,
        description="the values that are black and white in pictures of more than 8 bits, others are clipped; by "
        "default those that the pictures use",
    )


class CocoDataset(DatasetFolder):
    """Any dataset in COCO's instances format."""

    source: Literal["coco"]
    train: CocoSplit
    val: Annotated[Annotated[CocoSplit, Tag("files")] | Annotated[HeldOut, Tag("held_out")], Discriminator(_split_kind)]
    lvis: LvisSource | None = None
    # Left out where it is not set, so that datasets without it stay as they are.
    finer_val: str | None = Field(
        None,
        min_length=1,
        exclude_if=lambda value: value is None,
        description="annotations of the same val images with finer masks, on which AP* is measured; relative to root",
    )
    invalid_annotations: Literal["error", "drop"] = Field(
        "error", description="what to do about annotations that cannot be used"
    )
    classes: list[str] = Field([], description="names of the categories to keep; by default all")

    @model_validator(mode="after")
    def _check_lvis(self) -> Self:
        if self.classes and self.lvis is not None:
            raise ValueError("classes is for datasets without lvis, whose view has all categories")
        if self.finer_val is not None and self.lvis is not None:
            raise ValueError("finer_val and lvis both say what AP* is measured on; expected one of them")
        return self


class CityscapesDataset(DatasetFolder):
    """A folder laid out like Cityscapes: its eight object classes as instances, or its 19 classes as labels."""

    source: Literal["cityscapes"]
    task: Task
    train: LabelSplit
    val: LabelSplit


class LabelDataset(DatasetFolder):
    """A folder of images and a folder of label PNGs with the same relative paths, but for ``suffix``."""

    source: Literal["labels"]
    train: LabelSplit
    val: Annotated[
        Annotated[LabelSplit, Tag("files")] | Annotated[HeldOut, Tag("held_out")], Discriminator(_split_kind)
    ]
    suffix: str = Field("", description="what the names of label files have after those of their images")
    classes: Annotated[dict[str, NonNegativeInt], Field(min_length=1)] = Field(description="label id by class name")
    ignored: list[NonNegativeInt] = Field([255], description="label ids that neither training nor scores count")

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.table()
        return self

    def table(self) -> LabelTable:
        return LabelTable(tuple(self.classes), tuple(self.classes.values()), tuple(self.ignored))


DatasetConfig = Annotated[CocoDataset | CityscapesDataset | LabelDataset, Field(discriminator="source")]


class CocoSynset(Strict):
    """One of COCO's 80 categories and its synset in LVIS."""

    id: PositiveInt
    name: str
    synset: str


class SynsetTable(RootModel[list[CocoSynset]]):
    """COCO's categories in LVIS, one to one."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key in ("id", "name", "synset"):
            values = [getattr(entry, key) for entry in self.root]
            if repeated := sorted({value for value in values if values.count(value) > 1}):
                raise ValueError(f"{key} {', '.join(map(str, repeated))} appears more than once")
        return self


def load_dataset(path: Path) -> DatasetConfig:
    """Reads a dataset's file, see :func:`pipeline.config.reader.load`."""
    return validate(TypeAdapter(DatasetConfig), [(path, read(path))])


def dataset_task(dataset: DatasetConfig) -> Task:
    """The task of a dataset."""
    if isinstance(dataset, CityscapesDataset):
        return dataset.task
    return "instance" if isinstance(dataset, CocoDataset) else "semantic"
