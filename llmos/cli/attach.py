"""Finds the stack that runs on this machine: what `llmos up` wrote down, if it still lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmos.infra.embedded.directory import holder, read_json, run_file
from llmos.infra.runtime.deadline import Deadline
from llmos.infra.settings import Settings
from llmos.schemas.errors import OperatorError

STACK = "stack"
START_SECONDS = 60.0
"""How long a command waits for a stack that is starting."""
_LOOK_SECONDS = 0.1


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
            problem=f"no stack runs in {settings.state_directory.absolute()}; start it with `llmos up`, "
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


async def attached_when_ready(
    settings: Settings, say: Callable[[str], None], timeout: float = START_SECONDS
) -> Settings:
    """As `attach_settings`, but a stack that is starting is waited for.

    Raises:
        OperatorError: no broker is named and no stack runs, or it is not ready within `timeout` seconds.
    """
    directory = settings.state_directory
    deadline = Deadline(timeout)
    said = False
    while not settings.kafka.bootstrap and await asyncio.to_thread(_starts, directory):
        if not said:
            said = True
            say(f"the stack in {directory.absolute()} is starting; waiting for it")
        if not deadline.left():
            problem = f"the stack in {directory.absolute()} is not ready after {timeout:.0f} s; see its logs/"
            raise OperatorError(problem=problem)
        await asyncio.sleep(_LOOK_SECONDS)
    return await asyncio.to_thread(attach_settings, settings)


def _starts(state_directory: Path) -> bool:
    """Somebody holds the directory, and has not written down that all is ready."""
    noted = running_stack(state_directory)
    return not noted["ready"] if noted is not None else holder(state_directory) is not None


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
