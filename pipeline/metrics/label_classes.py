"""The classes of label PNGs as `pointrend score miou` is told them."""

from dataclasses import replace

from pipeline.config.labels import LabelTable
from pipeline.data.labels import CITYSCAPES, CITYSCAPES_TRAIN_IDS, plain

EXPECTED = (
    "expected a number of classes, such as 3, names in the order of the ids from 0, such as sky,road, or 7=road,26=car"
)


def label_table(classes: str, ignored: str, truth_suffix: str, *, train: bool = False) -> LabelTable:
    """The table of label ids.

    Args:
        classes: how many classes, their names in the order of their ids from 0, or ``id=name`` for each; separated by
            commas. Empty for Cityscapes' label ids.
        ignored: ids that do not count, separated by commas; they are no classes even where ``classes`` has them. By
            default 255, or what Cityscapes ignores; "none" for none.
        train: Cityscapes' train ids instead of its label ids.
        truth_suffix: how the ground-truth files end, see :class:`LabelTable`.

    Raises:
        ValueError: saying what is wrong with one of them.
    """
    if not classes:
        table = CITYSCAPES_TRAIN_IDS if train else CITYSCAPES
        table = replace(table, truth_suffix=truth_suffix or table.truth_suffix)
        ids = () if ignored in ("", "none") else _ids(ignored)
        return _without(table, (*table.ignored, *(id_ for id_ in ids if id_ not in table.ignored)))
    table = replace(_parse(classes), truth_suffix=truth_suffix)
    return _without(table, () if ignored == "none" else _ids(ignored or "255"))


def same_classes(table: LabelTable, *, train: bool) -> LabelTable:
    """The table of Cityscapes' train ids, or of its label ids, with the classes of another table in its order."""
    every = CITYSCAPES_TRAIN_IDS if train else CITYSCAPES
    id_of = dict(zip(every.names, every.ids, strict=True))
    others = tuple(id_ for name, id_ in id_of.items() if name not in table.names)
    return LabelTable(table.names, tuple(id_of[name] for name in table.names), (*every.ignored, *others))


def _parse(classes: str) -> LabelTable:
    if classes.isdecimal():
        return plain(int(classes))
    parts = [part.strip() for part in classes.split(",")]
    pairs = [part.partition("=") for part in parts]
    named = [bool(equals) for _, equals, _ in pairs]
    if not all(parts) or any(named) != all(named):
        raise ValueError(f"{classes!r}; {EXPECTED}")
    names = tuple(name.strip() if equals else first for first, equals, name in pairs)
    if len(set(names)) < len(names):
        raise ValueError(f"{classes!r} names a class twice")
    return LabelTable(
        names, _ids(",".join(first for first, _, _ in pairs)) if all(named) else tuple(range(len(names))), ()
    )


def _ids(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"{text!r}; expected ids from 0, separated by commas")
    return tuple(dict.fromkeys(map(int, parts)))


def _without(table: LabelTable, ignored: tuple[int, ...]) -> LabelTable:
    kept = [(name, id_) for name, id_ in zip(table.names, table.ids, strict=True) if id_ not in ignored]
    if not kept:
        raise ValueError("every class is ignored")
    names, ids = zip(*kept, strict=True)
    return LabelTable(names, ids, ignored, table.truth_suffix)
