"""Storms over a ledger: two schedulers, an ingest, crashes, expiry, flushes; afterwards the ledger equals what is live.

A step is a tuple; `STEPS` draws them. `weather` plays them on any ledger and asserts what must hold on the way and at the
end: the older scheduler never wins a lease from the newer one, reconciled the ledger has exactly the live set, and with
nothing live it stands at zero.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import strategies as st

from llmos.infra.ledger.port import Hold, Lease
from llmos.schemas.catalog import Quotas
from llmos.schemas.ids import epoch_of
from llmos.schemas.job import LANES
from tests.kit.ledger_kit import LIMITS, NOTHING, Bench, seen, take

TERMS = (5, 6)
LEASE_SECONDS = 60.0
QUOTAS = {"acme": Quotas(jobs=2, tokens_per_second=100.0)}

_which = st.sampled_from(TERMS)
_task = st.sampled_from(["0:1:0", "0:1:1", "1:7:0", "2:9:0"])
_device = st.sampled_from(["d", "e", "node-0.cpu:1/2"])
_hold = st.integers(0, 5)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), _which, _task, _device),
        st.tuples(st.just("end"), _which, _task),
        st.tuples(st.just("write"), _which),
        st.tuples(st.just("lost"), _which),
        st.tuples(st.just("crash"), _which),
        st.tuples(st.just("reconcile"), _which),
        st.tuples(st.just("hold"), _hold),
        st.tuples(st.just("release"), _hold),
        st.tuples(st.just("charge"), st.integers(0, 2000)),
        st.tuples(st.just("seen"), st.integers(0, 2), st.integers(1, 3)),
        st.tuples(st.just("later"), st.sampled_from([1.0, 45.0, 90.0])),
        st.tuples(st.just("flush")),
    ),
    max_size=40,
)


class _Scheduler:
    """What one term has in flight, and what it believes the ledger to have."""

    def __init__(self, term: int) -> None:
        self.term = term
        self.attempts: Counter[str] = Counter()
        self.live: dict[str, Lease] = {}
        self.written: dict[str, Lease] = {}

    def start(self, task: str, device: str) -> None:
        self.attempts[task] += 1
        self.live[task] = Lease(task, device, epoch_of(self.term, self.attempts[task]), f"hold-{task}")


class _Storm:
    """Plays steps on a bench."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.old, self.new = (_Scheduler(term) for term in TERMS)
        self.held: set[int] = set()
        self.nonces: dict[int, int] = {}
        self.sure = True
        """Whether all nonces must still be known."""

    def _of(self, term: int) -> _Scheduler:
        return self.old if term == self.old.term else self.new

    async def play(self, step: tuple[Any, ...]) -> None:
        await getattr(self, f"_{step[0]}")(*step[1:])

    async def _start(self, term: int, task: str, device: str) -> None:
        self._of(term).start(task, device)

    async def _end(self, term: int, task: str) -> None:
        self._of(term).live.pop(task, None)

    async def _write(self, term: int) -> None:
        """The changes since the last write."""
        scheduler, ledger = self._of(term), self.bench.ledger
        taken = [lease for task, lease in scheduler.live.items() if scheduler.written.get(task) != lease]
        granted = await ledger.lease(taken, LEASE_SECONDS)
        if scheduler is self.new:
            assert all(granted), "nobody has a higher epoch than the newest scheduler"
        ended = [(task, lease.epoch) for task, lease in scheduler.written.items() if task not in scheduler.live]
        assert 0 <= await ledger.end_leases(ended) <= len(ended)
        scheduler.written = dict(scheduler.live)

    async def _lost(self, term: int) -> None:
        """A write whose end is unknown: half of it was done."""
        scheduler = self._of(term)
        taken = list(scheduler.live.values())
        await self.bench.ledger.lease(taken[: len(taken) // 2], LEASE_SECONDS)

    async def _crash(self, term: int) -> None:
        """Its memory is gone; its next life has a higher attempt of everything it takes up."""
        scheduler = self._of(term)
        scheduler.live, scheduler.written = {}, {}

    async def _reconcile(self, term: int) -> None:
        scheduler = self._of(term)
        await self.bench.ledger.reconcile_leases(list(scheduler.live.values()), term, LEASE_SECONDS)
        scheduler.written = dict(scheduler.live)

    async def _hold(self, number: int) -> None:
        (*held,) = await take(self.bench.ledger, [_credit(number)], LIMITS, 60.0, QUOTAS)
        if held and isinstance(held[0], str):
            self.held.add(number)

    async def _charge(self, tokens: int) -> None:
        await self.bench.ledger.charge({"acme": tokens})

    async def _seen(self, number: int, origin: int) -> None:
        """The same nonce from several places: none but the first passes, until the ledger was emptied or time went by."""
        (first,) = await seen(self.bench.ledger, [(f"acme:{number}", str(origin))], 60.0)
        expected = self.nonces.setdefault(number, origin)
        if self.sure:
            assert first == (None if expected == origin else str(expected))

    async def _release(self, number: int) -> None:
        await self.bench.ledger.release([_credit(number).id])
        self.held.discard(number)

    async def _later(self, seconds: float) -> None:
        await self.bench.pass_time(seconds)
        self.sure = False

    async def _flush(self) -> None:
        await self.bench.flush()
        self.nonces.clear()

    async def settle(self) -> None:
        """The storm is over: what must hold now."""
        ledger, live = self.bench.ledger, self.new.live
        credits_ = [_credit(number) for number in self.held]
        await ledger.reconcile(credits_, 600.0, grace_seconds=-1.0)
        await ledger.reconcile_leases(list(live.values()), self.new.term, LEASE_SECONDS)
        assert await ledger.leases() == Counter(lease.device for lease in live.values())
        use, tenants = await ledger.use(), await ledger.tenants()
        assert {name: own.jobs for name, own in tenants.items() if own.jobs} == Counter(
            hold.tenant for hold in credits_
        )
        assert {lane: own.jobs for lane, own in use.items() if own.jobs} == Counter(hold.lane for hold in credits_)

        theirs = [Lease(task, "zombie", epoch_of(self.old.term, 65_535)) for task in live]
        assert await ledger.lease(theirs, LEASE_SECONDS) == [False] * len(theirs)
        await ledger.reconcile_leases([], self.old.term, LEASE_SECONDS)
        assert await ledger.leases() == Counter(lease.device for lease in live.values()), (
            "an older one ends none of them"
        )

        assert await ledger.end_leases([(task, lease.epoch) for task, lease in live.items()]) == 0
        await ledger.release([hold.id for hold in credits_])
        assert (await ledger.leases(), await ledger.use()) == ({}, NOTHING)
        assert not any(own.jobs or own.bytes for own in (await ledger.tenants()).values())


def _credit(number: int) -> Hold:
    return Hold(f"hold-{number}", LANES[number % 3], 10, "acme" if number % 2 else "demo")


async def weather(bench: Bench, steps: list[tuple[Any, ...]]) -> None:
    """Plays a storm and asserts what must hold."""
    storm = _Storm(bench)
    for step in steps:
        await storm.play(step)
    await storm.settle()
