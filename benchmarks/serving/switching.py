"""The whole system with a scheduler that can be started anew under another policy, while all else runs on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from llmos.cli.first_start import first_start
from llmos.client import Client
from llmos.infra.embedded.directory import StateDirectory
from llmos.infra.embedded.stack import embedded
from llmos.infra.runtime.deadline import Deadline
from llmos.infra.runtime.processes import service_spec
from llmos.infra.runtime.supervisor import Restarts, Supervisor
from llmos.infra.settings import Settings, load

SCHEDULER = "scheduler"
SERVICES = ("node", "ingest", "verify", "aggregator")
READY_SECONDS = 120.0
STOP_SECONDS = 30.0

Switch = Callable[[str], Awaitable[None]]
"""Starts the scheduler under the policy of that name, after it has ended the one before."""


@asynccontextmanager
async def switchable(directory: Path, **overrides: Any) -> AsyncIterator[tuple[Client, Switch]]:
    """A client of the system, and what starts its scheduler: none runs before the first call."""
    settings = load(state_directory=directory, **overrides)
    held = await asyncio.to_thread(StateDirectory.take, settings.state_directory)
    try:
        settings = settings.model_copy(update={"state_directory": held.path})
        async with embedded(settings, held, lambda line: None) as filled:
            await first_start(filled)
            async with Supervisor(Restarts(settings.node.restart_seconds, settings.node.restart_limit_seconds)) as kept:
                try:
                    async with asyncio.TaskGroup() as tasks:
                        for service in SERVICES:
                            tasks.create_task(kept.start(service_spec(filled, service, ready_seconds=READY_SECONDS)))
                    async with Client(filled) as client:
                        yield client, _switch(filled, kept)
                finally:
                    await kept.stop_all(Deadline(STOP_SECONDS), first=SERVICES)
    finally:
        held.release()


def _switch(settings: Settings, kept: Supervisor) -> Switch:
    runs = False

    async def switch(policy: str) -> None:
        nonlocal runs
        if runs:
            await kept.stop(SCHEDULER, Deadline(STOP_SECONDS))
        scheduler = settings.scheduler.model_copy(update={"policy": policy})
        own = settings.model_copy(update={"scheduler": scheduler})
        await kept.start(service_spec(own, SCHEDULER, ready_seconds=READY_SECONDS))
        runs = True

    return switch
