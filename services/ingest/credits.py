"""Admits requests: nonces, quotas and credits, in the ledger in one step; by the scheduler's live counts and what this
instance has seen when the ledger is away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from llmos.infra.ledger.port import Asked, Hold, LaneUse, LedgerAway, Limit, Limits, Outcome, TenantUse
from llmos.infra.ledger.quotas import Spent, spent_at
from llmos.infra.log.port import Record
from llmos.infra.runtime.context import Context
from llmos.infra.settings.tree import Ingest
from llmos.pipelines.admission.credits import may_resume
from llmos.pipelines.admission.quotas import admit, spend
from llmos.schemas.catalog import Quotas
from llmos.schemas.errors import RecordError
from llmos.schemas.job import Lane
from llmos.schemas.telemetry import TELEMETRY, LiveCounts
from llmos.services.ingest.nonces import Nonces

log = structlog.get_logger()

CLOCKS_APART_SECONDS = 60.0
"""So far those of the log, the ledger and ingest may lie apart."""
OVERLAP_SECONDS = 2.0
"""What was admitted this shortly before live counts were taken may be missing from them, and is counted again."""


def limits_of(settings: Ingest) -> Limits:
    """The credits of the settings."""

    def limit(lane: Lane) -> Limit:
        group = getattr(settings, lane)
        return Limit(group.jobs, group.bytes)

    return Limits(
        {"interactive": limit("interactive"), "standard": limit("standard"), "batch": limit("batch")},
        Limit(settings.overflow.jobs, settings.overflow.bytes),
    )


class Credits:
    """Nonces, quotas and credits of all lanes, as one ingest instance asks for them."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._limits = limits_of(ctx.settings.ingest)
        self._nonces = Nonces()
        self._counts: LiveCounts | None = None
        self._recent: dict[str, tuple[float, Hold]] = {}
        """By id, the oldest first. What this instance admitted lately, for the time without a ledger; so is the next."""
        self._spent: dict[str, Spent] = {}
        self._degraded = False
        self._frontier: float | None = None

    def note_frontier(self, at: float) -> None:
        """All that the log took before `at` (Unix seconds) was read, by this instance or another."""
        self._frontier = at

    def note_telemetry(self, record: Record) -> None:
        """Keeps the scheduler's latest live counts."""
        try:
            message = TELEMETRY.decode(record.value)
        except RecordError as problem:
            log.warning("telemetry_unreadable", offset=record.offset, error=str(problem))
            return
        if isinstance(message, LiveCounts):
            self._counts = message

    async def take(
        self, asked: Sequence[Asked], quotas: Mapping[str, Quotas], lag_seconds: float = 0.0
    ) -> list[Outcome]:
        """Takes requests in order until one has no credit; one outcome for each until then, copies and refusals included.

        `quotas`: of those tenants that have any. `lag_seconds`: how long the records waited in the log. A copy can pass for
        fresh for twice the freshness, and is read as late as the slowest partition is behind, whosever it is: so long a
        nonce is remembered, and a little longer, as clocks differ.
        """
        if not asked:
            return []
        settings, now = self._ctx.settings.ingest, self._ctx.clock.now()
        behind = now - self._frontier if self._frontier is not None else 0.0
        nonce_seconds = 2 * settings.freshness_seconds + max(lag_seconds, behind, 0.0) + CLOCKS_APART_SECONDS
        if quotas:
            self._spent = spend(self._spent, [], quotas, now)
        told = self._nonces.told(asked, now - nonce_seconds)
        try:
            outcomes = await self._ctx.ledger.admit(told, self._limits, settings.hold_seconds, quotas, nonce_seconds)
            self._nonces.note(asked, outcomes, now)
            self._say(degraded=False)
        except LedgerAway as away:
            self._say(degraded=True, problem=str(away))
            outcomes = self._take_without_ledger(asked, quotas, now)
        held = [
            (one.hold, outcome)
            for one, outcome in zip(asked, outcomes, strict=False)
            if one.hold is not None and isinstance(outcome, str)
        ]
        for hold, _ in held:
            self._recent.pop(hold.id, None)
            self._recent[hold.id] = now, hold
        if quotas:
            self._spent = spend(self._spent, [hold for hold, outcome in held if outcome == "taken"], quotas, now)
        self._forget(now)
        return outcomes

    async def may_resume(self, lanes: set[Lane]) -> bool:
        """Whether one of these paused lanes has enough free credits again."""
        try:
            use = await self._ctx.ledger.use()
        except LedgerAway:
            use, _ = self._use_without_ledger(self._ctx.clock.now())
        fraction = self._ctx.settings.ingest.resume_fraction
        return any(may_resume(use, lane, self._limits, fraction) for lane in lanes)

    def _take_without_ledger(self, asked: Sequence[Asked], quotas: Mapping[str, Quotas], now: float) -> list[Outcome]:
        copies = self._nonces.copies(asked, now)
        wanted = [one.hold for one, copy in zip(asked, copies, strict=True) if copy is None and one.hold is not None]
        lanes, tenants = self._use_without_ledger(now)
        held = iter(admit(lanes, tenants, wanted, self._limits, quotas).outcomes)
        outcomes: list[Outcome] = []
        for one, copy in zip(asked, copies, strict=True):
            outcome: Outcome | None = copy or ("noted" if one.hold is None else next(held, None))
            if outcome is None:
                break
            outcomes.append(outcome)
        return outcomes

    def _use_without_ledger(self, now: float) -> tuple[dict[Lane, LaneUse], dict[str, TenantUse]]:
        self._forget(now)
        lanes: dict[Lane, LaneUse] = {}
        tenants: dict[str, TenantUse] = {}
        if self._counts is not None:
            lanes = {lane: LaneUse(jobs, size) for lane, (jobs, size) in self._counts.lanes.items()}
            tenants = {name: TenantUse(jobs, size) for name, (jobs, size) in self._counts.tenants.items()}
        for _, hold in self._recent.values():
            own = lanes.get(hold.lane, LaneUse(0, 0))
            lanes[hold.lane] = LaneUse(own.jobs + 1, own.bytes + hold.size)
            theirs = tenants.get(hold.tenant, TenantUse())
            tenants[hold.tenant] = theirs._replace(jobs=theirs.jobs + 1, bytes=theirs.bytes + hold.size)
        for name, spent in self._spent.items():
            tenants[name] = tenants.get(name, TenantUse())._replace(requests=spent_at(spent, now).requests)
        return lanes, tenants

    def _forget(self, now: float) -> None:
        since = self._counts.at - OVERLAP_SECONDS if self._counts else now - self._ctx.settings.ingest.hold_seconds
        while self._recent and self._recent[oldest := next(iter(self._recent))][0] < since:
            del self._recent[oldest]

    def _say(self, *, degraded: bool, problem: str = "") -> None:
        if degraded != self._degraded:
            self._degraded = degraded
            log.warning("ledger_away", problem=problem) if degraded else log.info("ledger_back")
