"""Reads one YAML or JSON file into its typed schema.

:func:`load` refuses unknown, repeated and ill-typed keys with an error that names the file and the key.
"""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from pipeline.errors import UserError


class ConfigError(UserError, ValueError):
    """A configuration file that cannot be used; the message names the file and the key."""


class Strict(BaseModel):
    """Unknown keys and implicit conversions are errors; values do not change after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*$")]


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML as it is meant: a repeated key is a mistake, and 1e-4 is a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                raise ConfigError(f"line {line}: {key!r} cannot be a key")
            if key in seen:
                raise ConfigError(f"line {line}: key {key!r} stands twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


_UniqueKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)

T = TypeVar("T")


def load(schema: type[T], path: Path) -> T:
    """Reads one YAML or JSON file and validates it.

    Args:
        schema: a model of this module.
        path: the file.

    Raises:
        ConfigError: naming the file and every key that is missing, unknown or ill-typed.
    """
    return _validate(TypeAdapter(schema), path)


def _validate(adapter: TypeAdapter[T], path: Path) -> T:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such configuration file{_alternatives(path)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error})") from error
    try:
        data = yaml.load(text, _UniqueKeyLoader)  # noqa: S506 - a subclass of SafeLoader
    except (yaml.YAMLError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        raise ConfigError(f"{path}:\n" + "\n".join(f"  {line}" for line in _explain(error, data))) from error


def _alternatives(path: Path) -> str:
    names = sorted(p.stem for p in path.parent.glob(f"*{path.suffix}"))
    return f"; {path.parent} has {', '.join(names)}" if names else ""


def _explain(error: ValidationError, data: Any) -> list[str]:
    lines = []
    for item in error.errors():
        location = ".".join(map(str, _keys(item["loc"], data, missing=item["type"] == "missing")))
        if item["type"] == "extra_forbidden":
            lines.append(f"{location}: unknown key")
        elif item["type"] == "missing":
            lines.append(f"{location}: missing")
        else:
            value = item.get("input")
            shown = f" (got {value!r})" if isinstance(value, str | int | float | bool | None) else ""
            lines.append(f"{location or 'file'}: {item['msg'].removeprefix('Value error, ')}{shown}")
    return lines


def _keys(location: tuple[int | str, ...], data: Any, *, missing: bool) -> list[int | str]:
    """The keys of the file in an error's location, which has the tags of the unions on its way among them."""
    keys: list[int | str] = []
    for place, part in enumerate(location, start=1):
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            if missing and place == len(location):
                keys.append(part)
        else:
            keys.append(part)
    return keys
