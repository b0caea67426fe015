"""Reads `--set group.name=value`: any setting of the tree, as text; the tree checks names and values."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from llmos.schemas.errors import BadSetting


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """Nested values for `llmos.infra.settings.load`; lists and maps are written as JSON.

    Raises:
        BadSetting: a text has no `=`, or sets below a value.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise BadSetting(setting=repr(text), problem="write it as group.name=value")
        *groups, leaf = name.strip().split(".")
        node = found
        for group in groups:
            node = node.setdefault(group, {})
            if not isinstance(node, dict):
                raise BadSetting(setting=name, problem=f"{group} is a value, not a group")
        node[leaf] = _value(name, value)
    return found


def _value(name: str, text: str) -> Any:
    if not text.startswith(("[", "{")):
        return text
    try:
        return json.loads(text)
    except ValueError as problem:
        raise BadSetting(setting=name, problem=f"it looks like JSON and is not: {problem}") from None
