"""The files of a project beside its Python packages. The wheel carries them, and `pointrend init` copies them.

`setup.py` runs this file by itself, so it imports nothing of the project.
"""

from pathlib import Path

PATTERNS = (
    ".dvc/.gitignore",
    ".dvc/config",
    ".dvc/plots/*.json",
    ".dvcignore",
    ".gitignore",
    "configs/**/*.yaml",
    "dvc.yaml",
    "stages/run",
)
#: Where an installed package has them; in a checkout they lie beside the packages.
INSTALLED = Path("pipeline") / "project"


def project_files(folder: Path) -> list[Path]:
    """The project's files in a folder, relative to it.

    Raises:
        FileNotFoundError: if the folder has none for a pattern.
    """
    found = {pattern: sorted(folder.glob(pattern)) for pattern in PATTERNS}
    if missing := [pattern for pattern, paths in found.items() if not paths]:
        raise FileNotFoundError(f"{folder}: has no {', '.join(missing)}; expected the files of a project")
    return [path.relative_to(folder) for paths in found.values() for path in paths]


def find_project_files() -> Path:
    """The folder that has the files for a new project: of the installed package, or the checkout that this is."""
    packages = Path(__file__).parents[1]
    installed = packages / INSTALLED
    return installed if installed.is_dir() else packages
