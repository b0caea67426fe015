"""Admission by counts: what is taken, what is refused with which numbers, and what is spent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.infra.ledger.port import Hold, LaneUse, Limit, Limits, OverQuota, TenantUse
from llmos.infra.ledger.quotas import Spent
from llmos.pipelines.admission.quotas import admit, refusal, spend
from llmos.schemas.catalog import Quotas
from llmos.schemas.errors import QuotaExceeded, TooLarge
from llmos.schemas.job import LANES, Lane

LIMITS = Limits({"interactive": Limit(2, 100), "standard": Limit(2, 100), "batch": Limit(1, 50)}, Limit(2, 60))
ROOMY = Limits({lane: Limit(10**6, 10**9) for lane in LANES}, Limit(1, 1))
Use = dict[Lane, LaneUse]


def use(**lanes: tuple[int, int]) -> Use:
    return {lane: LaneUse(*held) for lane, held in lanes.items()}  # type: ignore[misc]


def hold(name: str, lane: Lane, size: int, tenant: str = "demo") -> Hold:
    return Hold(name, lane, size, tenant)


@pytest.mark.parametrize(
    ("held", "asked", "taken", "then"),
    [
        pytest.param(use(), [], 0, use(), id="nothing is asked"),
        pytest.param(use(), [("batch", 999)], 1, use(batch=(1, 999)), id="the first of an empty lane"),
        pytest.param(
            use(), [("batch", 999), ("batch", 1)], 1, use(batch=(1, 999)), id="the second sees what the first took"
        ),
        pytest.param(
            use(standard=(4, 0)), [("standard", 1), ("interactive", 1)], 0, use(standard=(4, 0)),
            id="nothing behind one that does not fit",
        ),
        pytest.param(
            use(), [("interactive", 10)] * 5, 4, use(interactive=(4, 40)), id="own credits, then the overflow"
        ),
    ],
)  # fmt: skip
def test_credits_are_taken_in_order(held: Use, asked: list[tuple[Lane, int]], taken: int, then: Use) -> None:
    """In order until one does not fit, each seeing those before it."""
    before = dict(held)
    admission = admit(held, {}, [hold(str(i), lane, size) for i, (lane, size) in enumerate(asked)], LIMITS, {})
    assert (admission.outcomes, admission.lanes) == (["taken"] * taken, then)
    assert held == before, "the use that was given is not touched"


@given(
    st.lists(st.tuples(st.sampled_from(LANES), st.integers(0, 120)), max_size=20),
    st.lists(st.tuples(st.sampled_from(LANES), st.integers(0, 120)), max_size=20),
)
def test_credits_are_never_overdrawn(first: list[tuple[Lane, int]], second: list[tuple[Lane, int]]) -> None:
    """However holds come, what goes beyond the lanes' own credits stays within the overflow, a lane's first hold aside."""
    lanes: Use = {}
    for some in (first, second):
        lanes = admit(lanes, {}, [hold(str(i), *asked) for i, asked in enumerate(some)], LIMITS, {}).lanes
    over = sum(max(own.jobs - LIMITS.lanes[lane].jobs, 0) for lane, own in lanes.items())
    assert over <= LIMITS.overflow.jobs
    beyond = {lane: own.bytes - LIMITS.lanes[lane].bytes for lane, own in lanes.items() if own.jobs > 1}
    assert all(excess <= LIMITS.overflow.bytes for excess in beyond.values())


def test_who_is_refused_stops_nobody() -> None:
    """A flood beyond its tenant's quota takes no credit: the one behind it gets what it would have got without it."""
    flood = [hold(f"f{i}", "standard", 10, "loud") for i in range(10_000)]
    quotas = {"loud": Quotas(jobs=1)}
    admission = admit({}, {}, [*flood, hold("quiet", "standard", 10)], LIMITS, quotas)
    assert admission.outcomes[0] == admission.outcomes[-1] == "taken"
    assert set(admission.outcomes[1:-1]) == {OverQuota("jobs", 1, 1, 1.0)}
    assert admission.lanes == use(standard=(2, 20))
    assert admission.tenants == {"loud": TenantUse(1, 10), "demo": TenantUse(1, 10)}


@given(
    quotas=st.builds(Quotas, jobs=st.integers(0, 3), bytes=st.integers(0, 50), requests_per_second=st.floats(0, 2)),
    sizes=st.lists(st.integers(0, 30), max_size=30),
)
def test_no_quota_is_ever_exceeded(quotas: Quotas, sizes: list[int]) -> None:
    """Whatever comes, what a tenant has in flight and has spent stays within its quotas."""
    holds = [hold(str(i), "standard", size) for i, size in enumerate(sizes)]
    (used,) = admit({}, {"demo": TenantUse()}, holds, ROOMY, {"demo": quotas}).tenants.values()
    assert not quotas.jobs or used.jobs <= quotas.jobs
    assert not quotas.bytes or used.bytes <= quotas.bytes
    room = max(quotas.requests_per_second * quotas.burst_seconds, 1.0)
    assert used.requests <= room + 1e-6


def test_what_is_spent_is_kept_of_tenants_with_rates() -> None:
    """One per request, earned back at the rate; a tenant whose rate was lifted owes nothing."""
    rated, free = Quotas(requests_per_second=2.0), Quotas(jobs=5)
    holds = [hold("a", "standard", 1, "acme")] * 3
    spent = spend({}, holds, {"acme": rated, "demo": free}, 100.0)
    assert spent == {"acme": Spent(3.0, 0.0, 100.0, 2.0, 0.0)}
    assert spend(spent, [], {"acme": rated}, 101.0)["acme"].requests == 1.0
    assert spend(spent, holds, {}, 101.0) == spent
    assert spend(spent, holds, {"acme": free}, 101.0) == {}


@pytest.mark.parametrize(
    ("over", "says"),
    [
        (OverQuota("jobs", 5, 5, 1.0), "has used 5 of 5 jobs in flight; try again in 1.0 s"),
        (OverQuota("bytes", 90, 100, 1.0), "has used 90 of 100 payload bytes in flight"),
        (
            OverQuota("requests", 19.94, 20.0, 0.47),
            "has used 19.9 of 20.0 requests at 2 per second; try again in 0.5 s",
        ),
        (OverQuota("tokens", 1700.4, 1000.0, 7.004), "has used 1700 of 1000 tokens at 100 per second"),
    ],
)
def test_a_refusal_tells_the_numbers(over: OverQuota, says: str) -> None:
    """What is used, of how much, and when to try again, for people and as a number."""
    quotas = Quotas(requests_per_second=2.0, tokens_per_second=100.0)
    error = refusal(hold("a", "standard", 20), over, quotas)
    assert isinstance(error, QuotaExceeded)
    assert says in str(error)
    assert (error.retryable, error.retry_after) == (True, over.retry_after)


def test_what_can_never_fit_is_not_to_be_tried_again() -> None:
    """A payload larger than all its tenant may have in flight is too large, however long it waits."""
    error = refusal(hold("a", "standard", 101), OverQuota("bytes", 0, 100, 1.0), Quotas(bytes=100))
    assert isinstance(error, TooLarge)
    assert not error.retryable
