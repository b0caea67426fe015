"""Keeps the ledger in step with what is live: leases and windows as they change, all of it after it was emptied."""

from __future__ import annotations

import asyncio

import structlog

from llmos.infra.ledger.port import Hold, LedgerAway
from llmos.infra.runtime.context import Context
from llmos.infra.telemetry.metrics import (
    LEDGER_HOLDS,
    LEDGER_LEASES,
    LEDGER_REBUILT,
    LEDGER_REFUSED,
    LEDGER_UNKNOWN,
    LEDGER_WINDOW,
)
from llmos.services.scheduler.desk import Desk
from llmos.services.scheduler.leasing import Leases, changes, leases_of

log = structlog.get_logger()

LOOK_SECONDS = 1.0
RECONCILE_SECONDS = 30.0
LEASE_SECONDS = 4 * RECONCILE_SECONDS
"""A lease that nobody renews for so long ends by itself: its scheduler is gone, and so is the next."""
WINDOW_SECONDS = 5.0
"""Windows move with every heartbeat; so often they are written down."""
REMEMBERED_HOLDS = 100_000
"""Credits to be given back that are remembered while the ledger is away; the rest runs out by itself."""
GRACE_SECONDS = 60.0
"""Credits younger than this may belong to submissions on their way to `sealed`."""


async def reconcile_ledger(ctx: Context, desk: Desk) -> None:
    """Looks after the ledger until cancelled."""
    keeper = Keeper(ctx, desk)
    while True:
        await keeper.look()
        await asyncio.sleep(LOOK_SECONDS)


async def windows_known(ctx: Context) -> dict[str, dict[str, float]]:
    """The windows that the last scheduler wrote down; none where the ledger is away."""
    try:
        return await ctx.ledger.windows()
    except LedgerAway as away:
        log.warning("ledger_away", problem=str(away))
        return {}


class Keeper:
    """What the ledger is known to have."""

    def __init__(self, ctx: Context, desk: Desk) -> None:
        self._ctx = ctx
        self._desk = desk
        self._generation: str | None = None
        self._written: Leases = {}
        self._windows: dict[str, dict[str, float]] = {}
        now = asyncio.get_running_loop().time()
        self._due = now
        self._windows_due = now
        self._rebuilt_at = -RECONCILE_SECONDS - GRACE_SECONDS

    async def look(self) -> None:
        """Writes what has changed, or everything: when the ledger was emptied, was away, and now and then."""
        desk, now = self._desk, asyncio.get_running_loop().time()
        answered, desk.answered_holds = desk.answered_holds, []
        try:
            generation = await self._ctx.ledger.generation()
            if generation is None or generation != self._generation or now >= self._due:
                await self._write_all(generation, now)
            else:
                await self._write_changes()
            # Of jobs that were answered while the ledger was rebuilt the aggregator gave back what was not there yet.
            if answered and now - self._rebuilt_at < RECONCILE_SECONDS + GRACE_SECONDS:
                await self._ctx.ledger.release(answered)
            if now >= self._windows_due:
                self._windows_due = now + WINDOW_SECONDS
                await self._write_windows()
                await self._measure()
        except LedgerAway as away:
            log.warning("ledger_away", problem=str(away))
            # What of the last writes it has nobody knows.
            self._due = self._rebuilt_at = now
            desk.answered_holds[:0] = answered[-REMEMBERED_HOLDS:]

    async def _write_all(self, found: str | None, now: float) -> None:
        ledger, desk = self._ctx.ledger, self._desk
        if found != self._generation or found is None:
            self._rebuilt_at = now
            self._windows = {}
            if self._generation is not None:
                LEDGER_REBUILT.inc()
                log.warning("ledger_emptied", rebuilt_from=len(desk.jobs.live))
        live = leases_of(desk)
        seconds = self._ctx.settings.ingest.hold_seconds
        self._generation = await ledger.reconcile(holds_of(desk), seconds, GRACE_SECONDS)
        ended = await ledger.reconcile_leases(list(live.values()), desk.term, LEASE_SECONDS)
        forgotten = ended - len(self._written.keys() - live.keys())
        if forgotten > 0:
            log.info("leases_of_others_ended", leases=forgotten)
        self._written = live
        self._due = now + RECONCILE_SECONDS

    async def _write_changes(self) -> None:
        live = leases_of(self._desk)
        taken, ended = changes(self._written, live)
        if taken:
            granted = await self._ctx.ledger.lease(taken, LEASE_SECONDS)
            refused = granted.count(False)
            if refused:
                LEDGER_REFUSED.inc(refused)
                log.warning("leases_refused", leases=refused, term=self._desk.term)
                had = {lease.task for lease, may in zip(taken, granted, strict=True) if not may}
                live = {task: lease for task, lease in live.items() if task not in had}
        if ended:
            unknown = await self._ctx.ledger.end_leases(ended)
            if unknown:
                # The ledger was not emptied since the last look: somebody else ended them, or they were never there.
                LEDGER_UNKNOWN.inc(unknown)
                log.error("unknown_leases_ended", leases=unknown)
        self._written = live

    async def _write_windows(self) -> None:
        for device in self._desk.fleet:
            windows = device.windows()
            if self._windows.get(device.name) == windows:
                continue
            if not await self._ctx.ledger.put_windows(device.name, self._desk.term, windows):
                log.warning("windows_refused", device=device.name, term=self._desk.term)
            self._windows[device.name] = windows
            for kind, size in windows.items():
                LEDGER_WINDOW.labels(device.name, kind or "other").set(size)

    async def _measure(self) -> None:
        for lane, use in (await self._ctx.ledger.use()).items():
            LEDGER_HOLDS.labels(lane).set(use.jobs)
        LEDGER_LEASES.clear()
        for device, tasks in (await self._ctx.ledger.leases()).items():
            LEDGER_LEASES.labels(device).set(tasks)


def holds_of(desk: Desk) -> list[Hold]:
    """The credits that live jobs hold."""
    return [Hold(job.head.hold, job.head.lane, job.head.size, job.head.tenant) for job in desk.jobs.live.values()]
