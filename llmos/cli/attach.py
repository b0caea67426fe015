"""Finds the stack that runs on this machine: what `llmos up` wrote down, if it still lives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmos.infra.embedded.directory import holder, read_json, run_file
from llmos.infra.settings import Settings
from llmos.schemas.errors import OperatorError

STACK = "stack"


def attach_settings(settings: Settings) -> Settings:
    """The settings with the running stack's addresses and name prefixes where `kafka.bootstrap` is empty.

    Settings that name a broker are left alone, but for the address of Redis when the stack that runs here has one.

    Raises:
        OperatorError: no broker is named and no stack runs in the state directory.
    """
    noted = running_stack(settings.state_directory)
    if settings.kafka.bootstrap:
        if noted is None or settings.redis.url:
            return settings
        return settings.model_copy(update={"redis": settings.redis.model_copy(update={"url": noted["redis"]})})
    if noted is None:
        raise OperatorError(
            problem=f"no stack runs in {settings.state_directory}; start it with `llmos up`, "
            "or name a broker in kafka.bootstrap"
        )
    kafka = {"bootstrap": noted["bootstrap"], "topic_prefix": noted["topic_prefix"]}
    redis = {"url": settings.redis.url or noted["redis"], "prefix": noted["redis_prefix"]}
    return settings.model_copy(
        update={
            "kafka": settings.kafka.model_copy(update=kafka),
            "redis": settings.redis.model_copy(update=redis),
        }
    )


def running_stack(state_directory: Path) -> dict[str, Any] | None:
    """What the stack of this directory wrote down; None unless its process lives and holds the directory."""
    noted = read_json(run_file(state_directory, STACK))
    if noted is None or noted.get("pid") != holder(state_directory):
        return None
    return noted


def note_of(settings: Settings, pid: int, ready: bool) -> dict[str, Any]:
    """What `llmos up` writes down for `attach_settings`, and for those that wait until all is ready."""
    return {
        "pid": pid,
        "bootstrap": settings.kafka.bootstrap,
        "topic_prefix": settings.kafka.topic_prefix,
        "redis": settings.redis.url,
        "redis_prefix": settings.redis.prefix,
        "ready": ready,
    }
