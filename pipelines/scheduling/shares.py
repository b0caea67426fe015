"""Tenants' shares: each tenant has a counter of the predicted work it was given, over its weight; the least goes first.

That is start-time fair queueing with virtual token counters (Sheng et al., Fairness in Serving Large Language Models, 2024):
the counters of two tenants that both have work waiting never part by more than the largest task of each, over its weight. A
tenant that had nothing waiting saves nothing up: it joins at the virtual time, the least counter of those that waited. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

DEBT_SECONDS = 120.0
"""How far a counter may be ahead of the virtual time: what a tenant was given while others asked for nothing is forgiven."""


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


def settled(before: Shares, counters: Mapping[str, float], waiting: Iterable[str]) -> Shares:
    """The shares after a decision: `counters` of the tenants it met, `waiting` those it had no room for.

    Where nobody is left waiting, everybody had what it wanted and all start equal again.
    """
    left = [counters[tenant] for tenant in waiting]
    if not left:
        return Shares(before.virtual)
    virtual = max(min(left), before.virtual)
    limit = virtual + DEBT_SECONDS
    ahead = {
        tenant: min(counter, limit) for tenant, counter in {**before.ahead, **counters}.items() if counter > virtual
    }
    return Shares(virtual, ahead)
