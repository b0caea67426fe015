"""The services of a stack on this machine: what they wrote down, whether they live, whether they are ready."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, NamedTuple

from llmos.cli.attach import STACK, running_stack
from llmos.infra.embedded.directory import read_json, run_file
from llmos.infra.embedded.identity import started_at
from llmos.infra.embedded.ports import LOOPBACK
from llmos.infra.runtime.processes import readyz
from llmos.infra.settings import Settings

READY_SECONDS = 2.0
_SERVERS = ("kafka", "redis")


class Running(NamedTuple):
    """A process that wrote down that it runs."""

    name: str
    pid: int
    alive: bool
    ready: bool


class Local(NamedTuple):
    """The stack on this machine."""

    kafka: str
    redis: str
    services: list[Running]


async def local_stack(settings: Settings) -> Local | None:
    """What runs in the state directory; None where no stack does."""
    noted = await asyncio.to_thread(running_stack, settings.state_directory)
    if noted is None:
        return None
    directory = settings.state_directory
    names = await asyncio.to_thread(lambda: sorted(file.stem for file in (directory / "run").glob("[!.]*.json")))
    found = await asyncio.gather(*(_look(settings.telemetry.host, directory, name) for name in names))
    return Local(noted["bootstrap"], noted["redis"], [running for running in found if running is not None])


async def _look(host: str, directory: Path, name: str) -> Running | None:
    noted = await asyncio.to_thread(read_json, run_file(directory, name))
    if noted is None or not isinstance(noted.get("pid"), int):
        return None  # it ended while we looked
    alive = await asyncio.to_thread(started_at, noted["pid"]) is not None
    return Running(
        "llmos up" if name == STACK else name, noted["pid"], alive, alive and await _ready(host, name, noted)
    )


async def _ready(host: str, name: str, noted: dict[str, Any]) -> bool:
    if name == STACK:
        return bool(noted["ready"])
    try:
        async with asyncio.timeout(READY_SECONDS):
            if name in _SERVERS:
                (await asyncio.open_connection(LOOPBACK, noted["port"]))[1].close()
                return True
            return await readyz(host, noted["port"])
    except (OSError, TimeoutError, KeyError):
        return False
