"""The ledger in Redis keeps the port's promises on a real server, and its scripts decide as admission does."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from llmos.infra.ledger import redis as redis_ledger
from llmos.infra.ledger.port import Hold, LaneUse, Limit, Limits, OverQuota, TenantUse
from llmos.infra.ledger.redis import CHUNK, RedisLedger, address
from llmos.infra.settings import Settings
from llmos.infra.settings.tree import Redis
from llmos.pipelines.admission.quotas import admit
from llmos.schemas.catalog import Quotas
from llmos.schemas.errors import BadSetting
from llmos.schemas.job import LANES
from llmos.schemas.topics import topic_named
from tests.integration.ledger.conftest import Hands
from tests.kit.ledger_kit import LIMITS, NOTHING, LedgerKit, holds, leases, resident, seen, take
from tests.kit.ledger_storm import STEPS, weather


class TestRedisLedger(LedgerKit):
    """The kit, on Redis."""


_limit = st.builds(Limit, st.integers(1, 5), st.integers(1, 2**50))
_sizes = st.one_of(st.integers(0, 40), st.integers(0, 2**50))
# Rates so low that nothing is earned back while a test runs.
_quota = st.builds(
    Quotas,
    jobs=st.integers(0, 4),
    bytes=st.one_of(st.just(0), st.integers(1, 2**51)),
    requests_per_second=st.sampled_from([0.0, 1e-9, 3 / 86_400]),
    tokens_per_second=st.sampled_from([0.0, 1e-9, 1.0 / 86_400]),
    burst_seconds=st.sampled_from([1.0, 86_400.0]),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    limits=st.builds(Limits, st.fixed_dictionaries(dict.fromkeys(LANES, _limit)), _limit),
    quotas=st.dictionaries(st.sampled_from("ab"), _quota),
    steps=st.lists(
        st.one_of(
            st.lists(st.tuples(st.sampled_from(LANES), _sizes, st.sampled_from("abc")), min_size=1, max_size=8),
            st.lists(st.integers(0, 30), max_size=4),
        ),
        max_size=8,
    ),
)
async def test_decides_as_admission_does(
    bench: Hands, limits: Limits, quotas: dict[str, Quotas], steps: list[list[object]]
) -> None:
    """Through any holds and releases the script decides as `admit` does and counts the same."""
    await bench.flush()
    held: dict[str, Hold] = {}
    lanes: dict[str, LaneUse] = {}
    tenants: dict[str, TenantUse] = {}
    made = 0
    for step in steps:
        if step and isinstance(step[0], tuple):
            asked = [Hold(str(made + i), *wanted) for i, wanted in enumerate(step)]  # type: ignore[misc]
            made += len(asked)
            admission = admit(lanes, tenants, asked, limits, quotas)  # type: ignore[arg-type]
            outcomes = await take(bench.ledger, asked, limits, 60.0, quotas)
            assert list(map(_word, outcomes)) == list(map(_word, admission.outcomes))
            held |= {hold.id: hold for hold, outcome in zip(asked, outcomes, strict=False) if outcome == "taken"}
            tenants = admission.tenants
        else:
            ids = [str(number) for number in step]
            await bench.ledger.release(ids)
            for id_ in ids:
                held.pop(id_, None)
        lanes, tenants = _sums(held, tenants)
        assert await bench.ledger.use() == NOTHING | lanes
        known = await bench.ledger.tenants()
        assert {name: use[:2] for name, use in known.items() if use.jobs} == {
            name: use[:2] for name, use in tenants.items() if use.jobs
        }


def _word(outcome: object) -> object:
    """An outcome without the times, which go on by themselves."""
    return outcome[0] if isinstance(outcome, OverQuota) else outcome


def _sums(held: dict[str, Hold], before: dict[str, TenantUse]) -> tuple[dict[str, LaneUse], dict[str, TenantUse]]:
    """Per lane and per tenant; what was spent stays spent."""
    lanes: dict[str, LaneUse] = {}
    tenants = {name: use._replace(jobs=0, bytes=0) for name, use in before.items()}
    for hold in held.values():
        own = lanes.get(hold.lane, LaneUse(0, 0))
        lanes[hold.lane] = LaneUse(own.jobs + 1, own.bytes + hold.size)
        theirs = tenants[hold.tenant]
        tenants[hold.tenant] = theirs._replace(jobs=theirs.jobs + 1, bytes=theirs.bytes + hold.size)
    return lanes, tenants


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
async def test_after_any_storm_it_equals_what_is_live(bench: Hands, steps: list[tuple[object, ...]]) -> None:
    """Crashes, lost writes, expiry, flushes and two schedulers: reconciled it has the live set, and it reaches zero."""
    await bench.flush()
    await weather(bench, steps)


@pytest.mark.parametrize("lost", ["leases", "lease_ends", "lease_devices"])
async def test_a_key_of_leases_that_was_evicted_empties_them(bench: Hands, lost: str) -> None:
    """Counts without their leases, or the other way round, are never believed: the scheduler is made to reconcile."""
    await bench.ledger.reconcile(holds(2), 600.0, 20.0)
    await bench.ledger.lease(leases("a", "b"), 600.0)
    await bench.client.delete(getattr(bench.keys, lost))
    assert await bench.ledger.leases() == {}
    assert await bench.ledger.generation() is None
    assert (await bench.ledger.use())["standard"].jobs == 2, "the credits fit together"


async def test_many_leases_go_in_pieces(bench: Hands) -> None:
    """More than fit one script are taken, each for itself, counted and ended."""
    many = leases(*(f"0:{i}:0" for i in range(2 * CHUNK + 5)))
    assert await bench.ledger.lease(many, 60.0) == [True] * len(many)
    assert await bench.ledger.leases() == {"d": len(many)}
    assert await bench.ledger.reconcile_leases(many[1:], 0, 60.0) == 1
    assert await bench.ledger.end_leases([(lease.task, 1) for lease in many]) == 1
    assert await bench.ledger.leases() == {}


async def test_scripts_come_back_after_redis_forgot_them(bench: Hands) -> None:
    """SCRIPT FLUSH, as a restart or a failover does, costs no call."""
    await take(bench.ledger, holds(1), LIMITS, 60.0)
    await bench.client.script_flush()
    assert len(await take(bench.ledger, holds(2), LIMITS, 60.0)) == 2
    await bench.client.script_flush()
    assert (await bench.ledger.use())["standard"] == LaneUse(2, 20)


@pytest.mark.parametrize("lost", ["holds", "ends", "use"])
async def test_a_key_that_was_evicted_empties_the_ledger(bench: Hands, lost: str) -> None:
    """Sums without their entries, or the other way round, are never believed: the scheduler is made to reconcile."""
    await bench.ledger.reconcile(holds(2), 600.0, 20.0)
    await bench.client.delete(getattr(bench.keys, lost))
    assert await bench.ledger.use() == NOTHING
    assert await bench.ledger.generation() is None


async def test_many_holds_go_in_pieces(bench: Hands) -> None:
    """More than fit one script are granted in order, up to the one that does not fit, and given back."""
    limits = Limits({lane: Limit(CHUNK + 500, 2**40) for lane in LANES}, Limit(1, 1))
    many = holds(3 * CHUNK)
    assert len(await take(bench.ledger, many, limits, 60.0)) == CHUNK + 501
    await bench.ledger.release([hold.id for hold in many])
    assert await bench.ledger.use() == NOTHING


async def test_many_nonces_go_in_pieces(bench: Hands) -> None:
    """More than fit one script are remembered, of several tenants, and known again."""
    many = [(f"tenant-{i % 3}:{i}", f"requests:0:{i}") for i in range(2 * CHUNK + 5)]
    assert await seen(bench.ledger, many, 60.0) == [None] * len(many)
    again = [(name, "requests:1:0") for name, _ in many]
    assert await seen(bench.ledger, again, 60.0) == [origin for _, origin in many]


async def test_a_flood_of_nonces_ends_only_its_own_tenants(bench: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a tenant with more than there is room for the oldest are forgotten early; those of others stay."""
    monkeypatch.setattr(redis_ledger, "NONCES_AT_MOST", 10)
    await seen(bench.ledger, [("quiet:a", "1"), ("loud:a", "1")], 600.0)
    for i in range(5):
        await seen(bench.ledger, [(f"loud:{i}-{j}", "1") for j in range(10)], 600.0)
    sizes = [await bench.client.hlen(key) for key in bench.keys.nonces_of("loud")]  # type: ignore[misc]
    assert max(sizes) <= 1 + 10 + 10
    assert await seen(bench.ledger, [("quiet:a", "2"), ("loud:a", "2"), ("loud:4-9", "2")], 600.0) == ["1", None, "1"]


async def test_nonces_leave_by_themselves(bench: Hands) -> None:
    """The tables of a tenant that asks no more expire, once the log, too, has let go of all that came with its last call."""
    kept = topic_named("requests").retention_seconds
    assert kept is not None
    await seen(bench.ledger, [("acme:a", "1")], 60.0)
    young, old = bench.keys.nonces_of("acme")
    await bench.pass_time(61.0)
    await seen(bench.ledger, [("acme:b", "1")], 60.0)
    for key in (young, old):
        assert kept + 2 * 900 < await bench.client.ttl(key) <= kept + 86_400
    await bench.pass_time(3600.0)
    await seen(bench.ledger, [("acme:c", "1")], 7200.0)
    assert await bench.client.ttl(young) > kept + 86_000, "each call begins it anew"


async def test_two_services_share_the_credits(bench: Hands, settings: Settings) -> None:
    """Two ledgers asking at once are never granted more than there is."""
    other = await RedisLedger.connect(settings.redis)
    try:
        async with asyncio.TaskGroup() as tasks:
            mine = [tasks.create_task(take(bench.ledger, holds(1, first=i), LIMITS, 60.0)) for i in range(20)]
            theirs = [tasks.create_task(take(other, holds(1, first=100 + i), LIMITS, 60.0)) for i in range(20)]
        assert sum(len(task.result()) for task in (*mine, *theirs)) == 4
    finally:
        await other.close()


async def test_what_is_resident_is_readable_under_its_key(bench: Hands) -> None:
    """The field is `{device}:{identity}`, as the docs say."""
    await bench.ledger.put_residency("node-0.cpu:0/1", 1, [resident("ab12")])
    assert await bench.client.hkeys(bench.keys.residency) == [b"node-0.cpu:0/1:ab12"]  # type: ignore[misc]


async def test_warns_of_a_server_that_may_evict(bench: Hands) -> None:
    """noeviction and volatile policies keep our keys; allkeys policies do not."""
    for policy, warned in (("noeviction", False), ("volatile-lru", False), ("allkeys-lru", True)):
        await bench.client.config_set("maxmemory-policy", policy)
        try:
            with capture_logs() as events:
                assert await bench.ledger.ensure_policy() == policy
        finally:
            await bench.client.config_set("maxmemory-policy", "noeviction")
        assert [event["event"] for event in events] == ["redis_may_evict"] * warned


async def test_an_empty_or_wrong_address_is_a_setting_to_mend() -> None:
    """The message names the setting."""
    for url in ("", "http://localhost"):
        with pytest.raises(BadSetting, match=r"redis\.url"):
            await RedisLedger.connect(Redis(url=url))


def test_an_address_shows_no_password() -> None:
    """What is told to people is host and port, or the socket's path."""
    assert address("redis://user:secret@cache:7000/3") == "cache:7000"
    assert address("redis://cache") == "cache:6379"
    assert address("unix:///run/redis.sock?db=1") == "/run/redis.sock"
