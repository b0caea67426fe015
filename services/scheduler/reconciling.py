"""Keeps the ledger in step with what is live: at once after it was emptied, now and then otherwise."""

from __future__ import annotations

import asyncio

import structlog

from llmos.infra.ledger.port import Hold, LedgerAway
from llmos.infra.runtime.context import Context
from llmos.services.scheduler.desk import Desk

log = structlog.get_logger()

LOOK_SECONDS = 1.0
RECONCILE_SECONDS = 30.0
REMEMBERED_HOLDS = 100_000
"""Credits to be given back that are remembered while the ledger is away; the rest runs out by itself."""
GRACE_SECONDS = 60.0
"""Credits younger than this may belong to submissions on their way to `sealed`."""


async def reconcile_ledger(ctx: Context, desk: Desk) -> None:
    """Looks after the ledger until cancelled."""
    loop = asyncio.get_running_loop()
    known: str | None = None
    due = loop.time()
    rebuilt_at = -RECONCILE_SECONDS - GRACE_SECONDS
    while True:
        answered, desk.answered_holds = desk.answered_holds, []
        try:
            generation = await ctx.ledger.generation()
            if generation is None or generation != known or loop.time() >= due:
                if generation != known:
                    rebuilt_at = loop.time()
                if known is not None and generation != known:
                    log.warning("ledger_emptied", rebuilt_from=len(desk.jobs.live))
                known = await ctx.ledger.reconcile(holds_of(desk), ctx.settings.ingest.hold_seconds, GRACE_SECONDS)
                due = loop.time() + RECONCILE_SECONDS
            # Of jobs that were answered while the ledger was rebuilt the aggregator gave back what was not there yet.
            if answered and loop.time() - rebuilt_at < RECONCILE_SECONDS + GRACE_SECONDS:
                await ctx.ledger.release(answered)
        except LedgerAway as away:
            log.warning("ledger_away", problem=str(away))
            rebuilt_at = loop.time()
            desk.answered_holds[:0] = answered[-REMEMBERED_HOLDS:]
        await asyncio.sleep(LOOK_SECONDS)


def holds_of(desk: Desk) -> list[Hold]:
    """The credits that live jobs hold."""
    return [Hold(job.head.hold, job.head.lane, job.head.size, job.head.tenant) for job in desk.jobs.live.values()]
