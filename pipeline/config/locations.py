"""Where raw data lie: paths on this machine, and URIs."""

from pathlib import Path


def is_remote(root: str) -> bool:
    """Whether a data root is a URI rather than a path of this machine."""
    return "://" in root


def drawn_folder(scale: str) -> str:
    """The folder of the drawn datasets of a scale, relative to the project's root."""
    return f"outputs/{scale}/drawn"


def join(root: str, name: str) -> str:
    """A path below a data root: ``name`` itself where it is absolute. What follows a URI's "?" stays at its end."""
    if name.startswith("/") or is_remote(name):
        return name
    if not is_remote(root):
        return str(Path(root) / name)
    address, mark, options = root.partition("?")
    return f"{address.rstrip('/')}/{name}{mark}{options}"
