"""A figure of the report."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A picture with the texts of its section of the page.

    Args:
        title: the section's title.
        caption: what the picture shows.
        file: the name of the PNG in the report's folder.
    """

    title: str
    caption: str
    file: str
