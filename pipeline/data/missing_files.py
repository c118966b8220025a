"""Says how the file names of annotations differ from those of the images that are there."""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath

from pointrend.wording import counted

EXAMPLES = 2


def _base(name: str) -> str:
    # Windows' separators come from tools there.
    return PurePosixPath(name.replace("\\", "/")).name


#: What may differ, as functions that make names alike again, the smallest difference first.
DIFFERENCES: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("only in how accents are encoded", lambda name: unicodedata.normalize("NFC", name)),
    ("only in upper and lower case", str.casefold),
    ("only in the folders before the name", _base),
    ("only in the suffix", lambda name: str(PurePosixPath(name).with_suffix(""))),
    ("in folders, suffix or case", lambda name: PurePosixPath(_base(name).casefold()).stem),
)
REMEDIES = {
    "only in how accents are encoded": "rename the files, or export the annotations on the same kind of machine",
    "only in upper and lower case": "rename the files, or the file_name entries",
    "only in the folders before the name": "give --images (--val-images) that file_name is relative to",
    "only in the suffix": "the images were converted after the export: put the suffix there is into file_name",
    "in folders, suffix or case": "make the file_name entries equal to the files' paths below --images",
}


def examples(names: Iterable[str]) -> str:
    """The first names, with "..." if there are more."""
    names = list(names)
    return ", ".join(names[:EXAMPLES]) + (", ..." if len(names) > EXAMPLES else "")


def explain_missing(names: Sequence[str], present: Sequence[str]) -> str:
    """What to do about file names of which some are not among the files that are present.

    Args:
        names: the file names in the annotations.
        present: the paths of the images in the folder, relative to it.
    """
    there = set(present)
    missing = [name for name in names if name not in there]
    start = f"{len(missing)} of {len(names)} file names are not in the images' folder, "
    if not present:
        return f"{start}which has no image"
    for how, alike in DIFFERENCES:
        known = {alike(name): name for name in present}
        close = [(name, known[alike(name)]) for name in missing if alike(name) in known]
        if close:
            name, other = close[0]
            of = "" if len(close) == len(missing) else f"{len(close)} of them "
            return f"{start}{of}differing {how}: {name} is {other}; {REMEDIES[how]}"
    return f"{start}e.g. {examples(missing)}; it has {counted(len(present), 'image')}, e.g. {examples(sorted(present))}"
