"""Tenants' shares: each tenant has a counter of the predicted work it was given, over its weight; the least goes first.

That is start-time fair queueing with virtual token counters (Sheng et al., Fairness in Serving Large Language Models, 2024):
the counters of two tenants that both have work waiting never part by more than the largest task of each, over its weight. A
tenant that had nothing waiting saves nothing up: it joins at the virtual time, the least counter of those that waited. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

DEBT_SECONDS = 120.0
"""How far a counter may be ahead of the virtual time, beside one task: what a more urgent lane or level was given while the
others had to wait is forgiven above that. Where all wait for the same devices at one level, nobody gets so far ahead."""


NO_CHARGES: Final[Mapping[str, float]] = MappingProxyType({})


class Shares(NamedTuple):
    """What was given so far, in device seconds over weight."""

    virtual: float = 0.0
    ahead: Mapping[str, float] = {}
    """Counters of tenants that are ahead of the virtual time."""

    def of(self, tenant: str) -> float:
        """The tenant's counter."""
        return max(self.ahead.get(tenant, self.virtual), self.virtual)


def charged(counter: float, work_seconds: float, weight: float) -> float:
    """The counter once the tenant was given `work_seconds` more."""
    return counter + work_seconds / weight


def settled(
    before: Shares,
    counters: Mapping[str, float],
    waiting: Iterable[str],
    largest: Mapping[str, float] = NO_CHARGES,
) -> Shares:
    """The shares after a decision: `counters` of the tenants it met, `waiting` those it had no room for, `largest` the
    largest charge of each that was given something.

    Where nobody is left waiting, everybody had what it wanted and all start equal again. A tenant that was the least before
    its last task is ahead by that task at most, whatever its size and the tenant's weight: the bound on debts leaves it.
    """
    left = [counters[tenant] for tenant in waiting]
    if not left:
        return Shares(before.virtual)
    virtual = max(min(left), before.virtual)
    limit = virtual + DEBT_SECONDS
    ahead = {
        tenant: min(counter, max(before.of(tenant), limit + largest.get(tenant, 0.0)))
        for tenant, counter in {**before.ahead, **counters}.items()
        if counter > virtual
    }
    return Shares(virtual, ahead)
