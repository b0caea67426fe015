"""Remembers which signed requests were taken, so that each is taken once: in the ledger, and in a table of this instance.

A nonce is kept with the origin of the record that brought it first. So a record that is read again after a crash meets itself
and passes: a stage never refuses its own replay.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from llmos.infra.ledger.port import LedgerAway
from llmos.infra.runtime.context import Context

log = structlog.get_logger()

KNOWN_AT_MOST = 100_000
"""Nonces in the table of an instance, some 25 MB: it is for the time without a ledger."""


class Nonces:
    """What this instance has seen, beside the ledger that all of them share."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._known: dict[str, tuple[str, float]] = {}
        """Name → its first origin, and when it was seen (Unix seconds); the oldest first."""
        self._degraded = False

    async def seen(self, names: Sequence[tuple[str, str]], lag_seconds: float) -> list[str | None]:
        """For each (name, origin) the other origin at which the name was seen first; None: it is new, or known from here.

        A copy can pass for fresh for twice the freshness, and is read as late as the backlog is long (`lag_seconds`): so
        long a name is remembered.
        """
        if not names:
            return []
        seconds = 2 * self._ctx.settings.ingest.freshness_seconds + max(lag_seconds, 0.0)
        now = self._ctx.clock.now()
        self._forget(now - seconds)
        # What is known here is told to a ledger that was away or emptied: else a copy would be the first there.
        firsts = [(name, self._known[name][0] if name in self._known else origin) for name, origin in names]
        try:
            others = await self._ctx.ledger.seen(firsts, seconds)
            self._say(degraded=False)
        except LedgerAway as away:
            self._say(degraded=True, problem=str(away))
            others = [None] * len(names)
        found: list[str | None] = []
        for (name, origin), (_, first), other in zip(names, firsts, others, strict=True):
            if other is not None:
                self._known[name] = other, now
            known, _ = self._known.setdefault(name, (first, now))
            found.append(None if known == origin else known)
        return found

    def _forget(self, before: float) -> None:
        while self._known:
            oldest = next(iter(self._known))
            if len(self._known) <= KNOWN_AT_MOST and self._known[oldest][1] > before:
                break
            del self._known[oldest]

    def _say(self, *, degraded: bool, problem: str = "") -> None:
        if degraded != self._degraded:
            self._degraded = degraded
            log.warning("nonces_local", problem=problem) if degraded else log.info("nonces_shared")
