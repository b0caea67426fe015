"""The ledger in memory, for tests and simulations: the same behaviour, on the clock it is given."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmos.infra.ledger.port import (
    NO_QUOTAS,
    Asked,
    Copied,
    Held,
    Hold,
    LaneUse,
    Lease,
    LedgerAway,
    Limits,
    Outcome,
    TenantUse,
)
from llmos.infra.ledger.quotas import Spent, has_rates, judge, spent_at, under, with_one_more
from llmos.infra.log.port import Clock
from llmos.schemas.catalog import Quotas
from llmos.schemas.ids import term_of
from llmos.schemas.job import LANES, Lane
from llmos.schemas.telemetry import Residency


@dataclass(slots=True)
class _Entry:
    hold: Hold
    granted_at: float
    ends_at: float


class MemoryLedger:
    """Keeps the port `Ledger`. `away`: while set, every call raises `LedgerAway`."""

    def __init__(self, clock: Clock) -> None:
        self.away = False
        self._clock = clock
        self._names = itertools.count(1)
        self._holds: dict[str, _Entry] = {}
        self._spent: dict[str, Spent] = {}
        self._nonces: dict[tuple[str, bytes], tuple[str, float]] = {}
        """Tenant and nonce → its origin, and when it was seen; the oldest first."""
        self._leases: dict[str, tuple[Lease, float]] = {}
        """By task, with the time at which each ends."""
        self._windows: dict[str, tuple[int, dict[str, float]]] = {}
        self._generation: str | None = None
        self._residency: dict[str, tuple[int, list[Residency]]] = {}

    def flush(self) -> None:
        """Empties the ledger, as an operator or a crash may at any moment."""
        self._holds.clear()
        self._spent.clear()
        self._nonces.clear()
        self._leases.clear()
        self._windows.clear()
        self._generation = None
        self._residency.clear()

    async def admit(
        self,
        asked: Sequence[Asked],
        limits: Limits,
        seconds: float,
        quotas: Mapping[str, Quotas] = NO_QUOTAS,
        nonce_seconds: float = 0.0,
    ) -> list[Outcome]:
        """Takes requests in order, up to the first that does not fit into its lane; one outcome per request until then."""
        now = self._settle()
        if any(one.nonce for one in asked):
            self._forget_nonces(now - nonce_seconds)
        for tenant in {one.hold.tenant for one in asked if one.hold is not None}:
            self._apply(tenant, quotas.get(tenant, Quotas()), now)
        use, tenants = self._use(), self._tenants(now)
        outcomes: list[Outcome] = []
        for one in asked:
            first = self._first(one, now) if one.nonce else one.origin
            outcome: Outcome | None
            if first != one.origin:
                outcome = Copied(first)
            elif one.hold is None:
                outcome = "noted"
            else:
                outcome = self._hold(one.hold, use, tenants, limits, now, seconds, quotas)
            if outcome is None:
                break
            outcomes.append(outcome)
        return outcomes

    def _first(self, one: Asked, now: float) -> str:
        """The origin at which a nonce was seen first, from now on remembered."""
        first, _ = self._nonces.setdefault((one.tenant, one.nonce), (one.first or one.origin, now))
        return first

    def _forget_nonces(self, before: float) -> None:
        while self._nonces and self._nonces[oldest := next(iter(self._nonces))][1] <= before:
            del self._nonces[oldest]

    def _hold(
        self,
        hold: Hold,
        use: dict[Lane, LaneUse],
        tenants: dict[str, TenantUse],
        limits: Limits,
        now: float,
        seconds: float,
        quotas: Mapping[str, Quotas],
    ) -> Held | None:
        """Takes a credit, and counts it in `use` and `tenants`; None: it does not fit into its lane."""
        known = self._holds.get(hold.id)
        if known is not None:
            known.granted_at, known.ends_at = now, now + seconds
            return "known"
        quota, used = quotas.get(hold.tenant, Quotas()), tenants.get(hold.tenant, TenantUse())
        over = judge(used, hold.size, quota)
        if over is not None:
            return over
        if not _fits(use, hold, limits):
            return None
        own = use[hold.lane]
        use[hold.lane] = LaneUse(own.jobs + 1, own.bytes + hold.size)
        tenants[hold.tenant] = after = with_one_more(used, hold.size, quota)
        if hold.tenant in self._spent:
            self._spent[hold.tenant] = self._spent[hold.tenant]._replace(requests=after.requests)
        self._holds[hold.id] = _Entry(hold, now, now + seconds)
        return "taken"

    async def release(self, ids: Sequence[str]) -> None:
        """Gives credits back; unknown ids are nothing to it."""
        self._settle()
        for id_ in ids:
            self._holds.pop(id_, None)

    async def use(self) -> dict[Lane, LaneUse]:
        """What is held per lane."""
        self._settle()
        return self._use()

    async def tenants(self) -> dict[str, TenantUse]:
        """What tenants hold and have spent."""
        return self._tenants(self._settle())

    async def charge(self, tokens: Mapping[str, int]) -> None:
        """Adds tokens, by tenant, to what is spent."""
        now = self._settle()
        for tenant, count in tokens.items():
            spent = self._spent.get(tenant)
            if spent is not None and spent.token_rate > 0:
                spent = spent_at(spent, now)
                self._spent[tenant] = spent._replace(tokens=spent.tokens + count)

    async def generation(self) -> str | None:
        """The name that `reconcile` wrote; None after the ledger was emptied."""
        self._settle()
        return self._generation

    async def reconcile(self, live: Sequence[Hold], seconds: float, grace_seconds: float) -> str:
        """Makes the ledger hold what is live; gives the generation, a new one where there was none."""
        now = self._settle()
        for hold in live:
            self._holds[hold.id] = _Entry(hold, now, now + seconds)
        ids = {hold.id for hold in live}
        self._holds = {
            id_: held for id_, held in self._holds.items() if id_ in ids or now - held.granted_at <= grace_seconds
        }
        if self._generation is None:
            self._generation = f"memory-{next(self._names)}"
        return self._generation

    async def lease(self, leases: Sequence[Lease], seconds: float) -> list[bool]:
        """Takes leases, each for itself; False where the task is leased under a higher epoch."""
        ends_at = self._settle() + seconds
        taken = []
        for lease in leases:
            known = self._leases.get(lease.task)
            may = known is None or known[0].epoch <= lease.epoch
            if may:
                self._leases[lease.task] = lease, ends_at
            taken.append(may)
        return taken

    async def end_leases(self, ended: Sequence[tuple[str, int]]) -> int:
        """Ends leases of that epoch or a lower one; gives how many were not there to be ended."""
        self._settle()
        missing = 0
        for task, epoch in ended:
            known = self._leases.get(task)
            if known is not None and known[0].epoch <= epoch:
                del self._leases[task]
            else:
                missing += 1
        return missing

    async def leases(self) -> dict[str, int]:
        """How many tasks are leased to each device that has any."""
        self._settle()
        return dict(Counter(lease.device for lease, _ in self._leases.values()))

    async def reconcile_leases(self, live: Sequence[Lease], term: int, seconds: float) -> int:
        """Makes the ledger hold the leases that are live, as far as `term` reaches; gives how many it ended."""
        ends_at = self._settle() + seconds
        later = {task: entry for task, entry in self._leases.items() if term_of(entry[0].epoch) > term}
        ended = len(self._leases.keys() - {lease.task for lease in live} - later.keys())
        self._leases = {lease.task: (lease, ends_at) for lease in live} | later
        return ended

    async def put_windows(self, device: str, term: int, windows: Mapping[str, float]) -> bool:
        """Replaces a device's windows, by kind; False when a later scheduler's term wrote."""
        self._settle()
        if device in self._windows and self._windows[device][0] > term:
            return False
        self._windows[device] = term, dict(windows)
        return True

    async def windows(self) -> dict[str, dict[str, float]]:
        """The windows of all devices, as they were last written."""
        self._settle()
        return {device: dict(windows) for device, (_, windows) in self._windows.items()}

    async def put_residency(self, device: str, incarnation: int, residents: Sequence[Residency]) -> bool:
        """Replaces what `device` has resident; False when a higher incarnation wrote."""
        self._settle()
        if device in self._residency and self._residency[device][0] > incarnation:
            return False
        self._residency[device] = (incarnation, list(residents))
        return True

    async def residency(self) -> dict[str, list[Residency]]:
        """What is resident where, as the cache knows it."""
        self._settle()
        return {device: list(residents) for device, (_, residents) in self._residency.items() if residents}

    async def close(self) -> None:
        """Nothing is open."""

    def _settle(self) -> float:
        """Takes back what has run out; gives the time. Raises `LedgerAway` while it is away."""
        if self.away:
            raise LedgerAway("the ledger is away")
        now = self._clock.now()
        self._holds = {id_: held for id_, held in self._holds.items() if held.ends_at > now}
        self._leases = {task: entry for task, entry in self._leases.items() if entry[1] > now}
        return now

    def _tenants(self, now: float) -> dict[str, TenantUse]:
        use: dict[str, TenantUse] = {}
        for held in self._holds.values():
            own = use.get(held.hold.tenant, TenantUse())
            use[held.hold.tenant] = TenantUse(own.jobs + 1, own.bytes + held.hold.size)
        for tenant, spent in self._spent.items():
            left = spent_at(spent, now)
            use[tenant] = use.get(tenant, TenantUse())._replace(requests=left.requests, tokens=left.tokens)
        return use

    def _apply(self, tenant: str, quotas: Quotas, now: float) -> None:
        """What it has spent is earned back at the rates of these quotas from now on."""
        if has_rates(quotas):
            self._spent[tenant] = under(spent_at(self._spent.get(tenant, Spent(at=now)), now), quotas)
        else:
            self._spent.pop(tenant, None)

    def _use(self) -> dict[Lane, LaneUse]:
        use = {lane: LaneUse(0, 0) for lane in LANES}
        for held in self._holds.values():
            own = use[held.hold.lane]
            use[held.hold.lane] = LaneUse(own.jobs + 1, own.bytes + held.hold.size)
        return use


def _fits(use: dict[Lane, LaneUse], hold: Hold, limits: Limits) -> bool:
    """The rule of `pipelines/admission/credits.py:fits`; the conformance kit holds ledgers and rule together."""
    if use[hold.lane].jobs == 0:
        return True
    after = use | {hold.lane: LaneUse(use[hold.lane].jobs + 1, use[hold.lane].bytes + hold.size)}
    limit = limits.lanes[hold.lane]
    if after[hold.lane].jobs <= limit.jobs and after[hold.lane].bytes <= limit.bytes:
        return True
    over_jobs = sum(max(held.jobs - limits.lanes[lane].jobs, 0) for lane, held in after.items())
    over_bytes = sum(max(held.bytes - limits.lanes[lane].bytes, 0) for lane, held in after.items())
    return over_jobs <= limits.overflow.jobs and over_bytes <= limits.overflow.bytes
