"""Reads a YAML or JSON file, and the files that it is based on, into its typed schema.

Unknown, repeated and ill-typed keys are errors that name the file and the key.
"""

import re
from collections.abc import Collection, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pipeline.errors import UserError

try:
    from yaml import CSafeLoader as SafeLoader  # three times as fast, where PyYAML was built with it
except ImportError:
    from yaml import SafeLoader  # type: ignore[assignment]


class ConfigError(UserError, ValueError):
    """A configuration file that cannot be used. The message names the file and the key."""


class Strict(BaseModel):
    """Unknown keys and implicit conversions are errors; values do not change after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


NAME = r"^[A-Za-z0-9][A-Za-z0-9_]*$"
Name = Annotated[str, Field(pattern=NAME)]


class _UniqueKeyLoader(SafeLoader):
    """YAML in which a repeated key is an error and 1e-4 a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                raise ConfigError(f"line {line}: {key!r} cannot be a key")
            if key in seen:
                raise ConfigError(f"line {line}: key {key!r} appears twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


_UniqueKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)

T = TypeVar("T")
Layer = tuple[Path, Any]  # a file and its content


def load(schema: type[T], path: Path) -> T:
    """Reads one YAML or JSON file and validates it.

    Raises:
        ConfigError: naming the file and every key that is missing, unknown or ill-typed.
    """
    return validate(TypeAdapter(schema), [(path, read(path))])


def load_derived(adapter: TypeAdapter[T], path: Path, replaced: Collection[str] = ()) -> T:
    """As :func:`load`, for a file that may have a ``base``: another file, whose keys it inherits and may override.

    ``base: name`` is a file in the same folder, ``base: folder/name`` one in a folder next to it; bases can be chained.
    A mapping overrides only the keys that it has; a list or a value replaces that of the base.

    Args:
        adapter: the schema.
        path: the file.
        replaced: keys whose mappings replace the base's as a whole.

    Raises:
        ConfigError: as :func:`load`, naming the file in which a wrong key stands; or if a base is missing or the chain
            of bases is a circle.
    """
    layers: list[Layer] = []
    file: Path | None = path
    while file is not None:
        if file in (known for known, _ in layers):
            chain = " -> ".join(str(known) for known in [*(known for known, _ in layers), file])
            raise ConfigError(f"{path}:\n  base: the chain of bases is a circle: {chain}")
        data = read(file)
        base = data.pop("base", None) if isinstance(data, dict) else None
        layers.append((file, data))
        file = None if base is None else _base_file(layers[-1][0], base)
    return validate(adapter, layers, replaced)


def _base_file(path: Path, base: Any) -> Path:
    if not isinstance(base, str) or not re.fullmatch(r"(\w+/)?\w+", base):
        raise ConfigError(f"{path}:\n  base: expected the name of a file, as `name` or `folder/name` (got {base!r})")
    file = (path.parent.parent if "/" in base else path.parent) / f"{base}.yaml"
    if not file.is_file():
        raise ConfigError(f"{path}:\n  base: no such file: {file}{_alternatives(file)}")
    return file


def read(path: Path) -> Any:
    """The content of one YAML or JSON file.

    Raises:
        ConfigError: if it is missing or not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such configuration file{_alternatives(path)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error})") from error
    try:
        return yaml.load(text, _UniqueKeyLoader)  # noqa: S506 - a subclass of SafeLoader
    except (yaml.YAMLError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _alternatives(path: Path) -> str:
    names = sorted(p.stem for p in path.parent.glob(f"*{path.suffix}"))
    return f"; {path.parent} has {', '.join(names)}" if names else ""


def validate(adapter: TypeAdapter[T], layers: Sequence[Layer], replaced: Collection[str] = ()) -> T:
    """Validates a file's content, merged with that of its bases.

    Args:
        adapter: the schema.
        layers: the file and its content, followed by those of its base, its base's base, and so on.
        replaced: keys whose mappings are not merged.

    Raises:
        ConfigError: naming every key that is missing, unknown or ill-typed, and the file in which it stands.
    """
    data = layers[-1][1]
    for path, own in reversed(layers[:-1]):
        if not (isinstance(data, dict) and isinstance(own, dict)):
            raise ConfigError(f"{path}: the file and its base must have keys")
        data = _merged(data, own, replaced)
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        lines: dict[Path, list[str]] = {}
        for keys, line in _explain(error, data):
            lines.setdefault(_file_of(keys, layers), []).append(f"  {line}")
        (path, _), *bases = layers
        found = [f"{path}:", *lines.get(path, [])] if path in lines else []
        for base in (base for base, _ in bases if base in lines):
            found += [f"{base}, a base of {path}:", *lines[base]]
        raise ConfigError("\n".join(found)) from error


def _merged(base: dict[Any, Any], own: dict[Any, Any], replaced: Collection[str]) -> dict[Any, Any]:
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merged(base[key], value, replaced) if both and key not in replaced else value
    return merged


def _file_of(keys: Sequence[int | str], layers: Sequence[Layer]) -> Path:
    """The file in which a key stands, or, for a missing one, in which the mapping stands that should have it."""
    for length in range(len(keys), 0, -1):
        for path, data in layers:
            try:
                for key in keys[:length]:
                    data = data[key]
            except (KeyError, IndexError, TypeError):
                continue
            return path
    return layers[0][0]


def _explain(error: ValidationError, data: Any) -> Iterator[tuple[list[int | str], str]]:
    """The keys and the message of each error."""
    for item in error.errors():
        keys = _keys(item["loc"], data, missing=item["type"] == "missing")
        location = ".".join(map(str, keys))
        if item["type"] == "extra_forbidden":
            yield keys, f"{location}: unknown key"
        elif item["type"] == "missing":
            yield keys, f"{location}: missing"
        else:
            value = item.get("input")
            shown = f" (got {value!r})" if isinstance(value, str | int | float | bool | None) else ""
            yield keys, f"{location or 'file'}: {item['msg'].removeprefix('Value error, ')}{shown}"


def first_message(error: ValidationError) -> str:
    """The message of the first problem in a validation error."""
    return error.errors()[0]["msg"].removeprefix("Value error, ")


def _keys(location: tuple[int | str, ...], data: Any, *, missing: bool) -> list[int | str]:
    """The keys in an error's location, without the tags of unions that pydantic puts between them."""
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
