"""Settings handed down to a child process: the tree as environment variables, read back by `load` as the same tree."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pydantic import BaseModel

from llmos.infra.settings.tree import Settings

PREFIX = "LLMOS_"
_NESTED = "__"


def environment_of(settings: Settings) -> dict[str, str]:
    """Every setting under its name in the environment: `kafka.bootstrap` is LLMOS_KAFKA__BOOTSTRAP, lists are JSON.

    A setting that is None is left out, as there is no way to say None there, and None is its default.
    """
    found: dict[str, str] = {}
    _flatten(settings, PREFIX, found)
    return found


def child_environment(settings: Settings, **more: str) -> dict[str, str]:
    """Our environment with these settings instead of ours, `more` on top: what a child is started with.

    The settings file stays named (LLMOS_CONFIG); the environment goes before it.
    """
    ours = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    if config := os.environ.get("LLMOS_CONFIG"):
        ours["LLMOS_CONFIG"] = config
    return ours | environment_of(settings) | more


def _flatten(group: BaseModel, prefix: str, found: dict[str, str]) -> None:
    for name in type(group).model_fields:
        value = getattr(group, name)
        variable = prefix + name.upper()
        if isinstance(value, BaseModel):
            _flatten(value, variable + _NESTED, found)
        elif value is not None:
            found[variable] = _text(value)


def _text(value: object) -> str:
    if isinstance(value, list):
        return json.dumps([str(item) if isinstance(item, Path) else item for item in value])
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
