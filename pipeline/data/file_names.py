"""Finds the files that annotations mean by names that other tools or systems wrote."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from pipeline.config.locations import is_remote
from pipeline.data.storage import Storage
from pointrend.wording import counted

EXAMPLES = 2


def is_hidden(name: str) -> bool:
    """Whether a file is one that systems keep beside others: ``._a.jpg``, ``.DS_Store``, what is in ``__MACOSX``."""
    parts = PurePosixPath(name).parts
    return any((part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in parts)


def lower_extension(name: str) -> str:
    """A path with its extension in lower case: ``a/B.PNG`` is ``a/B.png``."""
    stem, dot, extension = name.rpartition(".")
    return f"{stem}{dot}{extension.lower()}"


def resolved_names(storage: Storage, folder: str, names: Sequence[str]) -> dict[str, str]:
    """The files below a folder that names mean, by those names that are not the files' own.

    A name that is there is itself. Others may have Windows' separators, %20 for a space, .JPG for .jpg, a folder's name
    twice, or a path of the machine that wrote them; they stand for a file if no other could be meant. The folder is
    listed only if a file is missing; in a remote storage, only if a name looks like one of these.
    """
    repeated = {*PurePosixPath(folder).parts, PurePosixPath(storage.root).name} - {"."}
    if is_remote(storage.root):
        complete = not any(_may_differ(name, repeated) for name in names)
    else:
        complete = all(Path(storage.root, folder, name).is_file() for name in names)
    if complete:
        return {}
    there = {name.removeprefix(f"{folder}/") for name in storage.files(folder)}
    by_path, by_base = dict[str, list[str]](), dict[str, list[str]]()
    for name in there:
        by_path.setdefault(lower_extension(name), []).append(name)
        by_base.setdefault(PurePosixPath(name).name, []).append(name)
    found = {}
    for name in names:
        if name in there:
            continue
        readings = _readings(name, repeated)
        meant = {file for reading in readings for file in by_path.get(lower_extension(reading), [])}
        if not meant:  # a path of another machine is its last part
            last = {PurePosixPath(reading).name for reading in readings if _is_foreign(reading)}
            meant = {file for base in last for file in by_base.get(base, [])}
        if len(meant) == 1:
            found[name] = meant.pop()
    return found


def _may_differ(name: str, repeated: Collection[str]) -> bool:
    return (
        "\\" in name
        or "%" in name
        or name.startswith(("/", "."))
        or name != lower_extension(name)
        or ("/" in name and name.partition("/")[0] in repeated)
    )


def _is_foreign(name: str) -> bool:
    return name.startswith("/") or name[1:3] == ":/"


def _readings(name: str, repeated: Collection[str]) -> list[str]:
    """What a name can be once separators, escapes and repeated folders are as here."""
    slashes = name.replace("\\", "/")
    found = []
    for text in dict.fromkeys((slashes, unquote(slashes))):
        parts = [part for part in text.split("/") if part != "."]
        found.append("/".join(parts))
        while len(parts) > 1 and parts[0] in repeated:
            parts = parts[1:]
            found.append("/".join(parts))
    return found


def names_note(found: Mapping[str, str]) -> str:
    """Says which names were taken for which files; empty for none."""
    if not found:
        return ""
    shown = "; ".join(f"{name} is {file}" for name, file in list(found.items())[:EXAMPLES])
    more = "; ..." if len(found) > EXAMPLES else ""
    count = counted(len(found), "file name")
    return f"{count} written as on another system, in another case or with a folder twice: {shown}{more}"


def affixes(images: Iterable[str], labels: Iterable[str]) -> str:
    """How the names of label files differ from those of images: "the suffix '_mask'"; empty if no rule fits most.

    Args:
        images: paths without extensions.
        labels: the same of label files.
    """
    images, labels = list(images), list(labels)
    stems = set(images)
    ends = Counter(
        stem[at:] for stem in labels for at in range(1, len(stem)) if stem[at] in "_-." and stem[:at] in stems
    )
    if ends and ends.most_common(1)[0][1] * 2 > len(stems):
        return f"set suffix: {ends.most_common(1)[0][0]}"
    pairs = Counter(
        (image[at:], label[at:])
        for image, label in zip(sorted(images), sorted(labels), strict=False)
        for at in [_common(image, label)]
        if at
    )
    if pairs and len(images) == len(labels) and pairs.most_common(1)[0][1] * 2 > len(stems):
        ours, theirs = pairs.most_common(1)[0][0]
        return f"images end in {ours!r}, labels in {theirs!r}: rename the images so that only labels have a suffix"
    fronts = Counter(
        (image.removesuffix(tail), label.removesuffix(tail))
        for image, label in zip(sorted(images), sorted(labels), strict=False)
        if (tail := _common_end(image, label))
    )
    if fronts and len(images) == len(labels) and fronts.most_common(1)[0][1] * 2 > len(stems):
        ours, theirs = fronts.most_common(1)[0][0]
        return f"images begin with {ours!r} and labels with {theirs!r}: rename the labels to the images' names"
    return ""


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with in common, to the last separator."""
    at = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    while at and one[at - 1] not in "_-.":
        at -= 1
    return max(at - 1, 0)


def _common_end(one: str, other: str) -> str:
    at = _common(one[::-1], other[::-1])
    return one[len(one) - at - 1 :] if at else ""
