"""Groups the problems of a dataset by kind, with the remedies that annotation tools need."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.data.coco import DatasetError

#: Parts of messages, and what to do about them.
REMEDIES = (
    (
        r"a polygon needs at least 3|list of polygons is empty|has no area inside",
        "delete these annotations in the tool, or leave them out with --drop-invalid",
    ),
    (
        r"segmentation is neither",
        "export masks: COCO instances with polygons or RLE, not boxes only (in Label Studio, brush or polygon labels)",
    ),
    (
        r"the RLE is of size|add up to",
        "the image was resized or turned after it was annotated; export the annotations anew for the images there",
    ),
    (
        r"annotated as",
        "if width and height are swapped, the tool turned the image by its EXIF data: save the images upright, or "
        "annotate the pixels as they are stored",
    ),
    (
        r"no such file",
        "file names in the annotations are relative to --images (--val-images); CVAT and Label Studio write folders "
        "before them",
    ),
    (
        r"unknown category id|no such image|id occurs",
        "files were merged without new ids; export them together, or number images and annotations anew",
    ),
    (
        r"expected a whole number",
        "ids and sizes must be whole numbers; convert VIA's and labelme's files to COCO's format first",
    ),
    (
        r"expected one channel of ids",
        "label PNGs hold a class id per pixel, in one channel or a palette: export indexed masks, not colours",
    ),
    (r"label id \d+", "name every id with --classes NAME=ID, or leave pixels out with --ignore"),
    (r"the labels are \d+x", "labels need the size of their image; resize labels without interpolation"),
    (r"no label file|there is no image for it", "every image needs a label PNG of its name, and the other way round"),
    (r"truncated or no image", "save these images again"),
    (r"its mask has no pixel|only \d+ pixel", "clicks that were left over, as a rule: delete them"),
    (r"has the same mask as", "the object was annotated or exported twice; keep one"),
    (r"covers the whole image", "a background class, or a box drawn by mistake; leave it out, or mark it as a crowd"),
    (r"its box is", "training takes the box of the annotation: have the tool compute boxes from the masks"),
    (r"its area is", "scores by size go by this area: have the tool compute it from the mask"),
    (r"no object in the train|in no image of the train", "it cannot be learned: merge it, or annotate more"),
    (
        r"no object in the val|in no image of the val",
        "it cannot be measured: the val split needs images with it (where images are held out, try another --seed or a "
        "larger --val-share)",
    ),
    (r"of the train pixels", "it will be learned late, if at all: train longer, or merge it with another class"),
    (r"all of its pixels are ignored", "nothing is learned from these: leave them out, or check --ignore"),
    (r"different categories", "both annotation files need the same list of categories, with the same ids"),
)
EXAMPLES = 2
_OWN_NAMES = re.compile(r"\[[^\]]*\]|\'[^\']*\'|/?[\w.-]*/[\w./-]+|\S+\.(?:png|jpe?g|json)\b|\d[\d.x]*")


@dataclass(frozen=True)
class Group:
    """Problems of one kind.

    Attributes:
        kind: their message, without ids and numbers.
        count: how many there are.
        examples: the first of them.
        remedy: what to do; empty if nothing is known.
    """

    kind: str
    count: int
    examples: tuple[str, ...]
    remedy: str


def kind_of(problem: str) -> str:
    """The message of a problem without what differs between problems of its kind."""
    return _OWN_NAMES.sub("…", problem)


def remedy_of(problem: str) -> str:
    """What to do about a problem; empty if nothing is known."""
    return next((remedy for pattern, remedy in REMEDIES if re.search(pattern, problem)), "")


def group(problems: Sequence[str]) -> list[Group]:
    """Problems by kind, the most frequent first."""
    found: dict[str, list[str]] = {}
    for problem in problems:
        found.setdefault(kind_of(problem), []).append(problem)
    groups = [Group(kind, len(of), tuple(of[:EXAMPLES]), remedy_of(of[0])) for kind, of in found.items()]
    return sorted(groups, key=lambda group: -group.count)


def with_remedies(error: DatasetError) -> DatasetError:
    """The same error, with the remedies for its problems at its end."""
    remedies = dict.fromkeys(group.remedy for group in group(error.problems) if group.remedy)
    return DatasetError(error.where, error.problems, "\n".join([*filter(None, [error.remedy]), *remedies]))
