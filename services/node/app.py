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
from llmos.infra.runtime.processes import service_spec
from llmos.infra.runtime.supervisor import Death, Restarts, Supervisor
from llmos.infra.settings import Settings
from llmos.schemas.base import encode
from llmos.schemas.telemetry import WorkerDied
from llmos.schemas.topics import TELEMETRY

log = structlog.get_logger()

_TURN_SECONDS = 1.0
_WORKER_SHARE, _NODE_SHARE = 0.8, 0.9
"""Of the time that the node has to drain: what its workers get, and when it kills those that are left."""


async def run(ctx: Context) -> None:
    """The node's life; returns when `ctx.stop` is set and its workers have ended. Raises `Ambiguous`."""
    deaths: asyncio.Queue[WorkerDied] = asyncio.Queue()
    await run_beside(keep_workers(ctx, worker_specs(ctx.settings), deaths), tell(ctx, deaths))
    while not deaths.empty():
        await publish(ctx, deaths.get_nowait())


def devices(settings: Settings) -> dict[str, str]:
    """Device name → device setting of its worker, for each share of the CPU."""
    count = settings.node.cpu_devices
    return {f"{settings.node.name}.cpu{k}": f"cpu:{k}/{count}" for k in range(count)}


def worker_specs(settings: Settings) -> dict[str, ChildSpec]:
    """Device name → the worker process to run."""
    drain = settings.telemetry.drain_seconds * _WORKER_SHARE
    telemetry = settings.telemetry.model_copy(update={"drain_seconds": drain})
    found = {}
    for device, spec in devices(settings).items():
        worker = settings.worker.model_copy(update={"device": spec})
        own = settings.model_copy(update={"worker": worker, "telemetry": telemetry})
        found[device] = service_spec(own, "worker", instance=device)
    return found


async def keep_workers(ctx: Context, specs: dict[str, ChildSpec], deaths: asyncio.Queue[WorkerDied]) -> None:
    """Keeps the workers until `ctx.stop`, then ends them together."""
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

    restarts = Restarts(settings.node.restart_seconds, settings.node.restart_limit_seconds)
    try:
        async with Supervisor(restarts, on_death=died) as supervisor:
            for spec in specs.values():
                supervisor.keep(spec)
            await run_beside(ctx_stopped(ctx), say_ready(ctx, supervisor, list(device_of)))
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
