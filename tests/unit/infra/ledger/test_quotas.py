"""The rule of quotas for one tenant, as a table of literals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.infra.ledger.port import OverQuota, TenantUse
from llmos.infra.ledger.quotas import Spent, has_rates, judge, spent_at, under, with_one_more
from llmos.schemas.catalog import Quotas

RATED = Quotas(requests_per_second=2.0, tokens_per_second=100.0, burst_seconds=5.0)
EMPTY = TenantUse()


@pytest.mark.parametrize(
    ("use", "size", "quotas", "over"),
    [
        pytest.param(TenantUse(10**9, 10**12, 1e9, 1e12), 10**9, Quotas(), None, id="no quota at all"),
        pytest.param(TenantUse(jobs=4), 1, Quotas(jobs=5), None, id="the last job"),
        pytest.param(TenantUse(jobs=5), 1, Quotas(jobs=5), OverQuota("jobs", 5, 5, 1.0), id="a job too many"),
        pytest.param(TenantUse(bytes=90), 10, Quotas(bytes=100), None, id="the last byte"),
        pytest.param(TenantUse(bytes=90), 11, Quotas(bytes=100), OverQuota("bytes", 90, 100, 1.0), id="a byte more"),
        pytest.param(EMPTY, 101, Quotas(bytes=100), OverQuota("bytes", 0, 100, 1.0), id="more than all"),
        pytest.param(TenantUse(requests=9.0), 1, RATED, None, id="the last request of a burst"),
        pytest.param(
            TenantUse(requests=9.5), 1, RATED, OverQuota("requests", 9.5, 10.0, 0.25), id="half a request short"
        ),
        pytest.param(TenantUse(requests=9.0 + 1e-9), 1, RATED, None, id="rounding is no reason"),
        pytest.param(TenantUse(tokens=500.0), 1, RATED, None, id="all tokens spent: level"),
        pytest.param(TenantUse(tokens=510.0), 1, RATED, OverQuota("tokens", 510.0, 500.0, 0.1), id="overdrawn"),
        pytest.param(
            TenantUse(5, 0, 10.0, 1e9), 1, RATED, OverQuota("requests", 10.0, 10.0, 0.5), id="the first reason is told"
        ),
    ],
)
def test_judge(use: TenantUse, size: int, quotas: Quotas, over: OverQuota | None) -> None:
    """What is beyond a quota, by how much, and when it would not be."""
    assert judge(use, size, quotas) == over


def test_what_is_taken_counts() -> None:
    """A job, its bytes, and a request where those are counted; tokens only once they are known."""
    assert with_one_more(EMPTY, 7, RATED) == TenantUse(1, 7, 1.0, 0.0)
    assert with_one_more(TenantUse(1, 7, 0.0, 3.0), 7, Quotas(tokens_per_second=1.0)) == TenantUse(2, 14, 0.0, 3.0)


def test_spent_is_earned_back() -> None:
    """At its rates, to nothing and no further; a clock that went back earns nothing."""
    spent = Spent(10.0, 100.0, 50.0, 2.0, 5.0)
    assert spent_at(spent, 53.0) == Spent(4.0, 85.0, 53.0, 2.0, 5.0)
    assert spent_at(spent, 99.0) == Spent(0.0, 0.0, 99.0, 2.0, 5.0)
    assert spent_at(spent, 40.0) == Spent(10.0, 100.0, 40.0, 2.0, 5.0)


def test_other_quotas_keep_what_was_spent_of_what_they_count() -> None:
    """New rates hold from now on; what has no limit is forgotten."""
    spent = Spent(3.0, 70.0, 50.0, 1.0, 1.0)
    assert under(spent, RATED) == Spent(3.0, 70.0, 50.0, 2.0, 100.0)
    assert under(spent, Quotas(tokens_per_second=9.0)) == Spent(0.0, 70.0, 50.0, 0.0, 9.0)
    assert [has_rates(quotas) for quotas in (RATED, Quotas(jobs=1, bytes=1))] == [True, False]


@given(
    rate=st.floats(0.1, 1000),
    burst=st.floats(1, 100),
    waits=st.lists(st.floats(0, 3), min_size=1, max_size=60),
)
def test_over_any_time_no_more_than_burst_and_rate(rate: float, burst: float, waits: list[float]) -> None:
    """However requests are spaced, those let through within t seconds are at most burst + rate × t; told to wait, one that
    waits so long is let through."""
    quotas = Quotas(requests_per_second=rate, burst_seconds=burst)
    spent, now = Spent(request_rate=rate), 0.0
    for passed, wait in enumerate(waits, start=1):
        now += wait
        spent = spent_at(spent, now)
        over = judge(TenantUse(requests=spent.requests), 1, quotas)
        if over is not None:
            now += over.retry_after
            spent = spent_at(spent, now)
            assert judge(TenantUse(requests=spent.requests), 1, quotas) is None
        spent = spent._replace(requests=spent.requests + 1)
        assert passed <= max(rate * burst, 1.0) + rate * now + 1e-3
