"""The files that the page is made from."""

from pathlib import Path

from jinja2 import DictLoader

# Named one by one, because a stage depends on the files that its modules name.
FILES = (
    "layout.html.j2",
    "page.html.j2",
    "headline.html.j2",
    "findings.html.j2",
    "table.html.j2",
    "macros.html.j2",
    "own.html.j2",
    "figures.html.j2",
    "runs.html.j2",
    "confusion.html.j2",
    "page.css",
    "confusion.css",
    "own.css",
    "page.js",
)


def page_loader() -> DictLoader:
    """The templates by their names."""
    return DictLoader({name: (Path(__file__).parent / name).read_text(encoding="utf-8") for name in FILES})
