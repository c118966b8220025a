"""The README and the pages of docs/: commands that exist, examples that run, messages and links that are right."""

import ast
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml
from documented_commands import (
    PAGES,
    REPOSITORY,
    Block,
    all_blocks,
    blocks,
    click_group,
    commands,
    inline_commands,
    make_targets,
    parse,
)

LANGUAGES = {"bash", "python", "text"}
#: Programs whose own parsers are asked whether they know a command.
PARSED = ("pointrend", "dvc", "mlflow")
#: Programs that are not this project's, or the shell's own.
OTHERS = {"base64", "cd", "curl", "docker", "echo", "export", "ls", "pip", "ray", "source", "uv"}

#: Commands that run here as they are written, in a folder with pictures, weights and a COCO dataset.
EXECUTED = [
    "pointrend models",
    "pointrend complexity",
    "pointrend predict photo.jpg --weights model.safetensors",
    "pointrend predict photo.jpg --weights model.safetensors --show-points --resolution 448 --points 3136 --out steps",
    "pointrend data check --data annotations.json --images photos/",
    "pointrend select demo",
    "pointrend select paper --data-root /datasets --cluster eight_gpus",
    "pointrend score ap instances_val2017.json predictions.json",
    "pointrend score boundary-ap instances_val2017.json predictions.json --resamples 1000",
]
#: Commands that do not, by pattern, and why.
NOT_EXECUTED = {
    "make *": "targets are checked by name; tests/test_makefile.py runs some",
    "dvc *": "works on a whole project: tests/test_repro.py, tests/test_staleness.py",
    "mlflow *": "starts a server: tests/pipeline/tracking",
    "pointrend init *": "makes a project: tests/pipeline/test_new_project.py",
    "pointrend train *": "trains: tests/pipeline/test_own_data.py",
    "pointrend predict photos/ *": "needs a run or a download: tests/pointrend/test_predict.py",
    "pointrend predict 'photos/*": "needs a download: tests/pointrend/test_zoo.py",
    "pointrend predict - *": "reads standard input: tests/pointrend/test_predict.py",
    "pointrend predict new/ *": "needs a trained run: tests/pipeline/test_own_data.py",
    "pointrend convert *": "needs a published file: tests/pointrend/test_detectron2.py",
    "pointrend export *": "takes half a minute: tests/pointrend/test_export.py",
    "pointrend ui": "serves until it is stopped: tests/pointrend/test_ui.py",
    "pointrend plan *": "counts all networks of the paper: tests/pipeline/plan/test_plan.py",
    "pointrend check*": "trains: tests/pipeline/check",
    "pointrend jobs *": "needs a Ray: tests/pipeline/cluster/test_jobs.py",
    "pointrend sweep *": "trains: tests/test_sweep.py",
    "pointrend score ap-star *": "needs LVIS: tests/pipeline/metrics/test_commands.py",
    "pointrend score miou *": "needs folders: tests/pipeline/metrics/test_commands.py",
    "pointrend score cityscapes-ap *": "needs folders: tests/pipeline/metrics/test_cityscapes_ap.py",
    ".venv/bin/python -m pytest *": "runs tests",
}

DOCUMENTED = {shlex.join(words): block for block in all_blocks("bash") for words in commands(block.text)}


def test_blocks_have_a_language() -> None:
    assert len(PAGES) > 15
    wrong = [str(block) for page in PAGES for block in blocks(page) if block.language not in LANGUAGES]
    assert not wrong, f"expected one of {LANGUAGES}"


def test_commands_are_read_as_a_shell_reads_them() -> None:
    script = "A=1 ls *.png |  # a comment\n  pointrend predict - --out 'a b' > log; echo \"$(date +%s)\" \\\n  -n"
    assert list(commands(script)) == [
        ["ls", "*.png"],
        ["pointrend", "predict", "-", "--out", "a b"],
        ["echo", "x", "-n"],
    ]


@pytest.mark.parametrize("wrong", ["pointrend predikt", "pointrend plan --clusters x", "dvc reproo", "mlflow uii"])
def test_what_a_program_does_not_know_is_noticed(wrong: str) -> None:
    with pytest.raises(Exception, match=r".*"):
        parse(wrong.split())


def test_every_command_is_one_that_its_program_knows() -> None:
    faults = []
    for command, block in DOCUMENTED.items():
        words = shlex.split(command)
        try:
            if words[0] in PARSED:
                parse(words)
            elif words[0] == "make":
                assert set(words[1:]) <= make_targets(), "no such target"
            elif words[0].endswith("python"):
                assert all((REPOSITORY / word).exists() for word in words if word.startswith("tests/")), "no such file"
            elif words[0] == "python":
                check_script(words)
            else:
                assert words[0] in OTHERS, "a program that is not in OTHERS"
        except Exception as error:  # of whichever parser
            faults.append(f"{block}: {command}: {type(error).__name__} {error}")
    assert not faults, "\n".join(faults)


def check_script(words: list[str]) -> None:
    source = (REPOSITORY / words[1]).read_text(encoding="utf-8")
    unknown = [word for word in words[2:] if word.startswith("--") and f'"{word}"' not in source]
    assert not unknown, f"no such options: {unknown}"


def test_commands_within_sentences_exist_too() -> None:
    faults = []
    for page in PAGES:
        for words in inline_commands(page, PARSED):
            try:
                parse(words, partly=True)
            except Exception as error:  # of whichever parser
                faults.append(f"{page.name}: {shlex.join(words)}: {error}")
        for words in inline_commands(page, ["make"]):
            if not set(words[1:]) <= make_targets():
                faults.append(f"{page.name}: {shlex.join(words)}")
    assert not faults, "\n".join(faults)


def test_every_command_is_executed_or_says_why_not() -> None:
    own = [command for command in DOCUMENTED if shlex.split(command)[0] not in OTHERS | {"python"}]
    used = {pattern: [c for c in own if fnmatchcase(c, pattern) and c not in EXECUTED] for pattern in NOT_EXECUTED}
    known = {command for found in used.values() for command in found} | set(EXECUTED)
    assert not set(own) - known, "put these into EXECUTED, or into NOT_EXECUTED with the reason"
    assert not set(EXECUTED) - set(own), "these are in no page"
    assert not [pattern for pattern, found in used.items() if not found], "these patterns fit no command"
    for reason in NOT_EXECUTED.values():
        for path in re.findall(r"tests/[\w/.]+", reason):
            assert (REPOSITORY / path).exists(), path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader of the pages has: pictures, weights, annotations, predictions and the project's configuration."""
    import numpy as np
    import torch
    from made_up_configs import linked_project
    from made_up_instances import perfect, scene
    from PIL import Image

    from pointrend import build_model, save_weights
    from pointrend.metadata import ClassInfo

    root = tmp_path_factory.mktemp("documentation")
    linked_project(root)
    torch.manual_seed(0)
    model = build_model("pointrend_rcnn_tiny_fpn", num_classes=2, min_size=64, max_size=96)
    save_weights(model, root / "model.safetensors", classes=[ClassInfo(3, "star"), ClassInfo(8, "ring")])
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(root / "photo.jpg")
    content, _ = scene(0)
    (root / "photos").mkdir()
    for image in content["images"]:
        Image.new("RGB", (image["width"], image["height"])).save(root / "photos" / image["file_name"])
    (root / "annotations.json").write_text(json.dumps(content))
    (root / "instances_val2017.json").write_text(json.dumps(content))
    (root / "predictions.json").write_text(json.dumps(perfect(content)))
    return root


@pytest.mark.parametrize("command", EXECUTED)
def test_cheap_commands_run(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    _, *words = shlex.split(command)
    with pytest.raises(SystemExit) as end:
        click_group("pointrend").main(words, prog_name="pointrend")
    assert not end.value.code


PYTHON = all_blocks("python")


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_examples_run(block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "deeplabv3_with_pointrend" in block.text:
        pytest.skip("tests/pointrend/test_in_torchvision.py runs it")
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(compile(block.text, str(block), "exec"), names)
    assert names["out"]["masks"].shape[1:] == (1, *names["image"].shape[1:])


def test_extras_that_are_installed_exist() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    installed = [words for words in map(shlex.split, DOCUMENTED) if words[:2] == ["pip", "install"]]
    assert installed
    for words in installed:
        for extra in re.findall(r"^\.\[(\w+)\]$", words[2]):
            assert extra in extras


LINK = re.compile(r"\]\(([^)#\s]+)(#[\w-]*)?\)")


def links(page: Path) -> Iterator[str]:
    return (target for target, _ in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert not [target for target in links(page) if not (page.parent / target).exists()]


def test_every_page_is_in_the_menu_and_in_the_readme() -> None:
    menu = re.findall(r"[\w-]+\.md", yaml.safe_dump(yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"]))
    pages = {page.name for page in (REPOSITORY / "docs").glob("*.md")}
    assert sorted(menu) == sorted(pages)
    linked = {Path(target).name for target in links(REPOSITORY / "README.md") if target.startswith("docs/")}
    # The API's page is written by `make docs` alone; the README stands for the start page.
    assert pages - linked == {"api.md", "index.md"}


def texts(path: Path) -> Iterator[str]:
    """The texts in a module's code, with … for what is inserted, and with ' in place of `."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = (value.value if isinstance(value, ast.Constant) else "…" for value in node.values)
            yield "".join(map(str, parts)).replace("`", "'")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.replace("`", "'")


def test_the_messages_of_troubleshooting_are_those_of_the_code() -> None:
    page = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(messages) > 40
    modules = [file for package in ("pointrend", "pipeline", "stages") for file in (REPOSITORY / package).rglob("*.py")]
    said = {text for module in modules for text in texts(module)}
    assert not [message for message in messages if not any(message in text for text in said)]


def test_the_tests_that_contributing_names_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(named) > 8
    assert not [name for file, name in named if f"def {name}(" not in (REPOSITORY / file).read_text(encoding="utf-8")]


def test_the_citation_is_of_this_version() -> None:
    import pointrend

    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == pointrend.__version__
    assert citation["preferred-citation"]["title"] == "PointRend: Image Segmentation as Rendering"


def test_ci_calls_targets_of_the_makefile() -> None:
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    calls = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert sorted(calls) == ["make docs", "make lint", "make test"]
    assert {call.removeprefix("make ") for call in calls} <= make_targets()
