"""The `prepare` step: checks a raw dataset and writes its manifests and ground truth, whole or not at all."""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

import numpy as np

from pipeline.config.datasets import (
    CityscapesDataset,
    CocoDataset,
    CocoSplit,
    CocoSynset,
    DatasetConfig,
    HeldOut,
    LabelDataset,
    LabelSplit,
    LvisSource,
    SynsetTable,
)
from pipeline.config.labels import LabelTable
from pipeline.config.locations import join
from pipeline.data.annotations import Annotation, Invalid, as_truth
from pipeline.data.cityscapes import CATEGORIES, INSTANCE_SUFFIX, instances
from pipeline.data.coco import (
    Category,
    DatasetError,
    ImageRecord,
    InstanceSplit,
    check_instances,
    different_categories,
    load_instances,
    read_coco,
)
from pipeline.data.contents import nothing_in
from pipeline.data.file_names import names_note
from pipeline.data.finer import read_finer
from pipeline.data.held_out import held_out
from pipeline.data.label_files import LabelledImage, Pairs, cityscapes_pairs, read_labels, same_path_pairs
from pipeline.data.labels import CITYSCAPES
from pipeline.data.lvis import coco_view
from pipeline.data.manifest import (
    FINER,
    FINER_VAL,
    VAL_ANNOTATIONS,
    Split,
    SplitManifest,
    record_reading,
    write_prepared,
)
from pipeline.data.outlines import Outlines, outlines_of
from pipeline.data.picture_reading import how_to_read
from pipeline.data.pictures import KnownPictures, known_pictures
from pipeline.data.problems import NOTHING
from pipeline.data.storage import Storage, UnreadableFileError
from pipeline.files import atomic_folder, write_json
from pipeline.progress import Progress

SPLITS: tuple[Split, ...] = ("train", "val")

K = TypeVar("K")
T = TypeVar("T")


class _AnnotationFile(NamedTuple):
    """A local annotation file, or the local copy of a remote one, and the original's name for error messages."""

    path: Path
    where: str

    @contextmanager
    def named(self) -> Iterator[None]:
        """Makes errors in the block name the original file instead of its copy."""
        try:
            yield
        except DatasetError as error:
            raise DatasetError(self.where, error.problems) from error


@dataclass(frozen=True)
class _Preparation:
    """The preparation of one dataset from ``storage`` into ``folder``."""

    storage: Storage
    folder: Path
    scratch: Path
    known: KnownPictures
    on_image: Callable[[], None]

    def all_of(self, parts: Iterable[K], read: Callable[[K], T]) -> dict[K, T]:
        """The result of ``read`` for each part of the dataset.

        Raises:
            DatasetError: with the problems of all parts.
        """
        found: dict[K, T] = {}
        errors: list[DatasetError] = []
        for part in parts:
            try:
                found[part] = read(part)
            except DatasetError as error:
                errors.append(error)
        if len(errors) > 1:
            # Not the folder that all of them share, which can be "/".
            where = ", ".join(dict.fromkeys(str(error.where) for error in errors))
            raise DatasetError(where, [f"{e.where}: {line}" for e in errors for line in e.problems])
        if errors:
            raise errors[0]
        return found

    def copy_truth(self, labels: str, images: Iterable[LabelledImage]) -> None:
        """Copies the images' label files, under their paths below the folder ``labels``."""
        for image in images:
            name = PurePosixPath(image.label_file.removeprefix(f"{labels}/")).with_suffix(".png")  # .PNG is known too
            self.storage.copy(image.label_file, self.folder / "truth" / name)

    def coco(self, dataset: CocoDataset, data_root: str) -> None:
        given: dict[Split, CocoSplit] = {"train": dataset.train}
        if not isinstance(dataset.val, HeldOut):
            given["val"] = dataset.val
        sources: dict[str, tuple[Storage, str]] = {name: (self.storage, it.annotations) for name, it in given.items()}
        if dataset.lvis is not None:
            sources["lvis"] = (Storage(join(data_root, dataset.lvis.root)), dataset.lvis.annotations)
        if dataset.finer_val is not None:
            sources[FINER_VAL] = self.storage.beside(dataset.finer_val)
        # Fetched before the images, whose checks take long.
        files = self.all_of(sources, lambda part: self.fetch(part, *sources[part]))

        def read(name: Split) -> InstanceSplit:
            split = given[name]
            with files[name].named():
                return read_coco(
                    files[name].path,
                    self.storage,
                    split.images,
                    self.known,
                    num_images=split.num_images,
                    invalid=dataset.invalid_annotations,
                    classes=dataset.classes,
                    on_image=self.on_image,
                )

        splits = self.all_of(given, read)
        if isinstance(dataset.val, HeldOut):
            splits = self.held_out(dataset.val, splits["train"], dataset.train.images, files["train"].where)
        else:
            if splits["train"].categories != splits["val"].categories:
                files_named = f"{files['train'].where}, {files['val'].where}"
                named = {f"the {name} split": [(c.id, c.name) for c in splits[name].categories] for name in SPLITS}
                raise DatasetError(files_named, [different_categories(named)])
        write_json(self.folder / "truth" / "instances.json", splits["val"].truth)
        if dataset.lvis is not None:
            with files["lvis"].named():
                self.lvis(dataset.lvis, files["lvis"].path, splits["val"], dataset.invalid_annotations)
        of_val = {"outlines": _entry(_val_outlines(files.get("val", files["train"]).path, splits["val"]))}
        if dataset.finer_val is not None:
            folders = {name: given.get(name, dataset.train).images for name in SPLITS}
            with files[FINER_VAL].named():
                of_val[FINER_VAL] = self.finer(dataset, files[FINER_VAL], folders, splits)
        write_json(self.folder / VAL_ANNOTATIONS, of_val)
        manifests = {
            name: SplitManifest(split.images, split.dropped, split.parts, split.warnings)
            for name, split in splits.items()
        }
        self.write(splits["val"].categories, manifests, {name: file.where for name, file in files.items()})

    def finer(
        self,
        dataset: CocoDataset,
        file: _AnnotationFile,
        folders: Mapping[Split, str],
        splits: Mapping[Split, InstanceSplit],
    ) -> dict[str, Any]:
        """Writes the finer ground truth of the val images; returns what is said of it."""
        both = {name: (folders[name], splits[name]) for name in SPLITS}
        found = read_finer(file.path, self.storage, both, dataset.invalid_annotations, dataset.classes)
        write_json(self.folder / FINER, found.truth)
        messages = {"dropped_annotations": found.dropped, "dropped_parts": found.parts, "warnings": found.warnings}
        return {
            "file": PurePosixPath(file.where).name,
            "outlines": _entry(found.outlines),
            **{key: [f"{FINER_VAL}: {line}" for line in lines] for key, lines in messages.items()},
        }

    def write(
        self, classes: list[Category] | LabelTable, splits: dict[Split, SplitManifest], where: Mapping[str, str]
    ) -> None:
        """Writes the manifests.

        Args:
            classes: the categories, or the label table.
            splits: the manifests.
            where: the file or folder of each split, for errors; that of train is also that of a val split without one.

        Raises:
            DatasetError: if a split has nothing to learn from or to measure on.
        """
        contents = write_prepared(self.folder, classes, splits)
        ignored = classes.ignored if isinstance(classes, LabelTable) else ()

        def check(name: Split) -> None:
            if problems := nothing_in(name, contents[name], splits[name].dropped_annotations, ignored):
                raise DatasetError(where.get(name, where["train"]), problems)

        # A val split that was held out of train's file has no fault of its own where that has nothing.
        self.all_of([name for name in splits if name in where], check)
        self.all_of([name for name in splits if name not in where], check)

    def held_out(self, val: HeldOut, found: InstanceSplit, folder: str, where: str) -> dict[Split, InstanceSplit]:
        """Both splits of a dataset whose val images are held out; all messages are train's."""
        chosen = self.names_held_out(val, [image.file_name for image in found.images], folder, where)
        train, held = ([i for i in found.images if (i.file_name in chosen) == is_val] for is_val in (False, True))
        none = replace(found, images=held, dropped=[], parts=[], warnings=[])
        return {"train": replace(found, images=train), "val": none}

    def names_held_out(self, val: HeldOut, names: list[str], folder: str, where: str) -> set[str]:
        """Which images are held out. Their names below the folder of images decide, wherever that folder lies."""
        if len(names) < 2:
            raise DatasetError(where, [f"{len(names)} image; expected 2 or more to hold one out for val"])
        below = {name.removeprefix(f"{folder}/"): name for name in names}
        return {below[name] for name in held_out(below, val.share, val.seed)}

    def lvis(self, source: LvisSource, file: Path, val: InstanceSplit, invalid: Invalid) -> None:
        """Writes the COCO-category view of the LVIS annotations of the val images; adds messages about it to val's."""
        view = coco_view(file, _synset_table(source.synsets, val, file) if source.synsets else None)
        sizes = {image.id: (image.height, image.width) for image in val.images}
        images = [image for image in view["images"] if image["id"] in sizes]
        problems = [
            f"image {image['id']}: {image['width']}x{image['height']}, but {size[1]}x{size[0]} in the dataset"
            for image in images
            if (size := sizes[image["id"]]) != (image["height"], image["width"])
        ]
        if len(images) != (source.num_images or len(images)) or not images:
            problems.append(f"{len(images)} of the val images, expected {source.num_images or 'some'}")
        if problems:
            raise DatasetError(file, problems)
        kept = {image["id"] for image in images}
        annotations = [annotation for annotation in view["annotations"] if annotation["image_id"] in kept]
        content = {**view, "images": images, "annotations": annotations}
        found = check_instances(content, invalid)
        if found.problems:
            raise DatasetError(file, found.problems)
        for own, of_lvis in ((val.dropped, found.dropped), (val.parts, found.parts), (val.warnings, found.warnings)):
            own.extend(f"{file.name}: {line}" for line in of_lvis)
        content = as_truth(content, found.usable, found.image_ids)
        (self.folder / "truth" / "lvis.json").write_text(json.dumps(content, sort_keys=True))

    def cityscapes(self, dataset: CityscapesDataset) -> None:
        def read(name: Split) -> list[tuple[LabelledImage, list[Annotation]]]:
            split = dataset.train if name == "train" else dataset.val
            pairs = cityscapes_pairs(self.storage, split, INSTANCE_SUFFIX)
            return read_labels(self.storage, split, pairs, self.known, instances, self.on_image)

        splits = self.all_of(SPLITS, read)
        learned = [annotation for _, objects in splits["train"] for annotation in objects]
        if learned and all(annotation.iscrowd for annotation in learned):
            problem = f"{NOTHING} in the train split: all {len(learned)} objects have bare label ids"
            raise DatasetError(self.storage.where(dataset.train.labels), [problem])
        self.copy_truth(dataset.val.labels, [image for image, _ in splits["val"]])
        manifests: dict[Split, SplitManifest] = {}
        for name, images in splits.items():
            ids = count(1)
            manifests[name] = SplitManifest(
                [
                    ImageRecord(
                        image.id,
                        image.file_name,
                        image.height,
                        image.width,
                        [replace(annotation, id=next(ids)) for annotation in annotations],
                    )
                    for image, annotations in images
                ]
            )
        self.write(CATEGORIES, manifests, self.folders(dataset))

    def folders(self, dataset: CityscapesDataset | LabelDataset) -> dict[str, str]:
        """The label folder of each split that has files."""
        splits = {"train": dataset.train, "val": dataset.val}
        return {
            name: self.storage.where(split.labels) for name, split in splits.items() if isinstance(split, LabelSplit)
        }

    def labels(
        self,
        dataset: CityscapesDataset | LabelDataset,
        table: LabelTable,
        find_pairs: Callable[[Storage, LabelSplit], Pairs],
    ) -> None:
        val = dataset.val
        given: dict[Split, LabelSplit] = {"train": dataset.train}
        if not isinstance(val, HeldOut):
            given["val"] = val

        def read(name: Split) -> list[tuple[LabelledImage, np.ndarray]]:
            pairs = find_pairs(self.storage, given[name])
            return read_labels(self.storage, given[name], pairs, self.known, table.count, self.on_image)

        splits = self.all_of(given, read)
        if isinstance(val, HeldOut):
            folder = dataset.train.images
            names = [image.file_name for image, _ in splits["train"]]
            chosen = self.names_held_out(val, names, folder, self.storage.where(folder))
            splits["val"] = [found for found in splits["train"] if found[0].file_name in chosen]
            splits["train"] = [found for found in splits["train"] if found[0].file_name not in chosen]
        manifests = {
            name: SplitManifest([image for image, _ in found], pixels=np.stack([pixels for _, pixels in found]))
            for name, found in splits.items()
        }
        self.copy_truth(given.get("val", dataset.train).labels, [image for image, _ in splits["val"]])
        self.write(table, manifests, self.folders(dataset))

    def pictures(self, dataset: DatasetConfig) -> None:
        """Records how the dataset's pictures are read."""
        found = how_to_read(self.known.looked_at, dataset.orientation, dataset.pixel_range)
        if found.problems:
            raise DatasetError(self.storage.where(), found.problems)
        names = names_note(self.known.other_names)
        record_reading(self.folder, replace(found, notes=(*found.notes, names)) if names else found)

    def fetch(self, part: str, storage: Storage, name: str) -> _AnnotationFile:
        """An annotation file of this machine, or a local copy of a remote one."""
        where = storage.where(name)
        missing = f"no such annotation file{f' ({part})' if part == FINER_VAL else ''}"
        try:
            path = storage.local(name, self.scratch / part)
        except UnreadableFileError as error:
            raise DatasetError(where, [missing]) from error
        if not path.is_file():
            raise DatasetError(where, [missing])
        return _AnnotationFile(path, where)


def expected_images(dataset: DatasetConfig) -> int | None:
    """How many images a dataset must have, or None if the configuration does not say."""
    splits = [split for split in (dataset.train, dataset.val) if not isinstance(split, HeldOut)]
    counts = [split.num_images for split in splits]
    return None if None in counts else sum(filter(None, counts))


def prepare(
    dataset: DatasetConfig,
    data_root: str,
    output: Path,
    known: Path,
    progress: AbstractContextManager[Progress],
) -> None:
    """Checks both splits of a dataset and writes the prepared dataset (see :mod:`pipeline.data.manifest`).

    Args:
        dataset: the layout of the raw files.
        data_root: the folder or URI that the dataset's root is relative to.
        output: the folder to write. An earlier one is replaced, and only if there are no problems.
        known: the file that lists pictures decoded in earlier runs, by a hash of their content.
        progress: shows how many images have been checked.

    Raises:
        DatasetError: listing all problems of both splits, and of one split against the other.
        StorageError: if the data root cannot be reached.
        UserError: if ``known`` cannot be read.
    """
    with ExitStack() as stack:
        bar = stack.enter_context(progress)
        preparation = _Preparation(
            storage=Storage(join(data_root, dataset.root)),
            known=stack.enter_context(known_pictures(known, dataset.orientation)),
            folder=stack.enter_context(atomic_folder(output, replace=True)),
            scratch=Path(stack.enter_context(tempfile.TemporaryDirectory())),
            on_image=bar.advance,
        )
        try:
            if isinstance(dataset, CocoDataset):
                preparation.coco(dataset, data_root)
            elif isinstance(dataset, LabelDataset):
                preparation.labels(dataset, dataset.table(), partial(same_path_pairs, suffix=dataset.suffix))
            elif dataset.task == "semantic":
                preparation.labels(dataset, CITYSCAPES, _cityscapes_labels)
            else:
                preparation.cityscapes(dataset)
            preparation.pictures(dataset)
        except DatasetError as error:
            remedy = f"How to obtain this data: {dataset.obtain}" if dataset.obtain else ""
            raise DatasetError(error.where, error.problems, remedy) from error


def _val_outlines(file: Path, val: InstanceSplit) -> Outlines | None:
    """The outlines of the val split's objects, which the checked split has as masks."""
    usable = {annotation.id for image in val.images for annotation in image.annotations}
    return outlines_of(load_instances(file)["annotations"], usable)


def _entry(outlines: Outlines | None) -> dict[str, Any] | None:
    return None if outlines is None else asdict(outlines)


def _cityscapes_labels(storage: Storage, split: LabelSplit) -> Pairs:
    return cityscapes_pairs(storage, split, CITYSCAPES.truth_suffix)


def _synset_table(synsets: dict[str, str], val: InstanceSplit, file: Path) -> SynsetTable:
    ids = {category.name: category.id for category in val.categories}
    if unknown := sorted(synsets.keys() - ids.keys()):
        raise DatasetError(file, [f"the configuration has synsets of unknown categories: {', '.join(unknown)}"])
    return SynsetTable([CocoSynset(id=ids[name], name=name, synset=synset) for name, synset in synsets.items()])
