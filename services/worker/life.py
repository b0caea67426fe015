"""One life of a device's worker: claims the device, runs intake, publisher and heart around an engine, drains at the end."""

from __future__ import annotations

import asyncio
import os

import structlog

from llmos.infra.log.port import Out, Place
from llmos.infra.log.topics import spec_for
from llmos.infra.runtime.beside import run_beside
from llmos.infra.runtime.context import Context
from llmos.infra.stages.follower import Follower, follow_from_end
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.work import Claim
from llmos.services.worker.equipment import Equipment
from llmos.services.worker.heart import Heart
from llmos.services.worker.held import HeldTasks
from llmos.services.worker.intake import Intake
from llmos.services.worker.orders import Orders
from llmos.services.worker.publisher import Publisher
from llmos.services.worker.residency import ResidencyWriter
from llmos.services.worker.runners.events import Event, ModelsChanged, Waiting
from llmos.services.worker.settling import Settler

log = structlog.get_logger()

FLUSH_SECONDS = 3.0
"""Of the time to drain, kept for sending what is done."""


async def live(ctx: Context, equipment: Equipment) -> None:
    """Runs until `ctx.stop` is set and the tasks at hand are done, as far as the time to drain allows.

    Raises:
        Fenced: a later life has claimed the device, or the scheduler has given this one up.
    """
    name = equipment.device
    incarnation = await _claim(ctx, name)
    held = HeldTasks(ctx.settings.worker.done_seconds)
    settler = Settler(held, name, incarnation)
    publisher = Publisher(ctx, held, settler, name, incarnation)
    died: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    heart = Heart(ctx, equipment, incarnation, held)
    writer = ResidencyWriter(ctx, name, incarnation, equipment.residents)

    def deliver(events: list[Event]) -> None:
        if any(isinstance(event, ModelsChanged | Waiting) for event in events):
            heart.beat_now()
            writer.changed()
        publisher.deliver(events)

    engine = equipment.make_engine(deliver, lambda problem: _fail(died, problem))
    intake = Intake(ctx, held, engine, publisher, name, incarnation)
    orders = Orders(name, incarnation, intake, engine, keys=ctx.keyring, verify=equipment.verify)
    catalog = Follower(ctx, [orders.catalog])
    followed = await catalog.load()  # what is pinned comes first
    engine.start()
    log.info("device_claimed", device=name, incarnation=incarnation)
    try:
        await run_beside(
            _work(ctx, intake, held, publisher, heart),
            publisher.run(),
            publisher.reply_events.run(),
            heart.run(),
            settler.seals.secrets.run(ctx.clock.now),
            writer.run(),
            catalog.follow(followed),
            follow_from_end(ctx, Place(topics.CONTROL, 0), orders.control),
            _raise(died),
            *(run() for run in equipment.beside),
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


async def _raise(died: asyncio.Future[None]) -> None:
    await died


def _fail(died: asyncio.Future[None], problem: BaseException) -> None:
    if not died.done():
        died.set_exception(problem)
