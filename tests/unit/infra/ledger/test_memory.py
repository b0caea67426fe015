"""The ledger in memory keeps the port's promises, and can be away."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.infra.ledger.memory import MemoryLedger
from llmos.infra.ledger.port import Hold, LedgerAway, Limit, Limits
from llmos.pipelines.admission.quotas import admit
from llmos.schemas.catalog import Quotas
from llmos.schemas.job import LANES
from tests.kit.ledger_kit import LIMITS, LedgerKit, holds, take
from tests.kit.ledger_storm import STEPS, weather


@dataclass
class Hands:
    """A clock set by hand, and the ledger on it."""

    time: float = 1000.0

    def __post_init__(self) -> None:
        self.ledger = MemoryLedger(self)

    def now(self) -> float:
        return self.time

    async def pass_time(self, seconds: float) -> None:
        self.time += seconds

    async def flush(self) -> None:
        self.ledger.flush()


class TestMemoryLedger(LedgerKit):
    """The kit, in memory."""

    @pytest.fixture
    def bench(self) -> Hands:
        return Hands()


async def test_every_call_says_that_it_is_away() -> None:
    """While it is away nothing answers; afterwards what was held is still held."""
    ledger = Hands().ledger
    await take(ledger, holds(1), LIMITS, 60.0)
    ledger.away = True
    calls = [
        take(ledger, holds(1), LIMITS, 60.0),
        ledger.release(["x"]),
        ledger.use(),
        ledger.tenants(),
        ledger.charge({}),
        ledger.generation(),
        ledger.reconcile([], 60.0, 1.0),
        ledger.lease([], 60.0),
        ledger.end_leases([]),
        ledger.leases(),
        ledger.reconcile_leases([], 1, 60.0),
        ledger.put_windows("d", 1, {}),
        ledger.windows(),
        ledger.put_residency("d", 1, []),
        ledger.residency(),
    ]
    for call in calls:
        with pytest.raises(LedgerAway):
            await call
    ledger.away = False
    assert (await ledger.use())["standard"].jobs == 1


_limit = st.builds(Limit, st.integers(1, 5), st.integers(1, 50))
_quota = st.builds(
    Quotas,
    jobs=st.integers(0, 3),
    bytes=st.integers(0, 60),
    requests_per_second=st.sampled_from([0.0, 0.1, 0.25]),
    burst_seconds=st.sampled_from([1.0, 10.0]),
)


@given(
    limits=st.builds(Limits, st.fixed_dictionaries(dict.fromkeys(LANES, _limit)), _limit),
    wanted=st.lists(st.tuples(st.sampled_from(LANES), st.integers(0, 40), st.sampled_from("abc")), max_size=20),
    quotas=st.dictionaries(st.sampled_from("ab"), _quota),
)
async def test_decides_as_admission_does(
    limits: Limits, wanted: list[tuple[str, int, str]], quotas: dict[str, Quotas]
) -> None:
    """The ledger and the policies of `admission` decide the same and count the same."""
    asked = [Hold(str(i), lane, size, tenant) for i, (lane, size, tenant) in enumerate(wanted)]  # type: ignore[arg-type]
    ledger = Hands().ledger
    admission = admit({}, {}, asked, limits, quotas)
    assert await take(ledger, asked, limits, 60.0, quotas) == admission.outcomes
    assert {lane: use for lane, use in (await ledger.use()).items() if use.jobs} == admission.lanes
    assert {name: use for name, use in (await ledger.tenants()).items() if use.jobs} == admission.tenants


@given(steps=STEPS)
async def test_after_any_storm_it_equals_what_is_live(steps: list[tuple[object, ...]]) -> None:
    """Crashes, lost writes, expiry, flushes and two schedulers: reconciled it has the live set, and it reaches zero."""
    await weather(Hands(), steps)
