"""The rule of quotas, for one tenant: two token buckets, and what is in flight. Pure; `admit.lua` is the same rule in Redis.

A bucket holds `rate × burst_seconds` and is filled at `rate`; what is kept is how much of it is spent, so that an unused one
needs no entry. Requests are paid for in advance, one each. Tokens are paid for once an answer tells how many they were, so
that the bucket may be overdrawn: new requests are refused until it is level again.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from llmos.infra.ledger.port import OverQuota, TenantUse
from llmos.schemas.catalog import Quotas

ASK_AGAIN_SECONDS: Final = 1.0
"""When to ask again for what others of the tenant's own jobs have in flight: nobody knows when they end."""
ROUNDING: Final = 1e-6
"""A bucket that lacks less than this is level: sums of fractions are not exact."""


class Spent(NamedTuple):
    """What a tenant has spent of its buckets, as of `at` (Unix seconds), and the rates at which it earns that back."""

    requests: float = 0.0
    tokens: float = 0.0
    at: float = 0.0
    request_rate: float = 0.0
    token_rate: float = 0.0


def has_rates(quotas: Quotas) -> bool:
    """Whether anything is spent under these."""
    return quotas.requests_per_second > 0 or quotas.tokens_per_second > 0


def spent_at(spent: Spent, now: float) -> Spent:
    """The same at a later time: something is earned back."""
    elapsed = max(now - spent.at, 0.0)
    return spent._replace(
        requests=max(spent.requests - spent.request_rate * elapsed, 0.0),
        tokens=max(spent.tokens - spent.token_rate * elapsed, 0.0),
        at=now,
    )


def under(spent: Spent, quotas: Quotas) -> Spent:
    """With the rates of these quotas from now on; what has no limit is not counted."""
    return Spent(
        requests=spent.requests if quotas.requests_per_second > 0 else 0.0,
        tokens=spent.tokens if quotas.tokens_per_second > 0 else 0.0,
        at=spent.at,
        request_rate=quotas.requests_per_second,
        token_rate=quotas.tokens_per_second,
    )


def judge(use: TenantUse, size: int, quotas: Quotas) -> OverQuota | None:
    """Why one more submission of `size` bytes is beyond the quotas of a tenant that uses this much now; None: it is not."""
    if quotas.jobs and use.jobs + 1 > quotas.jobs:
        return OverQuota("jobs", use.jobs, quotas.jobs, ASK_AGAIN_SECONDS)
    if quotas.bytes and use.bytes + size > quotas.bytes:
        return OverQuota("bytes", use.bytes, quotas.bytes, ASK_AGAIN_SECONDS)
    rate = quotas.requests_per_second
    if rate > 0:
        room = max(rate * quotas.burst_seconds, 1.0)
        if use.requests + 1 > room + ROUNDING:
            return OverQuota("requests", use.requests, room, (use.requests + 1 - room) / rate)
    rate = quotas.tokens_per_second
    if rate > 0:
        room = rate * quotas.burst_seconds
        if use.tokens > room + ROUNDING:
            return OverQuota("tokens", use.tokens, room, (use.tokens - room) / rate)
    return None


def with_one_more(use: TenantUse, size: int, quotas: Quotas) -> TenantUse:
    """After a submission of `size` bytes was taken."""
    requests = use.requests + 1 if quotas.requests_per_second > 0 else 0.0
    return TenantUse(use.jobs + 1, use.bytes + size, requests, use.tokens)
