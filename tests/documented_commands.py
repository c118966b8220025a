"""The commands in the documentation's pages: finds them, and asks each program's own parser whether it knows them."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])

_FENCE = re.compile(r"^( *)```(.*)\n((?:.*\n)*?)\1```\n", re.MULTILINE)
_SEPARATORS = {"|", ";", "&&", "||", "&"}


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, first line and language."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(REPOSITORY).as_posix()
    return [Block(name, text.count("\n", 0, m.start()) + 2, m[2].strip(), m[3]) for m in _FENCE.finditer(text)]


def all_blocks(language: str) -> list[Block]:
    """The blocks of all pages in a language."""
    return [block for page in PAGES for block in blocks(page) if block.language == language]


def commands(script: str) -> Iterator[list[str]]:
    """The simple commands of a script of the shell, as words: without comments, variables and redirections.

    What ``$(...)`` prints is one word, ``x``. Raises ValueError for an unclosed quote.
    """
    script = re.sub(r"\$\([^()]*\)", "x", script.replace("\\\n", " "))
    for line in re.sub(r"\|\s*\n", "| ", script).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split, lexer.commenters = True, "#"
        words: list[str] = []
        skipped = False
        for word in [*lexer, ";"]:
            if word in _SEPARATORS:
                if words:
                    yield words
                words = []
            elif skipped or word in ("<", ">", ">>"):
                skipped = not skipped  # the operator, and the file after it
            elif words or not re.fullmatch(r"\w+=.*", word, re.DOTALL):
                words.append(word)


def inline_commands(page: Path, programs: Sequence[str]) -> Iterator[list[str]]:
    """The commands of some programs in a page's running text, between single backticks."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text):
        if span.split()[0] in programs and len(span.split()) > 1:
            yield from commands(" ".join(span.split()))


@cache
def click_group(program: str) -> Any:
    """The command line of a program that is made with click, or with typer."""
    if program == "mlflow":
        from mlflow.cli import cli

        return cli
    from typer.main import get_command

    from pointrend.cli import add_installed_commands, app

    add_installed_commands()
    return get_command(app)


def _parse_click(words: Sequence[str], partly: bool) -> None:
    command, context, rest = click_group(words[0]), None, list(words[1:])
    while True:
        context = command.make_context(command.name, rest, parent=context, resilient_parsing=partly)
        rest = [*getattr(context, "_protected_args", []), *context.args]
        if not hasattr(command, "resolve_command") or not rest:
            break
        _, command, rest = command.resolve_command(context, rest)


def _parse(words: Sequence[str], partly: bool) -> None:
    if words[0] == "dvc":
        from dvc.cli.parser import get_main_parser

        get_main_parser().parse_args(list(words[1:]))
    else:
        _parse_click(words, partly)


def parse(words: Sequence[str], partly: bool = False) -> None:
    """Raises the parser's own error if a program does not know a command or an option, or lacks an argument.

    Args:
        words: ``pointrend``, ``dvc`` or ``mlflow``, and what follows.
        partly: whether arguments may be missing, as in a sentence about a command.
    """
    try:
        _parse(words, partly)
    except Exception:
        if not partly or not words[-1].startswith("-"):
            raise
        _parse([*words, "x"], partly)  # an option whose value a sentence leaves out


def make_targets() -> set[str]:
    """The targets of the Makefile."""
    text = (REPOSITORY / "Makefile").read_text()
    return {name for line in re.findall(r"^\.PHONY:(.*)$", text, re.MULTILINE) for name in line.split()}
