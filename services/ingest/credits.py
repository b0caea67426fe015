"""Takes credits: from the ledger, or by the scheduler's live counts when the ledger is away."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import structlog

from llmos.infra.ledger.port import Hold, LaneUse, LedgerAway, Limit, Limits
from llmos.infra.log.port import Record
from llmos.infra.runtime.context import Context
from llmos.infra.settings.tree import Ingest
from llmos.pipelines.admission.credits import grant, may_resume
from llmos.schemas.errors import RecordError
from llmos.schemas.job import Lane
from llmos.schemas.telemetry import TELEMETRY, LiveCounts

log = structlog.get_logger()

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
    """The credits of all lanes, as one ingest instance takes them."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._limits = limits_of(ctx.settings.ingest)
        self._counts: LiveCounts | None = None
        self._recent: deque[tuple[float, Hold]] = deque()
        """What this instance admitted lately, for the time without a ledger."""
        self._degraded = False

    def note_telemetry(self, record: Record) -> None:
        """Keeps the scheduler's latest live counts."""
        try:
            message = TELEMETRY.decode(record.value)
        except RecordError as problem:
            log.warning("telemetry_unreadable", offset=record.offset, error=str(problem))
            return
        if isinstance(message, LiveCounts):
            self._counts = message

    async def take(self, holds: Sequence[Hold]) -> int:
        """Takes credits in order until one does not fit; gives how many were taken."""
        if not holds:
            return 0
        try:
            count = await self._ctx.ledger.hold(holds, self._limits, self._ctx.settings.ingest.hold_seconds)
            self._say(degraded=False)
        except LedgerAway as away:
            self._say(degraded=True, problem=str(away))
            count = grant(self._use_without_ledger(), holds, self._limits).taken
        now = self._ctx.clock.now()
        self._recent.extend((now, hold) for hold in holds[:count])
        self._forget(now)
        return count

    async def may_resume(self, lanes: set[Lane]) -> bool:
        """Whether one of these paused lanes has enough free credits again."""
        try:
            use = await self._ctx.ledger.use()
        except LedgerAway:
            use = self._use_without_ledger()
        fraction = self._ctx.settings.ingest.resume_fraction
        return any(may_resume(use, lane, self._limits, fraction) for lane in lanes)

    def _use_without_ledger(self) -> dict[Lane, LaneUse]:
        self._forget(self._ctx.clock.now())
        use: dict[Lane, LaneUse] = {}
        if self._counts is not None:
            use = {lane: LaneUse(jobs, size) for lane, (jobs, size) in self._counts.lanes.items()}
        for _, hold in self._recent:
            own = use.get(hold.lane, LaneUse(0, 0))
            use[hold.lane] = LaneUse(own.jobs + 1, own.bytes + hold.size)
        return use

    def _forget(self, now: float) -> None:
        since = self._counts.at - OVERLAP_SECONDS if self._counts else now - self._ctx.settings.ingest.hold_seconds
        while self._recent and self._recent[0][0] < since:
            self._recent.popleft()

    def _say(self, *, degraded: bool, problem: str = "") -> None:
        if degraded != self._degraded:
            self._degraded = degraded
            log.warning("ledger_away", problem=problem) if degraded else log.info("ledger_back")
