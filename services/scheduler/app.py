"""The scheduler as a process: takes a term, restores its state from the log, takes turns."""

from __future__ import annotations

import os
from collections.abc import Mapping

import structlog

from llmos.infra.log.port import Out, Place, Record
from llmos.infra.runtime.beside import run_beside
from llmos.infra.runtime.context import Context
from llmos.infra.stages.backlog import watch_backlog
from llmos.infra.stages.catching_up import read_to_end
from llmos.infra.stages.derived import Derived
from llmos.infra.stages.follower import Follower, Table
from llmos.infra.stages.ownership import partitions_of
from llmos.infra.stages.tenants import TenantTable
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.catalog import CATALOG
from llmos.schemas.epochs import EPOCHS, Deaths, Term
from llmos.schemas.errors import Fenced, RecordError
from llmos.services.scheduler.deaths import is_death_key
from llmos.services.scheduler.desk import Desk
from llmos.services.scheduler.effects import Effects
from llmos.services.scheduler.handler import SchedulerHandler, sweep_deaths
from llmos.services.scheduler.reconciling import reconcile_ledger, windows_known
from llmos.services.scheduler.replies import Replies
from llmos.services.scheduler.turn import Turn

log = structlog.get_logger()

GROUP = "scheduler"
_EPOCHS = Place(topics.EPOCHS, 0)
_CONTROL = Place(topics.CONTROL, 0)
_TELEMETRY = Place(topics.TELEMETRY, 0)
_SKEW_SECONDS = 60.0
"""Allowance between this machine's clock and the broker's, where no append time is at hand."""


async def run(ctx: Context) -> None:
    """Runs until `ctx.stop` is set. Raises what ends the process."""
    partitions = await partitions_of(ctx, topics.SEALED)
    term = await ctx.log.emit(
        _EPOCHS,
        [Out(b"term", encode(Term(node=ctx.settings.node.name, pid=os.getpid(), at=ctx.clock.now())))],
    )
    desk = Desk(ctx.settings.scheduler, term, Effects(ctx), ctx.clock.now())
    desk.windows = await windows_known(ctx)
    tenants = TenantTable(ctx.keyring)
    catalog = Table(topics.CATALOG, CATALOG)
    # Positions are taken before anything is read, so that nothing falls between restoring and following.
    live_from = await ctx.log.ends([_TELEMETRY])
    epochs_from = await _read_epochs(ctx, desk)
    tables = await Follower(ctx, [tenants.table, catalog]).load()
    tenants.check(ctx.settings.keyring)
    turn = Turn(desk, catalog.rows, lambda: tenants.weights)
    replies = Replies(ctx, desk, turn, catalog, tenants)
    handler = SchedulerHandler(ctx, desk, turn, tenants, catalog, replies)
    stage = Derived(ctx, GROUP, partitions, handler)
    window = ctx.settings.scheduler.idempotency_window_seconds
    control_from = await _read_control(ctx, handler)
    reached = await stage.restore(lambda lows: _usage_since(lows, ctx.clock.now(), window))
    desk.answered = lambda partition, s: stage.watermark(partition).answered(s)
    sweep_deaths(desk, stage)
    log.info("scheduler_restored", term=term, live=len(desk.jobs.live))
    starts = {**reached, **live_from, **epochs_from, **tables, **control_from}
    await run_beside(
        stage.run(starts),
        replies.run(),
        desk.effects.reply_events.run(),
        reconcile_ledger(ctx, desk),
        watch_backlog(ctx, stage.reached),
    )


def _usage_since(lows: Mapping[int, float | None], now: float, window: float) -> dict[Place, float]:
    """From which append time on receipts bind keys: the window before the append time of sealed[L]."""
    return {Place(topics.USAGE, p): (at if at is not None else now - _SKEW_SECONDS) - window for p, at in lows.items()}


async def _read_epochs(ctx: Context, desk: Desk) -> dict[Place, int]:
    def take(record: Record) -> None:
        try:
            message = EPOCHS.decode(record.value) if record.value is not None else None
        except RecordError as problem:
            log.warning("record_unreadable", topic=topics.EPOCHS, offset=record.offset, error=str(problem))
            return
        if is_death_key(record.key) and (message is None or isinstance(message, Deaths)):
            desk.deaths.restore((record.key or b"").decode(), message)
        elif isinstance(message, Term) and record.offset > desk.term:
            raise Fenced(what="the scheduler's term")

    return await read_to_end(ctx, await ctx.log.begins([_EPOCHS]), take)


async def _read_control(ctx: Context, handler: SchedulerHandler) -> dict[Place, int]:
    """What lasts is read again: cancels (a job may live as long), drains and fences."""
    since = await ctx.log.begins([_CONTROL])

    def take(record: Record) -> None:
        try:
            handler.restored_control(record)
        except RecordError as problem:
            log.warning("record_unreadable", topic=topics.CONTROL, offset=record.offset, error=str(problem))

    return await read_to_end(ctx, since, take)
