"""`llmos up`: the embedded stack, the first start, then all services as processes that are kept running."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from llmos.cli.attach import STACK, note_of
from llmos.cli.deaths import Deaths
from llmos.cli.first_start import first_start
from llmos.infra.embedded import broker, redis_server
from llmos.infra.embedded.directory import StateDirectory, write_json
from llmos.infra.embedded.stack import embedded
from llmos.infra.runtime.beside import first_of
from llmos.infra.runtime.deadline import Deadline
from llmos.infra.runtime.processes import service_spec
from llmos.infra.runtime.supervisor import Death, Restarts, Supervisor
from llmos.infra.settings import Settings

Report = Callable[[str], None]
OnReady = Callable[[Settings], Awaitable[None]]

SERVICES = ("node", "ingest", "verify", "scheduler", "aggregator")
"""In the order in which they are stopped: first no more work is done, then no more is taken, answers last."""

_NODE_PATIENCE = 2.0
"""The node is ready when its workers are, and those load torch: it may take this many times longer."""
_KILL_SECONDS = 5.0
"""On top of the time to drain: for ending what does not."""


async def up(settings: Settings, *, stop: asyncio.Event, on_ready: OnReady | None = None, report: Report) -> None:
    """Runs the whole system until `stop` is set, then stops it in order.

    `on_ready` gets the settings with all addresses once every service is ready; `stop` ends it too. `report` hears what
    happens, a line at a time.

    Raises:
        OperatorError: the state directory is in use, a tool is missing, a service does not become ready, …
    """
    directory = await asyncio.to_thread(StateDirectory.take, settings.state_directory)
    try:
        await asyncio.to_thread(_forget_services, directory)
        settings = settings.model_copy(update={"state_directory": directory.path})
        async with embedded(settings, directory, report) as filled:
            await unless(stop, first_start(filled))
            if not stop.is_set():
                await _serve(filled, directory, stop, on_ready, report)
    finally:
        directory.release()


async def _serve(
    settings: Settings, directory: StateDirectory, stop: asyncio.Event, on_ready: OnReady | None, report: Report
) -> None:
    note = directory.run_file(STACK)
    await asyncio.to_thread(write_json, note, note_of(settings, os.getpid(), ready=False))

    def died(death: Death) -> None:
        report(f"{death.name} (process {death.pid}) ended with {death.reason}; it is started again")

    restarts = Restarts(settings.node.restart_seconds, settings.node.restart_limit_seconds)
    try:
        async with Supervisor(restarts, on_death=died) as supervisor:
            try:
                await unless(stop, _start(settings, supervisor, report))
                if not stop.is_set():
                    await asyncio.to_thread(write_json, note, note_of(settings, os.getpid(), ready=True))
                    await _until_stopped(settings, stop, on_ready, report)
            finally:
                report("stopping")
                await supervisor.stop_all(Deadline(settings.telemetry.drain_seconds + _KILL_SECONDS), first=SERVICES)
    except BaseExceptionGroup as group:
        raise first_of(group) from None
    finally:
        await asyncio.to_thread(note.unlink, missing_ok=True)


async def _start(settings: Settings, supervisor: Supervisor, report: Report) -> None:
    """All services side by side; each is ready when its endpoint says so."""

    async def one(service: str) -> None:
        patience = _NODE_PATIENCE if service == "node" else 1.0
        await supervisor.start(
            service_spec(settings, service, ready_seconds=settings.embedded.ready_seconds * patience)
        )
        report(f"{service} is ready")

    async with asyncio.TaskGroup() as tasks:
        for service in SERVICES:
            tasks.create_task(one(service))


async def _until_stopped(settings: Settings, stop: asyncio.Event, on_ready: OnReady | None, report: Report) -> None:
    async def ready(then: OnReady) -> None:
        await then(settings)

    telling = asyncio.create_task(Deaths(report).tell(settings))
    try:
        if on_ready is not None:
            await unless(stop, ready(on_ready))
        await stop.wait()
    finally:
        telling.cancel()
        await asyncio.wait({telling})


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` to its end, or until `stop` is set: then it is cancelled and awaited."""
    task = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()
        stopped.cancel()
        await asyncio.wait({task, stopped})
    if not task.cancelled():
        task.result()


def _forget_services(directory: StateDirectory) -> None:
    """Run files of a life that ended without a goodbye; those of broker and Redis are still needed to wait for their end."""
    for file in (directory.path / "run").glob("*.json"):
        if file.stem not in (broker.NAME, redis_server.NAME):
            file.unlink()
