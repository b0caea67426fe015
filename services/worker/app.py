"""A worker as a process: claims its device, runs intake, engine thread, publisher and heart, drains at the end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import structlog

from llmos.infra.log.port import Out, Place
from llmos.infra.log.topics import spec_for
from llmos.infra.runtime.beside import run_beside
from llmos.infra.runtime.context import Context
from llmos.infra.stages.follower import follow_from_end
from llmos.pipelines.engine.device import open_device
from llmos.pipelines.models.store import ModelStore, shipped_models
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.work import Claim
from llmos.services.worker.engine_thread import EngineThread
from llmos.services.worker.heart import Heart, publish_models
from llmos.services.worker.held import HeldTasks
from llmos.services.worker.intake import Intake
from llmos.services.worker.publisher import Publisher
from llmos.services.worker.runners.base import Meter, Runner
from llmos.services.worker.runners.events import Loading
from llmos.services.worker.runners.registry import KINDS, make_residents, make_runners
from llmos.services.worker.settling import Settler

log = structlog.get_logger()

FLUSH_SECONDS = 3.0
"""Of the time to drain, kept for sending what is done."""


async def run(ctx: Context) -> None:
    """Runs until `ctx.stop` is set and the tasks at hand are done. Raises what ends the process."""
    settings = ctx.settings.worker
    device = open_device(settings.device)
    name = f"{ctx.settings.node.name}.{device.label}"
    store = ModelStore([*shipped_models(), *ctx.settings.node.models_directories])
    await publish_models(ctx, store)
    incarnation = await _claim(ctx, name)
    held = HeldTasks(settings.done_seconds)
    meter = Meter()
    residents = make_residents(device, store, settings)
    publisher = Publisher(ctx, held, Settler(held, name, incarnation), name, incarnation)
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def make(tell: Callable[[Loading], None]) -> list[Runner]:
        device.activate()
        return make_runners(residents, settings, meter, tell)

    engine = EngineThread(make, meter, publisher.deliver, lambda problem: _fail(failed, problem))
    intake = Intake(ctx, held, engine, publisher, name, incarnation)
    heart = Heart(ctx, name, incarnation, held, meter, KINDS, residents.residents, residents.budget_bytes)
    engine.start()
    log.info("device_claimed", device=name, incarnation=incarnation, threads=device.threads)
    try:
        await run_beside(
            _work(ctx, intake, held, publisher, heart),
            publisher.run(),
            heart.run(),
            follow_from_end(ctx, Place(topics.CONTROL, 0), intake.control),
            _raise(failed),
        )
    finally:
        await engine.close(FLUSH_SECONDS)


async def _claim(ctx: Context, name: str) -> int:
    """Takes the device; the claim's offset on the device's topic is this life's incarnation."""
    topic = topics.work_topic(name)
    await ctx.log.ensure([spec_for(ctx.settings, topic)])
    claim = Claim(device=name, node=ctx.settings.node.name, pid=os.getpid())
    return await ctx.log.emit(Place(topic, 0), [Out(b"claim", encode(claim))])


async def _work(ctx: Context, intake: Intake, held: HeldTasks, publisher: Publisher, heart: Heart) -> None:
    """Takes work until told to stop, then finishes what is at hand as far as time allows."""
    ctx.health.ready()
    await intake.run()
    heart.beat_now()
    try:
        async with asyncio.timeout(max(ctx.settings.telemetry.drain_seconds - FLUSH_SECONDS, 0.0)):
            await held.emptied()
    except TimeoutError:
        log.warning("drained_unfinished", tasks=len(held))
    async with asyncio.timeout(FLUSH_SECONDS):
        await publisher.idle()


async def _raise(failed: asyncio.Future[None]) -> None:
    await failed


def _fail(failed: asyncio.Future[None], problem: BaseException) -> None:
    if not failed.done():
        failed.set_exception(problem)
