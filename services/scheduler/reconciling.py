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
GRACE_SECONDS = 60.0
"""Credits younger than this may belong to submissions on their way to `sealed`."""


async def reconcile_ledger(ctx: Context, desk: Desk) -> None:
    """Looks after the ledger until cancelled."""
    loop = asyncio.get_running_loop()
    known: str | None = None
    due = loop.time()
    while True:
        try:
            generation = await ctx.ledger.generation()
            if generation is None or generation != known or loop.time() >= due:
                if known is not None and generation != known:
                    log.warning("ledger_emptied", rebuilt_from=len(desk.jobs.live))
                known = await ctx.ledger.reconcile(holds_of(desk), ctx.settings.ingest.hold_seconds, GRACE_SECONDS)
                due = loop.time() + RECONCILE_SECONDS
        except LedgerAway as away:
            log.warning("ledger_away", problem=str(away))
        await asyncio.sleep(LOOK_SECONDS)


def holds_of(desk: Desk) -> list[Hold]:
    """The credits that live jobs hold."""
    return [Hold(job.head.hold, job.head.lane, job.head.size, job.head.tenant) for job in desk.jobs.live.values()]
