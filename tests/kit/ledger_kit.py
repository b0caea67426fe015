"""What every ledger must do, as tests: a module subclasses `LedgerKit` and gives a fixture `bench`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import pytest

from llmos.infra.ledger.port import (
    NO_QUOTAS,
    Asked,
    Copied,
    Hold,
    LaneUse,
    Lease,
    Ledger,
    Limit,
    Limits,
    Outcome,
    OverQuota,
    TenantUse,
)
from llmos.infra.ledger.quotas import ASK_AGAIN_SECONDS
from llmos.schemas.catalog import Quotas
from llmos.schemas.ids import epoch_of
from llmos.schemas.job import Lane
from llmos.schemas.telemetry import Residency

LIMITS = Limits(
    lanes={"interactive": Limit(3, 1000), "standard": Limit(2, 1000), "batch": Limit(1, 1000)},
    overflow=Limit(2, 500),
)
NOTHING = {"interactive": LaneUse(0, 0), "standard": LaneUse(0, 0), "batch": LaneUse(0, 0)}


class Bench(Protocol):
    """A ledger and the hands that tests need beside it."""

    ledger: Ledger

    async def pass_time(self, seconds: float) -> None:
        """Makes the ledger's clock stand that much later."""

    async def flush(self) -> None:
        """Empties the ledger behind its back."""


ROOMY = Limits({lane: Limit(1000, 2**40) for lane in NOTHING}, Limit(1, 1))  # type: ignore[misc]


def holds(count: int, lane: Lane = "standard", size: int = 10, first: int = 0, tenant: str = "demo") -> list[Hold]:
    """Holds named after lane and number."""
    return [Hold(f"{lane}-{i}", lane, size, tenant) for i in range(first, first + count)]


async def take(
    ledger: Ledger, holds: Sequence[Hold], limits: Limits, seconds: float, quotas: Mapping[str, Quotas] = NO_QUOTAS
) -> list[Outcome]:
    """What became of requests without nonces."""
    return await ledger.admit([Asked(hold.tenant, hold) for hold in holds], limits, seconds, quotas)


async def seen(ledger: Ledger, nonces: Sequence[tuple[str, str]], seconds: float) -> list[str | None]:
    """Of requests that want no credit, with nonces ("tenant:nonce", origin): where each was seen first, if elsewhere."""
    asked = []
    for name, origin in nonces:
        tenant, _, nonce = name.partition(":")
        asked.append(Asked(tenant, None, nonce.encode(), origin))
    outcomes = await ledger.admit(asked, ROOMY, 60.0, nonce_seconds=seconds)
    assert all(outcome == "noted" or isinstance(outcome, Copied) for outcome in outcomes)
    return [outcome.first if isinstance(outcome, Copied) else None for outcome in outcomes]


def resident(model: str, **values: int) -> Residency:
    """A model on a device."""
    return Residency(model=model, name=f"name-of-{model}", state="resident", **values)


def leases(*tasks: str, device: str = "d", epoch: int = 1) -> list[Lease]:
    """Leases of these tasks."""
    return [Lease(task, device, epoch, f"hold-of-{task}") for task in tasks]


class LedgerKit:
    """The promises of the port, one a test."""

    async def test_an_empty_ledger_holds_nothing(self, bench: Bench) -> None:
        """A fresh ledger counts zero everywhere and has no generation."""
        assert await bench.ledger.use() == NOTHING
        assert await bench.ledger.generation() is None
        assert await bench.ledger.residency() == {}
        assert len(await take(bench.ledger, [], LIMITS, 60.0)) == 0

    async def test_grants_in_order_until_one_does_not_fit(self, bench: Bench) -> None:
        """Own credits, then the overflow, then no more; a small one behind a refused one does not pass it."""
        wanted = [*holds(3), Hold("large", "standard", 5000, "demo"), Hold("small", "standard", 1, "demo")]
        assert len(await take(bench.ledger, wanted, LIMITS, 60.0)) == 3
        assert (await bench.ledger.use())["standard"] == LaneUse(3, 30)
        assert len(await take(bench.ledger, [Hold("small", "standard", 1, "demo")], LIMITS, 60.0)) == 1

    async def test_the_overflow_is_shared_by_all_lanes(self, bench: Bench) -> None:
        """What one lane takes of it another has not."""
        assert len(await take(bench.ledger, holds(3, "batch"), LIMITS, 60.0)) == 3
        assert len(await take(bench.ledger, holds(3, "standard"), LIMITS, 60.0)) == 2

    async def test_an_empty_lane_grants_its_first_whatever_its_size(self, bench: Bench) -> None:
        """Nothing waits for ever; the second one waits."""
        assert len(await take(bench.ledger, holds(2, "batch", size=1_000_000), LIMITS, 60.0)) == 1

    async def test_a_hold_that_exists_is_granted_and_not_charged_again(self, bench: Bench) -> None:
        """A reader that starts again takes the same credits, also when nothing more would fit."""
        await take(bench.ledger, holds(4), LIMITS, 60.0)
        assert len(await take(bench.ledger, holds(5), LIMITS, 60.0)) == 4
        assert (await bench.ledger.use())["standard"] == LaneUse(4, 40)

    async def test_names_may_be_long_and_in_any_script(self, bench: Bench) -> None:
        """Ids as `Head.hold` makes them, the longest names the schemas allow, sizes up to 2**50."""
        long = [Hold(f"{'0f' * 16}@{'t' * 249}:{i}:{2**63 - 1}", "batch", 2**50, "ü" * 40) for i in range(2)]
        assert len(await take(bench.ledger, long, LIMITS._replace(overflow=Limit(5, 2**52)), 60.0)) == 2
        assert (await bench.ledger.use())["batch"] == LaneUse(2, 2**51)
        await bench.ledger.release([long[0].id])
        await bench.ledger.reconcile(long[1:], 60.0, 0.0)
        assert (await bench.ledger.use())["batch"] == LaneUse(1, 2**50)

    async def test_release_gives_back_once(self, bench: Bench) -> None:
        """Releasing twice, or what is unknown, gives back nothing more."""
        await take(bench.ledger, holds(2), LIMITS, 60.0)
        await bench.ledger.release(["standard-0", "standard-0", "nobody's"])
        await bench.ledger.release(["standard-0"])
        await bench.ledger.release([])
        assert (await bench.ledger.use())["standard"] == LaneUse(1, 10)

    async def test_a_hold_nobody_released_is_taken_back(self, bench: Bench) -> None:
        """Each by its own time, and one that was taken again later, later."""
        await take(bench.ledger, holds(2), LIMITS, 60.0)
        await bench.pass_time(40.0)
        await take(bench.ledger, holds(1), LIMITS, 60.0)
        await bench.pass_time(40.0)
        assert (await bench.ledger.use())["standard"] == LaneUse(1, 10)
        await bench.pass_time(40.0)
        assert await bench.ledger.use() == NOTHING

    async def test_what_ran_out_makes_room(self, bench: Bench) -> None:
        """A hold is decided after what has run out is taken back."""
        await take(bench.ledger, holds(4), LIMITS, 60.0)
        assert len(await take(bench.ledger, holds(1, first=9), LIMITS, 60.0)) == 0
        await bench.pass_time(61.0)
        assert len(await take(bench.ledger, holds(1, first=9), LIMITS, 60.0)) == 1

    async def test_reconcile_adds_what_is_missing_and_drops_what_is_old(self, bench: Bench) -> None:
        """Live ones are put back with their sizes; others go when they are older than the grace."""
        await take(bench.ledger, holds(2), LIMITS, 600.0)
        await bench.pass_time(30.0)
        await take(bench.ledger, holds(1, first=2), LIMITS, 600.0)
        live = [*holds(1, size=70), *holds(2, "batch", size=5)]
        await bench.ledger.reconcile(live, 600.0, grace_seconds=20.0)
        assert await bench.ledger.use() == {
            "interactive": LaneUse(0, 0),
            "standard": LaneUse(2, 80),
            "batch": LaneUse(2, 10),
        }

    async def test_reconcile_may_exceed_the_limits(self, bench: Bench) -> None:
        """What is live is live; new ones wait until there is room."""
        await bench.ledger.reconcile(holds(50), 600.0, grace_seconds=20.0)
        assert (await bench.ledger.use())["standard"] == LaneUse(50, 500)
        assert len(await take(bench.ledger, holds(1, first=99), LIMITS, 60.0)) == 0

    async def test_the_generation_tells_that_the_ledger_was_emptied(self, bench: Bench) -> None:
        """It stays over reconciles, is gone after a flush, and is another one afterwards."""
        first = await bench.ledger.reconcile(holds(1), 600.0, grace_seconds=20.0)
        assert await bench.ledger.reconcile([], 600.0, grace_seconds=20.0) == first
        assert await bench.ledger.generation() == first
        await bench.flush()
        assert await bench.ledger.generation() is None
        assert await bench.ledger.use() == NOTHING
        second = await bench.ledger.reconcile(holds(1), 600.0, grace_seconds=20.0)
        assert second != first
        assert await bench.ledger.generation() == second

    async def test_tells_what_was_taken_from_what_was_known(self, bench: Bench) -> None:
        """One outcome for each, until the first that does not fit."""
        await take(bench.ledger, holds(1), LIMITS, 60.0)
        assert await take(bench.ledger, holds(5), LIMITS, 60.0) == ["known", "taken", "taken", "taken"]

    async def test_tenants_are_counted_beside_lanes(self, bench: Bench) -> None:
        """What each has in flight follows every hold, release, end and reconciliation; who has nothing is not named."""
        ledger = bench.ledger
        assert await ledger.tenants() == {}
        await take(ledger, [*holds(2), *holds(3, "batch", size=7, tenant="acme")], ROOMY, 60.0)
        assert await ledger.tenants() == {"demo": TenantUse(2, 20), "acme": TenantUse(3, 21)}
        await ledger.release(["standard-0", "batch-0", "batch-1"])
        assert await ledger.tenants() == {"demo": TenantUse(1, 10), "acme": TenantUse(1, 7)}
        await ledger.reconcile(holds(3, "batch", tenant="acme"), 600.0, grace_seconds=-1.0)
        assert await ledger.tenants() == {"acme": TenantUse(3, 30)}
        await bench.pass_time(601.0)
        assert await ledger.tenants() == {}

    async def test_a_quota_of_jobs_refuses_and_stops_nobody_behind(self, bench: Bench) -> None:
        """Beyond it a hold takes nothing; others behind it are taken, also by the same call."""
        quotas = {"acme": Quotas(jobs=2)}
        asked = [*holds(4, tenant="acme"), *holds(1, "batch")]
        over = OverQuota("jobs", 2, 2, ASK_AGAIN_SECONDS)
        assert await take(bench.ledger, asked, ROOMY, 60.0, quotas) == ["taken", "taken", over, over, "taken"]
        assert (await bench.ledger.use())["standard"] == LaneUse(2, 20)
        assert await take(bench.ledger, asked[:3], ROOMY, 60.0, quotas) == ["known", "known", over]
        await bench.ledger.release(["standard-0"])
        assert await take(bench.ledger, asked[2:4], ROOMY, 60.0, quotas) == ["taken", over]

    async def test_a_quota_of_bytes_counts_payloads_in_flight(self, bench: Bench) -> None:
        """To the last byte; a smaller one behind may still fit."""
        quotas = {"acme": Quotas(bytes=100)}
        sizes = [60, 41, 40, 1]
        asked = [Hold(str(size), "standard", size, "acme") for size in sizes]
        outcomes = await take(bench.ledger, asked, ROOMY, 60.0, quotas)
        assert outcomes == [
            "taken",
            OverQuota("bytes", 60, 100, ASK_AGAIN_SECONDS),
            "taken",
            OverQuota("bytes", 100, 100, ASK_AGAIN_SECONDS),
        ]

    async def test_requests_are_paid_for_in_advance_and_earned_back(self, bench: Bench) -> None:
        """A burst, then the rate; what is refused costs nothing, what does not fit into its lane neither."""
        ledger, quotas = bench.ledger, {"acme": Quotas(requests_per_second=0.001, burst_seconds=3000.0)}
        outcomes = await take(ledger, holds(5, tenant="acme"), ROOMY, 1e6, quotas)
        assert outcomes[:3] == ["taken"] * 3
        for over in outcomes[3:]:
            assert over == OverQuota("requests", pytest.approx(3.0, abs=0.01), 3.0, pytest.approx(1000.0, abs=10.0))
        await bench.pass_time(1001.0)
        assert (await take(ledger, holds(5, tenant="acme"), ROOMY, 1e6, quotas))[:4] == ["known"] * 3 + ["taken"]
        assert len(await take(ledger, holds(1, first=9, tenant="acme"), LIMITS, 1e6, quotas)) == 1, (
            "its quota is asked first"
        )
        await bench.pass_time(1000.0)
        assert await take(ledger, holds(1, first=9, tenant="acme"), LIMITS, 1e6, quotas) == []
        assert (await ledger.tenants())["acme"].requests == pytest.approx(2.0, abs=0.01)
        await bench.pass_time(1e5)
        assert (await ledger.tenants())["acme"].requests == 0.0, "no more is saved up than the burst"

    async def test_less_than_one_request_a_burst_is_one(self, bench: Bench) -> None:
        """A rate so low that a burst holds less than one request still lets one through."""
        quotas = {"acme": Quotas(requests_per_second=1e-4, burst_seconds=1.0)}
        taken, over = await take(bench.ledger, holds(2, tenant="acme"), ROOMY, 60.0, quotas)
        assert taken == "taken"
        assert isinstance(over, OverQuota)
        assert over.limit == 1.0

    async def test_tokens_are_charged_afterwards(self, bench: Bench) -> None:
        """The bucket may be overdrawn; then requests are refused until it is level, and no earlier."""
        ledger, quotas = bench.ledger, {"acme": Quotas(tokens_per_second=1.0, burst_seconds=1000.0)}
        await ledger.charge({"acme": 7})
        assert await ledger.tenants() == {}, "of whom nothing is known nothing is kept"
        assert await take(ledger, holds(1, tenant="acme"), ROOMY, 1e6, quotas) == ["taken"]
        await ledger.charge({"acme": 900, "demo": 5})
        assert await take(ledger, holds(2, tenant="acme"), ROOMY, 1e6, quotas) == ["known", "taken"]
        await ledger.charge({"acme": 600})
        await ledger.charge({})
        (over,) = await take(ledger, holds(1, first=2, tenant="acme"), ROOMY, 1e6, quotas)
        around = pytest.approx(500.0, abs=20.0)
        assert over == OverQuota("tokens", pytest.approx(1500.0, abs=20.0), 1000.0, around)
        await bench.pass_time(400.0)
        assert isinstance((await take(ledger, holds(1, first=2, tenant="acme"), ROOMY, 1e6, quotas))[0], OverQuota)
        await bench.pass_time(100.0)
        assert await take(ledger, holds(1, first=2, tenant="acme"), ROOMY, 1e6, quotas) == ["taken"]
        assert set(await ledger.tenants()) == {"acme"}

    async def test_a_quota_that_changes_holds_at_once(self, bench: Bench) -> None:
        """A higher rate earns back faster from then on, and a tenant without one owes nothing."""
        ledger = bench.ledger
        slow, fast = Quotas(tokens_per_second=1.0), Quotas(tokens_per_second=10.0)
        await take(ledger, holds(1, tenant="acme"), ROOMY, 1e6, {"acme": slow})
        await ledger.charge({"acme": 1000})
        assert isinstance(
            (await take(ledger, holds(1, first=1, tenant="acme"), ROOMY, 1e6, {"acme": fast}))[0], OverQuota
        )
        await bench.pass_time(90.0)
        assert await take(ledger, holds(1, first=1, tenant="acme"), ROOMY, 1e6, {"acme": fast}) == ["taken"]
        await ledger.charge({"acme": 10**12})
        assert await take(ledger, holds(1, first=2, tenant="acme"), ROOMY, 1e6) == ["taken"]
        assert (await ledger.tenants())["acme"] == TenantUse(3, 30)

    async def test_a_nonce_is_new_once(self, bench: Bench) -> None:
        """At another origin it is known, whoever asks later; at its own it passes; each tenant has its own."""
        ledger = bench.ledger
        assert await seen(ledger, [], 60.0) == []
        assert await seen(ledger, [("acme:00", "r:0:1"), ("acme:00", "r:0:2"), ("demo:00", "r:0:3")], 60.0) == [
            None,
            "r:0:1",
            None,
        ]
        assert await seen(ledger, [("acme:00", "r:0:1"), ("acme:00", "x:9:9"), ("acme:0000", "r:0:4")], 60.0) == [
            None,
            "r:0:1",
            None,
        ]
        await bench.flush()
        assert await seen(ledger, [("acme:00", "x:9:9")], 60.0) == [None], "an emptied ledger has forgotten"

    async def test_a_nonce_is_remembered_for_long_enough_and_not_for_ever(self, bench: Bench) -> None:
        """For the time that was asked for at least, whenever in the life of a table it came; not while nobody asks, but when
        its tenant has gone on asking for twice that it is gone."""
        ledger = bench.ledger
        await seen(ledger, [("acme:early", "1")], 60.0)
        await bench.pass_time(59.0)
        assert await seen(ledger, [("acme:early", "2"), ("acme:late", "1")], 60.0) == ["1", None]
        await bench.pass_time(58.0)
        assert await seen(ledger, [("acme:late", "2")], 60.0) == ["1"]
        for i in range(2):
            await bench.pass_time(61.0)
            await seen(ledger, [(f"acme:{i}", "1")], 60.0)
        await bench.pass_time(61.0)
        assert await seen(ledger, [("acme:late", "2"), ("acme:early", "3")], 60.0) == [None, None]

    async def test_nonces_reach_as_far_back_as_the_latest_caller_needs(self, bench: Bench) -> None:
        """One partition falls behind, or all of ingest stood still for a day: who asks for more finds what is older."""
        ledger = bench.ledger
        await seen(ledger, [("acme:a", "1")], 60.0)
        for _ in range(10):
            await bench.pass_time(50.0)
            assert await seen(ledger, [("acme:b", "1")], 600.0) == [None]
        assert await seen(ledger, [("acme:a", "2")], 600.0) == ["1"]
        await bench.pass_time(86_400.0)
        assert await seen(ledger, [("acme:a", "2"), ("acme:b", "2")], 87_000.0) == ["1", "1"]

    async def test_a_copy_takes_nothing(self, bench: Bench) -> None:
        """Neither credit nor quota, however much there is of both; the first one, read again, is known by its hold."""
        quotas = {"acme": Quotas(jobs=2, requests_per_second=1e-9, burst_seconds=2e9)}
        first, copy = (
            Asked("acme", Hold(f"a@{where}", "standard", 10, "acme"), b"\xff" * 16, where)
            for where in ("r:0:1", "r:1:5")
        )
        other = Asked("acme", Hold("b", "standard", 10, "acme"), b"\x00" * 32, "r:0:2")
        asked = [first, copy, other, copy, first]
        expected = ["taken", Copied("r:0:1"), "taken", Copied("r:0:1"), "known"]
        assert await bench.ledger.admit(asked, ROOMY, 60.0, quotas, 60.0) == expected
        assert (await bench.ledger.use())["standard"] == LaneUse(2, 20)
        assert (await bench.ledger.tenants())["acme"] == TenantUse(2, 20, pytest.approx(2.0), 0.0)
        assert await bench.ledger.admit([copy, first], ROOMY, 60.0, quotas, 60.0) == [Copied("r:0:1"), "known"]

    async def test_what_its_quota_refuses_is_remembered(self, bench: Bench) -> None:
        """It was answered: its copy is one, also when there is room again. What was refused before has a nonce, too."""
        quotas = {"acme": Quotas(jobs=1)}
        asked = [
            *(Asked("acme", hold, hold.id.encode(), f"r:0:{i}") for i, hold in enumerate(holds(2, tenant="acme"))),
            Asked("acme", None, b"refused", "r:0:2"),
        ]
        outcomes = await bench.ledger.admit(asked, ROOMY, 60.0, quotas, 60.0)
        assert outcomes == ["taken", OverQuota("jobs", 1, 1, ASK_AGAIN_SECONDS), "noted"]
        await bench.ledger.release([asked[0].hold.id] if asked[0].hold else [])
        copies = [one._replace(origin=f"x:{i}:0") for i, one in enumerate(asked)]
        assert await bench.ledger.admit(copies, ROOMY, 60.0, quotas, 60.0) == [Copied(f"r:0:{i}") for i in range(3)]

    async def test_what_waits_for_a_credit_is_not_taken_for_its_own_copy(self, bench: Bench) -> None:
        """Tried again at the same origin it goes on; of what stands behind it nothing is remembered."""
        one, two, three, four, five, six = (
            Asked("demo", hold, hold.id.encode(), f"r:0:{i}") for i, hold in enumerate(holds(6))
        )
        assert await bench.ledger.admit([one, two, three, four], LIMITS, 60.0, nonce_seconds=60.0) == ["taken"] * 4
        waiting = [five, six._replace(hold=None)]
        assert await bench.ledger.admit(waiting, LIMITS, 60.0, nonce_seconds=60.0) == []
        assert await bench.ledger.admit([six._replace(origin="x:0:0")], ROOMY, 60.0, nonce_seconds=60.0) == ["taken"]
        await bench.ledger.release(["standard-0", "standard-5"])
        assert await bench.ledger.admit(waiting, LIMITS, 60.0, nonce_seconds=60.0) == ["taken", Copied("x:0:0")]

    async def test_a_ledger_is_told_what_it_missed(self, bench: Bench) -> None:
        """Who saw a nonce elsewhere says so: it is remembered under that origin, unless the ledger knows better."""
        hold = holds(1)[0]
        copy = Asked("demo", hold, b"n" * 16, "r:0:2", first="r:0:1")
        assert await bench.ledger.admit([copy], ROOMY, 60.0, nonce_seconds=60.0) == [Copied("r:0:1")]
        original = copy._replace(origin="r:0:1", first="x:9:9")
        assert await bench.ledger.admit([original], ROOMY, 60.0, nonce_seconds=60.0) == ["taken"]

    async def test_residency_is_replaced_device_by_device(self, bench: Bench) -> None:
        """Each device has its last list; names with colons and models on several devices stay apart."""
        ledger = bench.ledger
        a, b = resident("aa", resident_bytes=2**40), resident("bb", active=3)
        assert await ledger.put_residency("node-0.cpu:0/2", 5, [a, b])
        assert await ledger.put_residency("node-0.cpu:1/2", 6, [a])
        assert await ledger.put_residency("node-0.cpu:0/2", 5, [b])
        assert await ledger.residency() == {"node-0.cpu:0/2": [b], "node-0.cpu:1/2": [a]}
        assert await ledger.put_residency("node-0.cpu:1/2", 6, [])
        assert await ledger.residency() == {"node-0.cpu:0/2": [b]}

    async def test_an_earlier_life_of_a_worker_does_not_write(self, bench: Bench) -> None:
        """A lower incarnation changes nothing; a higher one takes over."""
        ledger = bench.ledger
        assert await ledger.put_residency("d", 7, [resident("new")])
        assert not await ledger.put_residency("d", 6, [resident("old")])
        assert await ledger.residency() == {"d": [resident("new")]}
        assert await ledger.put_residency("d", 8, [resident("newer")])
        assert await ledger.residency() == {"d": [resident("newer")]}

    async def test_leases_are_counted_by_device(self, bench: Bench) -> None:
        """Each task counts once, on the device that has it last; devices without any are not named."""
        ledger = bench.ledger
        assert await ledger.leases() == {}
        assert await ledger.lease(leases("a", "b"), 60.0) == [True, True]
        assert await ledger.lease(leases("a"), 60.0) == [True], "the same again is no second one"
        assert await ledger.lease(leases("c", device="node-0.cpu:1/2"), 60.0) == [True]
        assert await ledger.leases() == {"d": 2, "node-0.cpu:1/2": 1}
        assert await ledger.lease(leases("b", device="node-0.cpu:1/2", epoch=2), 60.0) == [True]
        assert await ledger.leases() == {"d": 1, "node-0.cpu:1/2": 2}
        assert await ledger.end_leases([("a", 1)]) == 0
        assert await ledger.leases() == {"node-0.cpu:1/2": 2}

    async def test_a_lower_epoch_never_has_a_lease(self, bench: Bench) -> None:
        """Not of an earlier attempt, not of an earlier scheduler, whatever the sizes; nor does it end one."""
        ledger = bench.ledger
        old, new = epoch_of(2**40, 65_535), epoch_of(2**40 + 1, 1)
        assert await ledger.lease(leases("a", device="e", epoch=new), 60.0) == [True]
        assert await ledger.lease([*leases("a", epoch=old), *leases("b", epoch=old)], 60.0) == [False, True]
        assert await ledger.leases() == {"e": 1, "d": 1}
        assert await ledger.end_leases([("a", old), ("b", old), ("b", old), ("unknown", 2**63 - 1)]) == 3
        assert await ledger.leases() == {"e": 1}
        assert await ledger.end_leases([("a", 2**63 - 1)]) == 0, "the end of a later attempt is that of all before"

    async def test_a_lease_nobody_renews_ends(self, bench: Bench) -> None:
        """Each by its own time; a renewed one later."""
        ledger = bench.ledger
        await ledger.lease(leases("a", "b"), 60.0)
        await bench.pass_time(40.0)
        await ledger.lease(leases("a"), 60.0)
        await bench.pass_time(40.0)
        assert await ledger.leases() == {"d": 1}
        assert await ledger.end_leases([("b", 1)]) == 1
        await bench.pass_time(40.0)
        assert await ledger.leases() == {}

    async def test_reconciled_leases_are_the_live_ones(self, bench: Bench) -> None:
        """Missing ones are added, others go, those of a later scheduler stay; also after a flush, and with nothing live."""
        ledger = bench.ledger
        mine, later = epoch_of(5, 1), epoch_of(6, 1)
        await ledger.lease(leases("a", "b", epoch=mine), 60.0)
        await ledger.lease(leases("c", device="e", epoch=later), 60.0)
        live = [*leases("b", epoch=epoch_of(5, 2), device="f"), *leases("c", "n", epoch=mine)]
        assert await ledger.reconcile_leases(live, 5, 60.0) == 1
        assert await ledger.leases() == {"e": 1, "f": 1, "d": 1}
        await bench.flush()
        assert await ledger.reconcile_leases(live, 5, 60.0) == 0
        assert await ledger.leases() == {"f": 1, "d": 2}
        assert await ledger.reconcile_leases([], 5, 60.0) == 3
        assert await ledger.leases() == {}

    async def test_an_attempt_that_was_given_up_is_reconciled_away(self, bench: Bench) -> None:
        """The ledger may know a higher attempt of the same scheduler than the one it says is live: its word counts."""
        await bench.ledger.lease(leases("a", device="e", epoch=epoch_of(5, 3)), 60.0)
        await bench.ledger.reconcile_leases(leases("a", epoch=epoch_of(5, 2)), 5, 60.0)
        assert await bench.ledger.leases() == {"d": 1}

    async def test_windows_are_those_of_the_latest_scheduler(self, bench: Bench) -> None:
        """Replaced as a whole; an earlier term changes nothing."""
        ledger = bench.ledger
        assert await ledger.windows() == {}
        assert await ledger.put_windows("node-0.cpu:0/2", 9, {"": 2.5, "echo": 512.0})
        assert await ledger.put_windows("d", 10, {})
        assert not await ledger.put_windows("d", 9, {"": 1.0})
        assert await ledger.put_windows("node-0.cpu:0/2", 9, {"": 3.0})
        assert await ledger.windows() == {"node-0.cpu:0/2": {"": 3.0}, "d": {}}
        await bench.flush()
        assert await ledger.windows() == {}
