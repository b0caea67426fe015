"""Starts one worker process per device, restarts what dies, and tells of each death on `telemetry` within milliseconds.

The death is seen on the process itself (pidfd), not by a missing heartbeat: the scheduler dispatches the dead worker's
tasks again before the next worker has even started.
"""

from __future__ import annotations

import asyncio

import structlog

from llmos.infra.embedded.child import ChildSpec
from llmos.infra.log.port import Out, Place
from llmos.infra.runtime.beside import first_of, run_beside
from llmos.infra.runtime.context import Context
from llmos.infra.runtime.deadline import Deadline
from llmos.infra.runtime.supervisor import Death, Restarts, Supervisor
from llmos.schemas.base import encode
from llmos.schemas.telemetry import WorkerDied
from llmos.schemas.topics import TELEMETRY
from llmos.services.node.devices import worker_specs
from llmos.services.node.fencing import Fencing

log = structlog.get_logger()

_TURN_SECONDS = 1.0
_NODE_SHARE = 0.9
"""Of the time that the node has to drain: when it kills the workers that are left."""


async def run(ctx: Context) -> None:
    """The node's life; returns when `ctx.stop` is set and its workers have ended. Raises `Ambiguous`, `BadSetting`."""
    deaths: asyncio.Queue[WorkerDied] = asyncio.Queue()
    specs = await asyncio.to_thread(worker_specs, ctx.settings)  # drivers may take their time to answer
    await run_beside(keep_workers(ctx, specs, deaths), tell(ctx, deaths))
    while not deaths.empty():
        await publish(ctx, deaths.get_nowait())


async def keep_workers(ctx: Context, specs: dict[str, ChildSpec], deaths: asyncio.Queue[WorkerDied]) -> None:
    """Keeps the workers until `ctx.stop`, then ends them together. Those that are fenced and live on are killed meanwhile."""
    settings = ctx.settings
    device_of = {spec.name: device for device, spec in specs.items()}

    def died(death: Death) -> None:
        deaths.put_nowait(
            WorkerDied(
                device=device_of[death.name],
                node=settings.node.name,
                pid=death.pid,
                at=ctx.clock.now(),
                reason=death.reason,
                signal=max(-death.exit_code, 0),
            )
        )

    fencing = Fencing(ctx, device_of)
    restarts = Restarts(settings.node.restart_seconds, settings.node.restart_limit_seconds)
    try:
        async with Supervisor(restarts, on_death=died, on_spawn=fencing.born) as supervisor:
            for spec in specs.values():
                supervisor.keep(spec)
            await run_beside(ctx_stopped(ctx), say_ready(ctx, supervisor, list(device_of)), fencing.run())
            await supervisor.stop_all(Deadline(settings.telemetry.drain_seconds * _NODE_SHARE))
    except BaseExceptionGroup as group:
        raise first_of(group) from None


async def ctx_stopped(ctx: Context) -> None:
    """Returns when the service is told to stop."""
    await ctx.stop.wait()


async def say_ready(ctx: Context, supervisor: Supervisor, names: list[str]) -> None:
    """The node is ready when each of its workers has been."""
    for name in names:
        await supervisor.ready(name)
    ctx.health.ready()


async def tell(ctx: Context, deaths: asyncio.Queue[WorkerDied]) -> None:
    """Publishes deaths as they come, until cancelled."""
    while True:
        ctx.health.progress("node")
        try:
            async with asyncio.timeout(_TURN_SECONDS):
                death = await deaths.get()
        except TimeoutError:
            continue
        await publish(ctx, death)


async def publish(ctx: Context, death: WorkerDied) -> None:
    """One death on `telemetry`. Raises `Ambiguous`."""
    log.warning("worker_died", device=death.device, pid=death.pid, reason=death.reason)
    await ctx.log.emit(Place(TELEMETRY, 0), [Out(death.device.encode(), encode(death))])
