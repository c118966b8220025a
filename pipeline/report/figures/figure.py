"""A picture of the report."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """What the page shows under a title.

    Args:
        title: of its section.
        caption: what there is to see.
        file: the PNG, in the report's folder.
    """

    title: str
    caption: str
    file: str
