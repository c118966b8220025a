"""Finds the files that annotations mean by names that other tools or systems wrote."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from urllib.parse import unquote

from pipeline.data.storage import Storage
from pointrend.wording import counted

EXAMPLES = 2


def is_hidden(name: str) -> bool:
    """Whether a file is one that systems keep beside others: ``._a.jpg``, ``.DS_Store``, what is in ``__MACOSX``."""
    parts = PurePosixPath(name).parts
    return any((part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in parts)


def resolved_names(storage: Storage, folder: str, names: Sequence[str]) -> dict[str, str]:
    """The files below a folder that names mean, by those names that are not the files' own.

    A name that is there is itself. Others may have Windows' separators, %20 for a space, the folder's own name before
    them, or a path of the machine that wrote them; they stand for a file if no other could be meant.
    """
    suspicious = [name for name in names if _may_differ(name, folder)]
    if not suspicious:
        return {}
    there = {name.removeprefix(f"{folder}/") for name in storage.files(folder)}
    bases = Counter(PurePosixPath(name).name for name in there)
    paths = {PurePosixPath(name).name: name for name in there}
    found = {}
    for name in suspicious:
        if name in there:
            continue
        plain = _readings(name, folder)
        candidates = {reading for reading in plain if reading in there}
        if not candidates:  # a path of another machine: its last part, if one file alone has it
            last = {PurePosixPath(each).name for each in plain if _is_foreign(each)}
            candidates = {paths[base] for base in last if bases[base] == 1}
        if len(candidates) == 1:
            found[name] = candidates.pop()
    return found


def _may_differ(name: str, folder: str) -> bool:
    first = name.partition("/")[0]
    return "\\" in name or "%" in name or name.startswith(("/", ".")) or ("/" in name and first in _parts(folder))


def _parts(folder: str) -> Collection[str]:
    return {part for part in PurePosixPath(folder).parts if part != "."}


def _is_foreign(name: str) -> bool:
    return name.startswith("/") or name[1:3] == ":/"


def _readings(name: str, folder: str) -> list[str]:
    """What a name can be once separators, escapes and repeated folders are as here."""
    slashes = name.replace("\\", "/")
    found = []
    for text in dict.fromkeys((slashes, unquote(slashes))):
        parts = [part for part in text.split("/") if part != "."]
        found.append("/".join(parts))
        while len(parts) > 1 and parts[0] in _parts(folder):
            parts = parts[1:]
            found.append("/".join(parts))
    return found


def names_note(found: Mapping[str, str]) -> str:
    """Says which names were taken for which files; empty for none."""
    if not found:
        return ""
    shown = "; ".join(f"{name} is {file}" for name, file in list(found.items())[:EXAMPLES])
    more = "; ..." if len(found) > EXAMPLES else ""
    return f"{counted(len(found), 'file name')} written as on another system or with a folder twice: {shown}{more}"


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
