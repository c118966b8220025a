"""Groups the problems of a dataset by kind, with the remedies that annotation tools need."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pointrend.wording import counted

BOXES_ONLY = "have boxes but no masks"
NOTHING = "nothing to learn from"
NOTHING_VAL = "nothing to measure on"
EXAMPLES = 2
MAX_KINDS = 20  # that one message shows
INDENT = "    "
UNBROKEN = "\u00a0"  # stands for spaces at which no line ends

# Remedies fit a line of 80 columns where they can.
_NEW_IDS = "merged files need new ids: export them together, or number all anew"
_DELETE = "delete them in the tool, or leave them out with --drop-invalid"
_DELETE_BOXES = "COCO's boxes are x, y, width, height in pixels; or delete the bbox entries: masks say them too"
_EXPORT_MASKS = "export polygons or RLE, not boxes; or leave these out: --drop-invalid"
_MATCH_FILES = "every image needs a label PNG of its name, and the other way round"
_DELETE_CLICKS = "clicks that were left over, as a rule: delete them"
_MERGE_CLASS = "it cannot be learned: merge it with another class, or annotate more"
_MEASURE_CLASS = "it cannot be measured: val needs images with it; try --seed, --val-share"


@dataclass(frozen=True)
class Kind:
    """Problems whose messages match a pattern.

    Attributes:
        pattern: what the message has. What stands before it names what the problem is about.
        several: what to say of several such problems, after their number.
        remedy: what to do about them.
        differs: whether what matches is shown with each example, because it differs between them.
    """

    pattern: str
    several: str
    remedy: str
    differs: bool = False


KINDS = (
    Kind(
        r"polygon \d+ has \d+ points, a polygon needs at least 3",
        "annotations with a polygon of fewer than 3 points",
        _DELETE,
    ),
    Kind(
        r"box \[.*\] has no area inside its \S+ image",
        "annotations whose box has no area inside the image",
        _DELETE_BOXES,
        True,
    ),
    Kind(
        r"polygon \d+ is not a list.*",
        "annotations with polygons that are no lists of x, y pairs",
        "each polygon is a list of its own: [[x, y, x, y, ...], ...]",
        True,
    ),
    Kind(
        r"polygon \d+ has a coordinate.*",
        "annotations with coordinates that are no numbers in the image",
        _DELETE,
        True,
    ),
    Kind(
        r"without its polygon .*",
        "parts of masks that cover nothing, or are no polygons",
        "left out; the rest of each mask is used",
        True,
    ),
    Kind(
        r"(?:bbox|area|iscrowd) is .*",
        "annotations with a bbox, area or iscrowd of another type",
        "mend what converted them, or delete bbox and area: both are computed from the mask",
        True,
    ),
    Kind(
        r"\w+ is -?\d+, too large for \d+ bits",
        "entries with an id that is too large",
        "number them anew from 1, in all that refers to them",
        True,
    ),
    Kind(r"\d+x\d+ are too many pixels", "images with too many pixels", "cut them into tiles"),
    Kind(r"the list of polygons is empty", "annotations without a mask", _EXPORT_MASKS),
    Kind(r"segmentation is neither.*", "annotations without a mask", _EXPORT_MASKS),
    Kind(
        r"the RLE is of size .*",
        "annotations whose RLE is of another size than the image",
        "height comes first; or the images were resized or turned since: export anew for those there",
        True,
    ),
    Kind(
        r"the RLE's counts .*",
        "annotations whose RLE cannot be decoded",
        "they were damaged or edited: export them anew",
        True,
    ),
    Kind(
        r"(?:is|the labels are) \d+x\d+, .* is \d+x\d+, which it is in the other orientation.*"
        r"|is \d+x\d+, annotated as \d+x\d+, which it is in the other orientation.*",
        "pictures that EXIF data turn, annotated in the other orientation",
        "annotated as viewers show them: orientation: exif (--orientation exif); as stored: orientation: stored",
    ),
    Kind(
        r"is \d+x\d+, annotated as \d+x\d+",
        "images of another size than their annotations say",
        "the images were resized or turned since: export anew for those there",
        True,
    ),
    Kind(
        r"no such file",
        "images that are not there",
        "file_name is relative to --images (--val-images); some tools add folders",
    ),
    Kind(
        r"a val image that finer_val does not have",
        "val images that finer_val does not have",
        "finer_val needs every val image by its file name, those without objects too; AP* of a part would mislead",
    ),
    Kind(
        r"\S.* is in neither split",
        "images of finer_val that are in neither split",
        "finer_val is told by file names: write them as the dataset's own file does",
        True,
    ),
    Kind(r"unknown category id \d+", "annotations with a category id that no category has", _NEW_IDS, True),
    Kind(r"there is no such image", "annotations with an image id that no image has", _NEW_IDS),
    Kind(
        r"have the same file_name, .*",
        "files that several images name",
        "give all annotations of a file to one image; of several annotators' keep one",
        True,
    ),
    Kind(r"the id occurs \d+ times", "ids that occur several times", _NEW_IDS),
    Kind(
        r"\w+ is .*, expected (?:a whole number|a text|at least \d+)",
        "entries with an id, size or name of another type",
        "ids and sizes are whole numbers, names texts: mend what converted it",
        True,
    ),
    Kind(
        r"its pixels are \w+; expected one channel of ids",
        "label PNGs with colours instead of class ids",
        "export indexed masks, or convert each colour to its class's id: label PNGs hold an id per pixel, in one "
        "channel or a palette (CVAT's labelmap.txt lists the colours)",
    ),
    Kind(
        r"it is a JPEG, which does not keep ids.*",
        "labels that are JPEGs",
        "export PNGs anew: a JPEG does not keep ids, whatever its name",
    ),
    Kind(
        r"label id \d+ at row \d+, column \d+ .*",
        "label PNGs with an id that no class has",
        "name every id with --classes NAME=ID, or leave pixels out with --ignore",
        True,
    ),
    Kind(
        r"the labels are \d+x\d+, .* is \d+x\d+",
        "label PNGs of another size than their image",
        "export them at the images' size, or resize them without interpolation",
        True,
    ),
    Kind(
        r"no label file .*",
        "images without a label PNG",
        _MATCH_FILES,
    ),
    Kind(
        r"there is no image for it",
        "label PNGs without an image",
        _MATCH_FILES,
    ),
    Kind(r"not a readable image \(the file is empty.*\)", "pictures that are empty files", "save or download again"),
    Kind(r"not a readable image \(a Git LFS pointer.*\)", "Git LFS pointers instead of pictures", "run `git lfs pull`"),
    Kind(
        r"has floats that are not finite.*",
        "pictures of floats that are not all finite, such as nan",
        "replace these values, as by numpy.nan_to_num",
    ),
    Kind(
        r"not a readable image \(has \d+ million pixels.*\)",
        "pictures over the limit of size",
        "make smaller, or cut into tiles",
    ),
    Kind(
        r"not a readable image \(a TIFF with \d+ bands.*\)",
        "TIFFs with other bands than grey or RGB",
        "write one or three bands of 8 bits, as in `gdal_translate -b 3 -b 2 -b 1 -ot Byte -scale in.tif out.tif`",
    ),
    Kind(
        r"not a readable image \(.*\)|cannot be read \(.*\)",
        "pictures that cannot be read",
        "save, convert or download these images again",
        True,
    ),
    Kind(r"its mask has no pixel", "masks without a pixel", _DELETE_CLICKS),
    Kind(r"its mask has only \d+ pixel", "masks of a few pixels", _DELETE_CLICKS),
    Kind(
        r"has the same mask as annotation \d+",
        "annotations with the mask of another one",
        "annotated or exported twice: keep one",
        True,
    ),
    Kind(
        r"its mask covers the whole image",
        "masks that cover the whole image",
        "a background class, or drawn by mistake: leave it out, or mark it a crowd",
    ),
    Kind(
        r"boxes do not fit their masks; they look like.*",
        "splits with boxes that are written in another way",
        _DELETE_BOXES,
        True,
    ),
    Kind(
        r"boxes do not fit their masks.*",
        "splits with boxes beside their masks",
        "training takes these boxes; without bbox entries it takes those of the masks",
        True,
    ),
    Kind(
        r"areas do not fit their masks.*",
        "splits with areas that are not those of their masks",
        "scores by size go by area; without area entries, by the masks' pixels",
        True,
    ),
    Kind(
        r"masks have no pixel; their coordinates.*",
        "splits with masks in shares of their images",
        "multiply x by the image's width and y by its height",
        True,
    ),
    Kind(r"masks have no pixel.*", "splits with masks without a pixel", "export the masks anew", True),
    Kind(
        r"masks are rectangles",
        "splits with rectangles as masks",
        "these look like boxes written as polygons: heads learn no outline from them",
        True,
    ),
    Kind(
        r"are named .*",
        "names of several categories",
        "Roboflow writes the supercategory as a category of its own: delete the one without objects from 'categories', "
        "or name them apart",
        True,
    ),
    Kind(
        rf"(?:{NOTHING}|{NOTHING_VAL}).* crowds.*",
        "splits with crowds only",
        "CVAT exports brush masks as crowds: set iscrowd to 0, or draw polygons there",
        True,
    ),
    Kind(
        rf"{NOTHING}.* bare label ids",
        "splits with groups only",
        "labelIds were copied over instanceIds: an object's pixels are 1000 times the label id plus its number",
        True,
    ),
    Kind(
        rf"(?:{NOTHING}|{NOTHING_VAL}).* is ignored.*",
        "splits that are ignored",
        "if an ignored id is the object (masks of 0 and 255), name it: --classes background=0,object=255 --ignore ''",
        True,
    ),
    Kind(
        rf"(?:{NOTHING}|{NOTHING_VAL}).* left out.*",
        "splits without usable annotations",
        "mend or export them anew",
        True,
    ),
    Kind(
        rf"(?:{NOTHING}|{NOTHING_VAL}).* annotation",
        "splits without annotations",
        "export the annotations as well (some tools export finished ones only)",
        True,
    ),
    Kind(
        rf"(?:{NOTHING}|{NOTHING_VAL}).*",
        "splits of one class",
        "name the ids of the other classes with --classes, or annotate them",
        True,
    ),
    Kind(
        r"no object in either split|in no image of either split",
        "classes that no image has",
        "take them out of the classes, or annotate them",
    ),
    Kind(r"no object in the train split", "classes without an object in the train split", _MERGE_CLASS),
    Kind(r"in no image of the train split", "classes in no image of the train split", _MERGE_CLASS),
    Kind(r"no object in the val split", "classes without an object in the val split", _MEASURE_CLASS),
    Kind(r"in no image of the val split", "classes in no image of the val split", _MEASURE_CLASS),
    Kind(
        r"fewer than .*% of the train pixels",
        "classes with few of the train pixels",
        "learned late, if at all: train longer, or merge it with another class",
    ),
    Kind(
        r"all of its pixels are ignored",
        "images all of whose pixels are ignored",
        "nothing is learned from these: leave them out, or check --ignore",
    ),
    Kind(
        r"different categories",
        "splits with different categories",
        "both files need the same list of categories, with the same ids",
    ),
    Kind(
        rf"all \d+ annotations {BOXES_ONLY}",
        "files with boxes only",
        "export polygons or RLE: in Roboflow Download Dataset, COCO Segmentation; in Label Studio "
        "brush or polygon labels; in CVAT polygons or masks",
        True,
    ),
)


def _kind(problem: str) -> tuple[Kind, re.Match[str]] | None:
    found = ((kind, match) for kind in KINDS if (match := re.search(kind.pattern, problem)))
    return next(found, None)


@dataclass(frozen=True)
class Group:
    """Problems of one kind.

    Attributes:
        title: the number of them and what they are; the problem itself if it is the only one.
        count: how many there are.
        problems: their messages.
        remedy: what to do; empty if nothing is known.
    """

    title: str
    count: int
    problems: tuple[str, ...]
    remedy: str

    @property
    def examples(self) -> tuple[str, ...]:
        """The first of them, without what the title says; none if the title is the problem."""
        return tuple(map(_short, self.problems[:EXAMPLES])) if self.count > 1 else ()


def _short(problem: str) -> str:
    """A problem without what all of its kind have in common."""
    found = _kind(problem)
    if found is None:
        return problem
    kind, match = found
    return problem[: match.end()] if kind.differs else problem[: match.start()].rstrip(": ")


def remedy_of(problem: str) -> str:
    """What to do about a problem; empty if nothing is known."""
    found = _kind(problem)
    return found[0].remedy if found else ""


def group(problems: Sequence[str]) -> list[Group]:
    """Problems by kind: first those that concern a whole file, then the most frequent; those of a remedy together."""
    found: dict[str, list[str]] = {}
    for problem in problems:
        known = _kind(problem)
        found.setdefault(known[0].several if known else problem, []).append(problem)
    groups = [
        Group(f"{len(of):,} {several}" if len(of) > 1 else of[0], len(of), tuple(of), remedy_of(of[0]))
        for several, of in found.items()
    ]
    most: dict[str, int] = {}
    for each in groups:
        key = each.remedy or each.title
        most[key] = max(each.count, most.get(key, 0))
    first = [BOXES_ONLY in each.title for each in groups]
    order = sorted(
        range(len(groups)),
        key=lambda n: (not first[n], -most[groups[n].remedy or groups[n].title], groups[n].remedy, -groups[n].count),
    )
    return [groups[n] for n in order]


def lines(
    problems: Sequence[str],
    label: str,
    *,
    below: Sequence[str] = (),
    remedies: Mapping[str, str] | None = None,
    width: int | None = None,
    every: bool = False,
) -> list[str]:
    """Problems by kind as text: their number and kind, two examples, and the remedy.

    Args:
        problems: the messages.
        label: what stands before each kind, such as "error".
        below: the folders that paths in messages are shown relative to.
        remedies: better ones for this dataset, by a text that the problem has.
        width: of the lines; None for lines of any width.
        every: show all problems, not two of a kind.
    """
    for folder in filter(None, (folder.rstrip("/") for folder in below)):
        problems = [problem.replace(f"{folder}/", "") for problem in problems]
    groups = group(problems)
    hidden = [] if every else groups[MAX_KINDS:]
    groups = groups[: len(groups) - len(hidden)]
    text: list[str] = []

    def add(line: str, indent: str) -> None:
        if width is None:
            text.append(indent + line.replace(UNBROKEN, " "))
        else:
            wrapped = textwrap.wrap(line, max(40, width), initial_indent=indent, subsequent_indent=INDENT,
                                    break_on_hyphens=False, break_long_words=False)  # fmt: skip
            text.extend(part.replace(UNBROKEN, " ") for part in wrapped)

    for number, each in enumerate(groups):
        add(f"{label}: {each.title}", "")
        if every and each.count > 1:
            for problem in each.problems:
                add(_short(problem), INDENT)
        elif each.examples:
            # Names with spaces stay on a line, to be copied.
            shown = "; ".join(example.replace(" ", UNBROKEN) for example in each.examples)
            add(shown + ("; ..." if each.count > EXAMPLES else ""), INDENT)
        better = next((remedy for part, remedy in (remedies or {}).items() if part in each.problems[0]), None)
        last = number + 1 == len(groups) or groups[number + 1].remedy != each.remedy
        if better or (each.remedy and last and not (each.count == 1 and "not a readable image" in each.title)):
            add(f"-> {better or each.remedy}", INDENT)
    if hidden:
        add(f"... and {sum(each.count for each in hidden):,} more of {counted(len(hidden), 'other kind')}", "")
    return text
