"""Where each setting came from: flag, environment, file or default, in the order in which they win."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from llmos.infra.settings import Settings


class Row(NamedTuple):
    """A setting, its value and who gave it."""

    name: str
    value: Any
    origin: str
    description: str


def rows(settings: Settings, overrides: Mapping[str, Any], environment: Mapping[str, str], file: Path) -> list[Row]:
    """Every setting in the order of the tree. `file` is read again, if it is there; it was readable a moment ago."""
    in_file = tomllib.loads(file.read_text()) if file.is_file() else {}
    found = []
    for path, value, description in _leaves(settings):
        found.append(Row(".".join(path), value, _origin(path, overrides, environment, in_file, file), description))
    return found


def _leaves(model: BaseModel, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, str]]:
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, (*above, name))
        else:
            yield (*above, name), value, field.description or ""


def _origin(
    path: tuple[str, ...],
    overrides: Mapping[str, Any],
    environment: Mapping[str, str],
    in_file: Mapping[str, Any],
    file: Path,
) -> str:
    if _holds(overrides, path):
        return "flag"
    for depth in range(len(path), 0, -1):
        variable = "LLMOS_" + "__".join(path[:depth]).upper()
        value = environment.get(variable)
        if value is not None and (depth == len(path) or _holds(_object(value), path[depth:])):
            return f"environment {variable}"
    return f"file {file}" if _holds(in_file, path) else "default"


def _holds(tree: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    node: Any = tree
    for name in path:
        if not isinstance(node, Mapping) or name not in node:
            return False
        node = node[name]
    return True


def _object(text: str) -> Mapping[str, Any]:
    """A group given as one variable is a JSON object."""
    value = json.loads(text)
    return value if isinstance(value, dict) else {}
