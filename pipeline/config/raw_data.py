"""Finds out which raw files of the selected datasets are missing, before DVC does, which only names the first file."""

from collections.abc import Sequence

from pipeline.config.locations import is_remote, join
from pipeline.config.project import Project
from pipeline.config.selection import Selection
from pipeline.errors import UserError


class MissingDataError(UserError):
    """Raw files of selected datasets are not there."""


def missing_raw_data(project: Project, selection: Selection, data_root: str, elsewhere: str) -> dict[str, str]:
    """What to tell the user of each dataset whose raw annotations are not there. Nothing is known behind a URI.

    Args:
        project: the project.
        selection: what is selected.
        data_root: the folder or URI that the datasets lie in, relative to the project.
        elsewhere: the command that selects the same with another data root.
    """
    found = {}
    for name, selected in selection.datasets.items():
        dataset = project.dataset(name)
        if dataset.synthetic or is_remote(data_root):
            continue
        files = dict.fromkeys((selected.train, selected.val, selected.lvis))
        missing = [file for file in files if not (project.root / file).exists()]
        if not missing:
            continue
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        obtain = f" How to obtain this data: {dataset.obtain}." if dataset.obtain else ""
        folder = project.root / join(data_root, dataset.root)
        absent = next((each for each in (project.root / data_root, folder) if not each.is_dir()), None)
        place = f"; there is no folder {absent}" if absent else ""
        found[name] = f"dataset {name}: {missing[0]}{more} missing{place}.{obtain} If it lies elsewhere: `{elsewhere}`"
    return found


def refuse_missing(messages: Sequence[str]) -> None:
    """Raises an error if there are messages of :func:`missing_raw_data`.

    Raises:
        MissingDataError: with all of them.
    """
    if messages:
        raise MissingDataError("\n".join(["raw data are missing; nothing was run", *messages]))
