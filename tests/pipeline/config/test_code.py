"""Which modules a stage computes with, and what changes their digests."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.code import KINDS, CodeError, code_of, digest, library_versions, modules

ROOT = Path(__file__).parents[3]
COMPUTES = '''"""What this does."""

import math


class Circle:
    """A circle."""

    def area(self, radius: float = 1.0) -> float:
        """Its area."""
        if radius < 0:
            raise ValueError("negative")
        return math.pi * radius**2
'''
# Between which lines of COMPUTES a comment can stand, inside no string.
GAPS = range(1, COMPUTES.count("\n") + 1)


def write(root: Path, **sources: str) -> Path:
    """Make a project of modules. Their names have ``__`` for each dot; ``package__init`` is a package's own file."""
    for name, source in sources.items():
        *folders, module = name.split("__")
        file = root.joinpath(*folders, f"{module.replace('init', '__init__')}.py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
        for folder in file.parents:
            if folder == root:
                break
            (folder / "__init__.py").touch()
    return root


def digest_of(root: Path, source: str) -> str:
    write(root, pipeline__a=source)
    return modules(root, ["pipeline.a"], lazy=True)["pipeline.a"]


class TestDigest:
    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ('"""What this does."""', ""),
            ('"""What this does."""', '"""Something else."""'),
            ('"""A circle."""', '"""A circle.\n\n    Round.\n    """'),
            ('        """Its area."""\n', ""),
            ("import math", "import math  # for pi"),
            ("import math\n\n", "import math\n\n\n# A comment\n\n"),
            ('raise ValueError("negative")', "raise ValueError('negative')"),
            ("math.pi * radius**2", "(\n            math.pi\n            * radius ** 2\n        )"),
            ("        if radius < 0", '        "A string of its own."\n        if radius < 0'),
        ],
    )
    def test_comments_docstrings_and_formatting_do_not_change_it(self, tmp_path: Path, old: str, new: str) -> None:
        assert old in COMPUTES
        assert digest_of(tmp_path, COMPUTES.replace(old, new)) == digest_of(tmp_path, COMPUTES)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("radius", "r"),
            ("**2", "**3"),
            ("**2", "**2.0"),
            ("= 1.0", "= 2.0"),
            ("= 1.0", ""),
            (": float = 1.0", ": int = 1.0"),
            ("-> float", "-> int"),
            ("radius < 0", "radius <= 0"),
            ("math.pi * radius", "math.pi + radius"),
            ("    def area", "    @staticmethod\n    def area"),
            ('"negative"', '"below zero"'),
            ("class Circle:", "class Circle(tuple):"),
            ("import math\n", "import math\nimport cmath\n"),
        ],
    )
    def test_anything_else_changes_it(self, tmp_path: Path, old: str, new: str) -> None:
        assert old in COMPUTES
        assert digest_of(tmp_path, COMPUTES.replace(old, new)) != digest_of(tmp_path, COMPUTES)

    @settings(deadline=None)
    @given(added=st.lists(st.tuples(st.sampled_from(GAPS), st.sampled_from(["", "# why", "    # deep", "\t"]))))
    def test_blank_lines_and_comments_between_lines_never_change_it(
        self, tmp_path_factory: pytest.TempPathFactory, added: list[tuple[int, str]]
    ) -> None:
        root = tmp_path_factory.getbasetemp() / "lines"
        lines = COMPUTES.splitlines()
        for gap, line in sorted(added, reverse=True):
            lines.insert(gap, line)
        assert digest_of(root, "\n".join(lines)) == digest_of(root, COMPUTES)

    def test_a_docstring_may_stand_for_pass(self, tmp_path: Path) -> None:
        assert digest_of(tmp_path, "class A:\n    pass") == digest_of(tmp_path, 'class A:\n    "Empty."')

    @pytest.mark.parametrize("constants", [("1", "True"), ("None", "'None'"), ("b'a'", "'a'"), ("'1'", "1")])
    def test_constants_of_different_types_differ(self, tmp_path: Path, constants: tuple[str, str]) -> None:
        first, second = (digest_of(tmp_path, f"x = {constant}") for constant in constants)
        assert first != second

    def test_nesting_counts(self, tmp_path: Path) -> None:
        inside = digest_of(tmp_path, "if a:\n    b()\n    c()")
        assert inside != digest_of(tmp_path, "if a:\n    b()\nc()")

    def test_is_the_same_on_every_python(self, tmp_path: Path) -> None:
        """Pinned on 3.11; a newer Python, whose syntax trees have more fields, must come to it as well."""
        assert digest_of(tmp_path, "def f(x, *, y=None):\n    return {**x, 'y': y, 'z': u'ü'}\n") == "df19dc798a5d7135"


class TestModules:
    def test_follows_imports_at_module_level(self, tmp_path: Path) -> None:
        write(
            tmp_path,
            pipeline__a="import os\nimport pipeline.b\nfrom pipeline import c\nfrom pipeline.d import name",
            pipeline__b="if os:\n    import pipeline.e",
            pipeline__c="try:\n    import pipeline.f\nexcept ImportError:\n    import pipeline.g\nfinally:\n    x = 1",
            pipeline__d="class A:\n    from stages.h import name",
            pipeline__e="with open('x'):\n    for x in y:\n        import pointrend.i",
            pipeline__f="",
            pipeline__g="",
            stages__h="",
            pointrend__i="match x:\n    case 1:\n        import pipeline.j",
            pipeline__j="",
            pipeline__unused="import pipeline.a",
        )
        found = modules(tmp_path, ["pipeline.a"], lazy=False)
        assert list(found) == [*(f"pipeline.{m}" for m in "abcdefgj"), "pointrend.i", "stages.h"]

    @pytest.mark.parametrize("function", ["def f():", "async def f():", "class A:\n  def f(self):"])
    def test_follows_imports_inside_functions_only_if_lazy(self, tmp_path: Path, function: str) -> None:
        write(tmp_path, pipeline__a=f"{function}\n    if x:\n        import pipeline.b", pipeline__b="")
        assert list(modules(tmp_path, ["pipeline.a"], lazy=False)) == ["pipeline.a"]
        assert list(modules(tmp_path, ["pipeline.a"], lazy=True)) == ["pipeline.a", "pipeline.b"]

    @pytest.mark.parametrize("test", ["TYPE_CHECKING", "typing.TYPE_CHECKING"])
    def test_never_follows_imports_for_type_checking(self, tmp_path: Path, test: str) -> None:
        source = f"import typing\nif {test}:\n    import pipeline.missing\nelse:\n    import pipeline.b"
        write(tmp_path, pipeline__a=source, pipeline__b="")
        assert list(modules(tmp_path, ["pipeline.a"], lazy=True)) == ["pipeline.a", "pipeline.b"]

    def test_cycles_end(self, tmp_path: Path) -> None:
        write(tmp_path, pipeline__a="import pipeline.b", pipeline__b="import pipeline.a\nimport pipeline.b")
        assert list(modules(tmp_path, ["pipeline.a"], lazy=False)) == ["pipeline.a", "pipeline.b"]

    def test_a_name_of_a_package_is_its_init(self, tmp_path: Path) -> None:
        write(
            tmp_path,
            pipeline__a="from pipeline.sub import name",
            pipeline__sub__init="from pipeline.sub.b import name",
            pipeline__sub__b="",
        )
        assert list(modules(tmp_path, ["pipeline.a"], lazy=False)) == ["pipeline.a", "pipeline.sub", "pipeline.sub.b"]
        assert list(modules(tmp_path, ["pipeline.sub.b"], lazy=False)) == ["pipeline.sub.b"]

    def test_leaves_out_what_cannot_change_results(self, tmp_path: Path) -> None:
        write(
            tmp_path,
            pipeline__a="import pipeline.log\nfrom pipeline import cluster\nfrom pipeline.cluster import jobs\n"
            "from pipeline.cluster.jobs import name\nimport pipeline.logic",
            pipeline__log="import pipeline.b",
            pipeline__logic="",
            pipeline__b="",
            pipeline__cluster__jobs="",
        )
        found = modules(tmp_path, ["pipeline.a"], lazy=False, without=["pipeline.log", "pipeline.cluster"])
        assert list(found) == ["pipeline.a", "pipeline.logic"]

    def test_data_files_beside_a_module_count_by_their_bytes(self, tmp_path: Path) -> None:
        write(tmp_path, pipeline__a='"""Reads unread.yaml."""\nread("names.yaml", "elsewhere.yaml", "a.py")')
        for path in ("names.yaml", "unread.yaml", "sub/elsewhere.yaml"):
            (tmp_path / "pipeline" / path).parent.mkdir(exist_ok=True)
            (tmp_path / "pipeline" / path).write_text("a: 1")
        before = modules(tmp_path, ["pipeline.a"], lazy=False)
        (tmp_path / "pipeline/names.yaml").write_text("a: 1\n")
        after = modules(tmp_path, ["pipeline.a"], lazy=False)
        assert list(before) == list(after) == ["pipeline.a", "pipeline/names.yaml"]
        assert before["pipeline.a"] == after["pipeline.a"]
        assert before["pipeline/names.yaml"] != after["pipeline/names.yaml"]

    def test_executes_nothing(self, tmp_path: Path) -> None:
        write(tmp_path, pipeline__a="raise SystemExit('executed')")
        assert list(modules(tmp_path, ["pipeline.a"], lazy=True)) == ["pipeline.a"]


class TestErrors:
    @pytest.mark.parametrize(
        ("source", "line", "message"),
        [
            ("x = 1\nfrom . import b", 2, "relative import; import the module by its full name"),
            ("from .b import name", 1, "relative import"),
            ("from pipeline.b import *", 1, r"imports \* from pipeline.b; import the names that are used"),
            ("import importlib\nb = importlib.import_module('pipeline.b')", 2, "known only at run time"),
            ("from importlib import import_module as load\nload('pipeline.b')", 1, "known only at run time"),
            ("def f():\n    return __import__('pipeline.b')", 2, "known only at run time"),
            ("x = 1\nimport pipeline.missing", 2, "imports pipeline.missing, but there is no such module"),
            ("from pipeline.missing import name", 1, "imports pipeline.missing, but there is no such module"),
            ("\nfrom pointrend import load_weights", 2, "imports load_weights from pointrend, which loads names on"),
            ("import pointrend", 1, "imports the package from pointrend, which loads names on first use"),
        ],
    )
    def test_an_import_that_cannot_be_followed_is_named(
        self, tmp_path: Path, source: str, line: int, message: str
    ) -> None:
        write(
            tmp_path,
            pipeline__a="import pipeline.c",
            pipeline__b="",
            pipeline__c=source,
            pointrend__init="from importlib import import_module\ndef __getattr__(name):\n    import_module(name)",
            pointrend__weights="",
        )
        file = tmp_path / "pipeline/c.py"
        with pytest.raises(CodeError, match=rf"^{file}:{line}: .*{message}"):
            modules(tmp_path, ["pipeline.a"], lazy=False)

    def test_modules_of_a_lazy_package_can_be_imported(self, tmp_path: Path) -> None:
        source = "from pointrend import weights\nfrom pointrend.weights import name\nimport pointrend.weights"
        write(tmp_path, pipeline__a=source, pointrend__init="def __getattr__(name):\n    ...", pointrend__weights="")
        assert list(modules(tmp_path, ["pipeline.a"], lazy=False)) == ["pipeline.a", "pointrend.weights"]

    def test_files_that_are_not_followed_may_hold_anything(self, tmp_path: Path) -> None:
        write(tmp_path, pipeline__a="def f():\n    import pipeline.b", pipeline__b="from . import a")
        assert list(modules(tmp_path, ["pipeline.a"], lazy=False)) == ["pipeline.a"]

    def test_a_missing_root_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(CodeError, match=r"^pipeline\.missing: no such module below"):
            modules(write(tmp_path, pipeline__a=""), ["pipeline.a", "pipeline.missing"], lazy=False)

    def test_a_missing_module_to_leave_out_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(CodeError, match=r"^pipeline\.gone: left out of the code's digest, but"):
            modules(write(tmp_path, pipeline__a=""), ["pipeline.a"], lazy=False, without=["pipeline.gone"])

    def test_a_root_that_is_left_out_is_named(self, tmp_path: Path) -> None:
        write(tmp_path, pipeline__sub__a="")
        with pytest.raises(CodeError, match=r"^pipeline\.sub\.a: is to be followed and to be left out"):
            modules(tmp_path, ["pipeline.sub.a"], lazy=False, without=["pipeline.sub"])


class TestLibraries:
    def test_local_suffixes_are_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(metadata, "version", {"torch": "2.9.0+cu128", "numpy": "2.4.6"}.__getitem__)
        assert library_versions(["torch", "numpy"]) == {"numpy": "2.4.6", "torch": "2.9.0"}

    def test_a_missing_one_is_named(self) -> None:
        with pytest.raises(CodeError, match=r"^no-such-library: not installed"):
            library_versions(["no-such-library"])


class TestThisProject:
    def test_prepare_reads_images_labels_and_synsets(self) -> None:
        code = code_of(ROOT, "prepare")
        assert {"pipeline.data.prepare", "pipeline.data.lvis", "pipeline/data/coco_to_synset.yaml"} <= set(
            code["modules"]
        )
        assert code["libraries"]["pillow"] == metadata.version("pillow")
        assert not any(name.startswith("pipeline.tracking") for name in code["modules"])

    def test_a_project_without_packages_runs_the_installed_ones(self, tmp_path: Path) -> None:
        (tmp_path / "stages").mkdir()
        (tmp_path / "stages" / "run").touch()  # which a project has
        assert code_of(tmp_path, "prepare") == code_of(ROOT, "prepare")

    @pytest.mark.parametrize("kind", KINDS)
    def test_all_kinds_can_be_followed(self, kind: tuple[str, ...]) -> None:
        assert set(KINDS[kind].roots) <= set(code_of(ROOT, *kind)["modules"])

    @pytest.mark.parametrize("task", ["instance", "semantic"])
    def test_training_does_not_depend_on_inference_or_evaluation(self, task: str) -> None:
        code = code_of(ROOT, "train", task)
        assert not any(name.startswith(("pipeline.evaluation", "pipeline.report")) for name in code["modules"])

    def test_one_digest_of_it_all(self) -> None:
        code = code_of(ROOT, "prepare")
        assert digest(code) == digest({key: dict(reversed(code[key].items())) for key in reversed(code)})
        assert digest(code) != digest({**code, "libraries": {**code["libraries"], "pillow": "0"}})

    def test_imports_the_standard_library_alone(self) -> None:
        """`configure` runs before every other stage, and must not wait for torch."""
        allowed = {*sys.stdlib_module_names, "pipeline"}
        program = "import sys; known = set(sys.modules); import pipeline.config.code; print(*{*sys.modules} - known)"
        loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
        assert {name.partition(".")[0] for name in loaded.stdout.split()} <= allowed
