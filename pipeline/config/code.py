"""Lists the code of a kind of stage: its modules, each with a digest, and the versions of the libraries it uses.

`configure` writes the list of each kind to a file, and DVC's stages depend on those files. So an edit re-runs only the
stages whose results it can change. The modules are found from the imports in the source files, without executing them.
"""

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

PACKAGES = ("pointrend", "pipeline", "stages")
_DYNAMIC = {"import_module", "__import__"}


class CodeError(UserError):
    """An import cannot be followed, or a module or library is missing."""


@dataclass(frozen=True)
class Kind:
    """Where the code of a kind of stage begins, and what belongs to it.

    Attributes:
        roots: dotted names of the modules in which the computation begins.
        libraries: distributions whose version can change the results.
        without: modules and packages that only schedule, log or show progress, and so cannot change the results. They
            are neither listed nor followed.
        lazy: whether imports inside functions are followed. Not for trainings and evaluations: models import what only
            inference needs inside the functions that infer. A test checks with a profiler that a training and an
            evaluation execute no function outside the listed modules.
    """

    roots: tuple[str, ...]
    libraries: tuple[str, ...]
    without: tuple[str, ...]
    lazy: bool = True


# Modules that schedule, log, store or show. pipeline.config is among them because the stages depend on the resolved
# configuration, which `configure` writes.
_WITHOUT = (
    "pipeline.config",
    "pipeline.errors",
    "pipeline.files",
    "pipeline.progress",
    "pipeline.training.run_log",
    "pipeline.training.metrics_file",
    "pointrend.files",
)
_NETWORK = ("numpy", "pillow", "safetensors", "torch", "torchvision")
_SCORES = ("cityscapesscripts", "lvis", "pycocotools", "scipy")

_TRAIN = {
    "instance": ("pipeline.training.run", "pipeline.data.dataset", "pointrend.instance_models"),
    "semantic": ("pipeline.training.run", "pipeline.data.semantic_dataset", "pointrend.semantic_models"),
}
_EVALUATE = {
    "instance": (
        "pipeline.evaluation.run",
        "pipeline.evaluation.instances",
        "pipeline.evaluation.instance_scores",
        "pointrend.instance_inference",
        "pointrend.instance_models",
        "pointrend.rendering",
    ),
    "semantic": (
        "pipeline.evaluation.run",
        "pipeline.evaluation.semantics",
        "pipeline.evaluation.semantic_scores",
        "pointrend.semantic_inference",
        "pointrend.semantic_models",
    ),
}
_SWEEP = ("pipeline.sweep.trial", "pipeline.sweep.subdivision", "pipeline.sweep.subset", "pipeline.sweep.search")


# Every kind of stage, by its name and task.
KINDS: dict[tuple[str, ...], Kind] = {
    ("generate",): Kind(
        ("pipeline.synthetic.shapes", "pipeline.synthetic.streets"), ("numpy", "pillow", "pycocotools"), _WITHOUT
    ),
    ("prepare",): Kind(("pipeline.data.prepare",), ("numpy", "pillow", "pyarrow", "pycocotools"), _WITHOUT),
    ("report",): Kind(
        ("stages.report",), (*_NETWORK, "jinja2", "matplotlib", "pyarrow", "scipy"), ("pipeline.tracking",)
    ),
}
for _task, _train in _TRAIN.items():
    _evaluate = _EVALUATE[_task]
    KINDS["train", _task] = Kind(_train, _NETWORK, _WITHOUT, lazy=False)
    # A part of the training of a run that validates; of no other, see `Project.training`.
    KINDS["validate", _task] = Kind(
        (*_evaluate, "pipeline.evaluation.validation"), (*_NETWORK, *_SCORES), _WITHOUT, lazy=False
    )
    _timed = ("pipeline.evaluation.speed",) if _task == "instance" else ()
    KINDS["evaluate", _task] = Kind((*_evaluate, *_timed), (*_NETWORK, *_SCORES), _WITHOUT, lazy=False)
    KINDS["sweep", _task] = Kind(
        (*_train, *_evaluate, *_SWEEP),
        (*_NETWORK, *_SCORES, "optuna", "ray"),
        (*_WITHOUT, "pipeline.cluster", "pipeline.tracking"),
        lazy=False,
    )


def code_folder(root: Path) -> Path:
    """The folder with the packages that a project's stages run: a checkout itself, or else where they are installed.

    Stages run as ``python -m stages.NAME`` in the project, so Python looks there first.
    """
    return root if (root / "pipeline" / "__init__.py").is_file() else Path(__file__).parents[2]


def code_of(root: Path, *kind: str) -> dict[str, dict[str, str]]:
    """The code of a kind of stage.

    Args:
        root: the project's folder, see :func:`code_folder`.
        kind: stage, and task where the stage's code differs by task, such as ``"train", "instance"``.

    Returns:
        ``{"modules": {name: digest}, "libraries": {name: version}}``. Python's own version is not included.

    Raises:
        CodeError: see `modules` and `library_versions`.
        KeyError: if there is no such kind.
    """
    entry = KINDS[kind]
    return {
        "modules": modules(code_folder(root), entry.roots, lazy=entry.lazy, without=entry.without),
        "libraries": library_versions(entry.libraries),
    }


def digest(code: dict[str, Any]) -> str:
    """A hash (16 hex digits) of the result of `code_of`, independent of the order of its keys."""
    return _hash(json.dumps(code, sort_keys=True).encode())


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """The installed versions of distributions, without local suffixes such as ``+cu128``.

    The CPU and the CUDA build of a release contain the same algorithms. With the suffix, everything trained on a
    cluster with GPUs would be stale on a machine without a GPU, which could then neither evaluate nor report it.

    Raises:
        CodeError: if a distribution is not installed.
    """
    versions = {}
    for name in sorted(names):
        try:
            versions[name] = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            raise CodeError(f"{name}: not installed; results depend on its version, so install it") from None
    return versions


def modules(root: Path, roots: Iterable[str], *, lazy: bool, without: Iterable[str] = ()) -> dict[str, str]:
    """The project's modules that are imported from the roots, directly or not, and their data files, with digests.

    - Imports at module level are followed, also inside ``if``, ``try`` and class bodies; those inside functions only
      with ``lazy``. Imports under ``if TYPE_CHECKING:`` are never followed.
    - ``from package import name`` means the module ``package.name`` where there is one, otherwise ``package``.
    - A package's ``__init__`` counts if it is imported by name, not if only a module inside the package is imported.
    - A package whose ``__init__`` defines ``__getattr__``, as `pointrend` does, loads names from modules that its
      imports do not show. So a name must be imported from the module that defines it.
    - A data file is a file in a module's folder whose name appears as a string in that module.
    - The digest of a module (16 hex digits) is that of its syntax tree without docstrings, so it ignores comments,
      docstrings and formatting. The digest of a data file is that of its bytes.

    Args:
        root: folder of the project, which contains the packages.
        roots: dotted names of the modules to begin with.
        lazy: whether to follow imports inside functions.
        without: modules and packages that are neither listed nor followed.

    Returns:
        Digests by dotted module name, or by path below ``root`` for data files, sorted.

    Raises:
        CodeError: if a root, an imported module or one of ``without`` does not exist; for a relative or a star import,
            a call of ``import_module`` or ``__import__``, and a name that is imported from a package with
            ``__getattr__``.
    """
    left_out = tuple(without)
    for name in left_out:
        if _file_of(root, name) is None:
            raise CodeError(f"{name}: left out of the code's digest, but there is no such module below {root}")
    found: dict[str, str] = {}
    waiting: list[str] = []
    for name in roots:
        if _file_of(root, name) is None:
            raise CodeError(f"{name}: no such module below {root}")
        if _lies_in(name, left_out):
            raise CodeError(f"{name}: is to be followed and to be left out of the code's digest; drop one of the two")
        waiting.append(name)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        file = _file_of(root, name)
        assert file is not None  # it was there when the name was put on the list
        module = _parse(file, file.read_bytes())
        if module.problem:
            raise CodeError(module.problem)
        found[name] = module.digest
        found |= _data_files(root, file, module)
        for imported in module.imports:
            if lazy or not imported.lazy:
                waiting.extend(_targets(root, file, imported, left_out))
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class _Import:
    """One name of an import statement: ``import module``, or ``from module import name``."""

    line: int
    module: str
    name: str | None
    lazy: bool


@dataclass(frozen=True)
class _Module:
    digest: str
    imports: tuple[_Import, ...]
    strings: frozenset[str]
    loads_lazily: bool
    problem: str | None


def _targets(root: Path, importer: Path, imported: _Import, without: tuple[str, ...]) -> Iterator[str]:
    """The module that an import statement loads; nothing if it is not the project's or is left out."""
    at = f"{importer}:{imported.line}"
    submodule = f"{imported.module}.{imported.name}"
    if imported.module.partition(".")[0] not in PACKAGES or _lies_in(imported.module, without):
        return
    if imported.name is not None and _file_of(root, submodule) is not None:
        if not _lies_in(submodule, without):
            yield submodule
        return
    file = _file_of(root, imported.module)
    if file is None:
        raise CodeError(f"{at}: imports {imported.module}, but there is no such module below {root}")
    if file.name == "__init__.py" and _parse(file, file.read_bytes()).loads_lazily:
        what = "the package" if imported.name is None else imported.name
        raise CodeError(
            f"{at}: imports {what} from {imported.module}, which loads names on first use, so the modules behind them "
            f"cannot be found; import it from the module that defines it, {imported.module}.<module>"
        )
    yield imported.module


def _file_of(root: Path, name: str) -> Path | None:
    path = root.joinpath(*name.split("."))
    for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
        if file.is_file():
            return file
    return None


def _lies_in(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _data_files(root: Path, file: Path, module: _Module) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): _hash(path.read_bytes())
        for path in file.parent.iterdir()
        if path.name in module.strings and path.suffix != ".py" and path.is_file()
    }


@cache
def _parse(file: Path, source: bytes) -> _Module:
    """Parses a file; cached by content, so that a file is parsed once for all kinds of stages."""
    tree = ast.parse(source, filename=file)
    _drop_docstrings(tree)
    strings, problems = set(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                strings.add(node.value)
        elif isinstance(node, ast.ImportFrom | ast.Attribute | ast.Name) and (problem := _problem(node)):
            problems.append(f"{file}:{node.lineno}: {problem}")
    return _Module(
        _hash(_syntax(tree).encode()),
        tuple(_imports(tree.body, lazy=False)),
        frozenset(strings),
        any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body),
        problems[0] if problems else None,
    )


def _drop_docstrings(node: ast.AST) -> None:
    """Removes the statements that do nothing, in place: docstrings, other bare strings, and ``pass``.

    ``pass`` is removed as well, because adding a docstring to an empty body replaces it.
    """
    for field in ("body", "orelse", "finalbody"):
        statements = getattr(node, field, None)
        if statements:
            statements[:] = [s for s in statements if not (isinstance(s, ast.Pass) or _is_bare_string(s))]
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):
            _drop_docstrings(child)


def _is_bare_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _syntax(node: Any) -> str:
    """A syntax tree as text, without positions.

    The text of `ast.dump` differs between Python versions: newer versions have more fields and omit empty lists. This
    one omits every empty field, ``ctx``, which follows from a node's place, and ``kind``, the ``u`` of ``u""``.
    """
    if isinstance(node, ast.Constant):
        return f"{type(node.value).__name__} {node.value!a}"
    if isinstance(node, ast.AST):
        fields = [
            f"{field}={_syntax(value)}"
            for field in node._fields
            if field not in ("ctx", "kind") and (value := getattr(node, field, None)) is not None and value != []
        ]
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join([_syntax(item) for item in node])}]"
    return ascii(node)


def _imports(nodes: Iterable[ast.AST], *, lazy: bool) -> Iterator[_Import]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (_Import(node.lineno, alias.name, None, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (_Import(node.lineno, node.module or "", alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            yield from _imports(node.orelse, lazy=lazy)
        elif not isinstance(node, ast.expr):
            inside_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from _imports(ast.iter_child_nodes(node), lazy=lazy or inside_function)


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"


def _problem(node: ast.ImportFrom | ast.Attribute | ast.Name) -> str | None:
    """Why an import cannot be followed, and what to do; None if it can, or if the node is no import."""
    if isinstance(node, ast.ImportFrom):
        if node.level:
            return "a relative import; import the module by its full name"
        if node.names[0].name == "*":
            return f"imports * from {node.module}; import the names that are used"
        names = {alias.name for alias in node.names}
    else:
        names = {node.attr if isinstance(node, ast.Attribute) else node.id}
    if names & _DYNAMIC:
        return "imports a module by a name known only at run time; use an import statement"
    return None


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
