"""What this instance remembers of signed requests, so that each is taken once also while the ledger is away.

A nonce is kept with the origin of the record that brought it first. So a record that is read again after a crash meets itself
and passes: a stage never refuses its own replay.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmos.infra.ledger.port import Asked, Copied, Outcome

KNOWN_AT_MOST = 100_000
"""Nonces in the table of an instance, some 25 MB: it is for the time without a ledger."""


class Nonces:
    """What this instance has seen, beside the ledger that all of them share."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes], tuple[str, float]] = {}
        """Tenant and nonce → its first origin, and when it was seen (Unix seconds); the oldest first."""

    def told(self, asked: Sequence[Asked], before: float) -> list[Asked]:
        """The requests with what is known here of their nonces, for the ledger: where it was away or emptied, a copy would be
        the first there. What was seen before the time `before` is forgotten."""
        self._forget(before)
        known = self._known
        return [
            one._replace(first=found[0])
            if one.nonce and (found := known.get((one.tenant, one.nonce))) is not None and found[0] != one.origin
            else one
            for one in asked
        ]

    def note(self, asked: Sequence[Asked], outcomes: Sequence[Outcome], now: float) -> None:
        """Remembers what the ledger said of these requests; of those without an outcome nothing."""
        for one, outcome in zip(asked, outcomes, strict=False):
            if one.nonce:
                name, first = (one.tenant, one.nonce), outcome.first if isinstance(outcome, Copied) else one.origin
                if name not in self._known or self._known[name][0] != first:
                    self._known[name] = first, now

    def copies(self, asked: Sequence[Asked], now: float) -> list[Copied | None]:
        """Without a ledger: for each request where it was seen first, if elsewhere, as far as is known here. They are
        remembered."""
        found: list[Copied | None] = []
        for one in asked:
            first = one.origin
            if one.nonce:
                first, _ = self._known.setdefault((one.tenant, one.nonce), (one.origin, now))
            found.append(None if first == one.origin else Copied(first))
        return found

    def _forget(self, before: float) -> None:
        while self._known:
            oldest = next(iter(self._known))
            if len(self._known) <= KNOWN_AT_MOST and self._known[oldest][1] > before:
                break
            del self._known[oldest]
