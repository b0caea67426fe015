"""Admission by counts, for when the ledger is away: by lane and by tenant, from the scheduler's live counts and what was
admitted since. It decides as the ledger does; of tokens it knows nothing. Also: what a refusal says. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from llmos.infra.ledger.port import Held, Hold, LaneUse, Limits, OverQuota, Quota, TenantUse
from llmos.infra.ledger.quotas import Spent, has_rates, judge, spent_at, under, with_one_more
from llmos.pipelines.admission.credits import fits
from llmos.schemas.catalog import Quotas
from llmos.schemas.errors import QuotaExceeded, RefusedError, TooLarge
from llmos.schemas.job import Lane

_WHAT: Final[dict[Quota, str]] = {
    "jobs": "jobs in flight",
    "bytes": "payload bytes in flight",
    "requests": "requests at {:g} per second",
    "tokens": "tokens at {:g} per second",
}


class Admission(NamedTuple):
    """What became of the holds, from the front up to the first without a credit, and what lanes and tenants use then."""

    outcomes: list[Held]
    lanes: dict[Lane, LaneUse]
    tenants: dict[str, TenantUse]


def admit(
    lanes: Mapping[Lane, LaneUse],
    tenants: Mapping[str, TenantUse],
    holds: Sequence[Hold],
    limits: Limits,
    quotas: Mapping[str, Quotas],
) -> Admission:
    """Takes holds in order until one does not fit into its lane. One that is beyond its tenant's quota takes nothing and
    does not stop those behind it."""
    use, of_tenants = dict(lanes), dict(tenants)
    outcomes: list[Held] = []
    for hold in holds:
        quota, used = quotas.get(hold.tenant, Quotas()), of_tenants.get(hold.tenant, TenantUse())
        over = judge(used, hold.size, quota)
        if over is not None:
            outcomes.append(over)
            continue
        if not fits(use, hold.lane, hold.size, limits):
            break
        own = use.get(hold.lane, LaneUse(0, 0))
        use[hold.lane] = LaneUse(own.jobs + 1, own.bytes + hold.size)
        of_tenants[hold.tenant] = with_one_more(used, hold.size, quota)
        outcomes.append("taken")
    return Admission(outcomes, use, of_tenants)


def spend(
    spent: Mapping[str, Spent], taken: Iterable[Hold], quotas: Mapping[str, Quotas], now: float
) -> dict[str, Spent]:
    """What tenants have spent of their rates after these were taken, under these quotas from now on; of tenants without a
    rate nothing is kept."""
    after = {tenant: own for tenant, own in spent.items() if tenant not in quotas}
    for tenant, quota in quotas.items():
        if has_rates(quota):
            after[tenant] = under(spent_at(spent.get(tenant, Spent(at=now)), now), quota)
    for hold in taken:
        if hold.tenant in quotas and quotas[hold.tenant].requests_per_second > 0:
            own = after[hold.tenant]
            after[hold.tenant] = own._replace(requests=own.requests + 1)
    return after


def refusal(hold: Hold, over: OverQuota, quotas: Quotas) -> RefusedError:
    """What the sender of a refused submission is told."""
    if over.quota == "bytes" and hold.size > over.limit:
        return TooLarge(what="the payload", size=hold.size, limit=round(over.limit))
    rate = quotas.requests_per_second if over.quota == "requests" else quotas.tokens_per_second
    return QuotaExceeded(
        tenant=hold.tenant,
        used=round(over.used, 1) if over.quota == "requests" else round(over.used),
        limit=round(over.limit, 1) if over.quota == "requests" else round(over.limit),
        what=_WHAT[over.quota].format(rate),
        retry_after=over.retry_after,
    )
