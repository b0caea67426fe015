"""Credits with the ledger, and by the scheduler's live counts while the ledger is away."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.infra.ledger.memory import MemoryLedger
from llmos.infra.ledger.port import Asked, Hold, OverQuota
from llmos.infra.runtime.context import Context
from llmos.schemas.base import encode
from llmos.schemas.catalog import Quotas
from llmos.schemas.job import LANES, Lane
from llmos.schemas.telemetry import LiveCounts, WorkerDied
from llmos.services.ingest.credits import OVERLAP_SECONDS, Credits, limits_of
from tests.kit.bench import HandClock, configured, context, record

SETTINGS = configured(
    ingest={
        "interactive": {"jobs": 2, "bytes": 1000},
        "standard": {"jobs": 2, "bytes": 1000},
        "batch": {"jobs": 2, "bytes": 1000},
        "overflow": {"jobs": 1, "bytes": 1000},
        "resume_fraction": 0.5,
    }
)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def ctx(clock: HandClock) -> Context:
    return context(clock, SETTINGS)


NONE: dict[str, Quotas] = {}


def holds(*names: str, lane: Lane = "standard", size: int = 10, tenant: str = "demo") -> list[Asked]:
    return [Asked(tenant, Hold(name, lane, size, tenant)) for name in names]


def counts(
    clock: HandClock, at: float, tenants: dict[str, tuple[int, int]] | None = None, **lanes: tuple[int, int]
) -> Any:
    """The scheduler's word, `at` seconds from now."""
    live: dict[Lane, tuple[int, int]] = dict.fromkeys(LANES, (0, 0)) | lanes  # type: ignore[assignment]
    return record(encode(LiveCounts(at=clock.at + at, term=1, lanes=live, tenants=tenants or {})), "telemetry")


def away(ctx: Context, gone: bool = True) -> None:
    ledger = ctx.ledger
    assert isinstance(ledger, MemoryLedger)
    ledger.away = gone


def test_the_settings_are_the_limits() -> None:
    """Every lane has its own credits, and the overflow its."""
    limits = limits_of(SETTINGS.ingest)
    assert {lane: tuple(limit) for lane, limit in limits.lanes.items()} == dict.fromkeys(LANES, (2, 1000))
    assert tuple(limits.overflow) == (1, 1000)


async def test_credits_come_from_the_ledger(ctx: Context) -> None:
    """Own credits, then the overflow, then none; what is released can be taken again, what is held is not charged twice."""
    credits = Credits(ctx)
    assert len(await credits.take([], NONE)) == 0
    assert len(await credits.take(holds("a", "b", "c", "d"), NONE)) == 3
    assert len(await credits.take(holds("a", "b", "c"), NONE)) == 3
    assert len(await credits.take(holds("d"), NONE)) == 0
    await ctx.ledger.release(["b"])
    assert len(await credits.take(holds("d", "e"), NONE)) == 1


async def test_a_lane_goes_on_when_enough_is_free(ctx: Context) -> None:
    """Half of the lane's credits or of the overflow must be free; lanes that are not paused do not matter."""
    credits = Credits(ctx)
    await credits.take(holds("a", "b", "c"), NONE)
    assert not await credits.may_resume({"standard"})
    assert not await credits.may_resume(set())
    assert await credits.may_resume({"standard", "batch"})
    await ctx.ledger.release(["a"])
    assert await credits.may_resume({"standard"})


async def test_without_a_ledger_what_was_admitted_counts(ctx: Context, clock: HandClock) -> None:
    """Before the scheduler ever spoke, an instance still admits no more than the credits allow."""
    away(ctx)
    credits = Credits(ctx)
    assert len(await credits.take(holds("a", "b"), NONE)) == 2
    clock.at += 3600
    assert len(await credits.take(holds("c", "d"), NONE)) == 1
    assert not await credits.may_resume({"standard"})
    clock.at += SETTINGS.ingest.hold_seconds
    assert await credits.may_resume({"standard"}), "a credit that nobody released runs out"


async def test_without_a_ledger_the_scheduler_says_what_is_live(ctx: Context, clock: HandClock) -> None:
    """Live counts take the place of what was admitted before them; what came since is added."""
    away(ctx)
    credits = Credits(ctx)
    assert len(await credits.take(holds("a", "b", "c"), NONE)) == 3
    clock.at += 10
    credits.note_telemetry(counts(clock, 0.0, standard=(1, 10)))
    assert await credits.may_resume({"standard"})
    assert len(await credits.take(holds("d", "e", "f"), NONE)) == 2


async def test_what_the_counts_may_have_missed_is_counted_again(ctx: Context, clock: HandClock) -> None:
    """A job admitted just before the counts were taken may be missing from them: rather too few than too many."""
    away(ctx)
    credits = Credits(ctx)
    await credits.take(holds("a"), NONE)
    clock.at += OVERLAP_SECONDS
    credits.note_telemetry(counts(clock, 0.0))
    assert len(await credits.take(holds("b", "c", "d"), NONE)) == 2
    clock.at += OVERLAP_SECONDS + 0.1
    credits.note_telemetry(counts(clock, 0.0))
    assert len(await credits.take(holds("e", "f", "g", "h"), NONE)) == 3


async def test_the_ledger_comes_back(ctx: Context) -> None:
    """While it is away nothing is held there; afterwards it decides again."""
    credits = Credits(ctx)
    away(ctx)
    assert len(await credits.take(holds("a", "b", "c", "d"), NONE)) == 3
    away(ctx, gone=False)
    assert (await ctx.ledger.use())["standard"].jobs == 0
    assert len(await credits.take(holds("e", "f", "g", "h"), NONE)) == 3
    assert (await ctx.ledger.use())["standard"].jobs == 3


async def test_what_a_ledger_granted_counts_when_it_goes_away(ctx: Context) -> None:
    """Jobs admitted through the ledger are not forgotten the moment it cannot be reached."""
    credits = Credits(ctx)
    assert len(await credits.take(holds("a", "b", "c"), NONE)) == 3
    away(ctx)
    assert len(await credits.take(holds("d"), NONE)) == 0


async def test_other_telemetry_changes_nothing(ctx: Context, clock: HandClock) -> None:
    """Deaths of workers and rubbish on the topic leave the counts as they were."""
    away(ctx)
    credits = Credits(ctx)
    credits.note_telemetry(counts(clock, 0.0, standard=(3, 30)))
    credits.note_telemetry(record(encode(WorkerDied(device="d", node="n", pid=1, at=clock.at)), "telemetry"))
    credits.note_telemetry(record(b"\xc1", "telemetry"))
    credits.note_telemetry(record(None, "telemetry"))
    assert len(await credits.take(holds("a"), NONE)) == 0


async def test_a_quota_refuses_with_or_without_a_ledger(ctx: Context, clock: HandClock) -> None:
    """What is beyond it is told with its numbers and stops nobody; what the ledger had counted is known when it goes away."""
    quotas = {"acme": Quotas(jobs=1)}
    credits = Credits(ctx)
    asked = [*holds("a", "b", tenant="acme"), *holds("c")]
    over = OverQuota("jobs", 1, 1, 1.0)
    assert await credits.take(asked, quotas) == ["taken", over, "taken"]
    away(ctx)
    assert await credits.take(asked[1:2], quotas) == [over]
    clock.at += 10
    credits.note_telemetry(counts(clock, 0.0))
    assert await credits.take(asked[1:2], quotas) == ["taken"], "the scheduler says that nothing is live"
    credits.note_telemetry(counts(clock, 5.0, tenants={"acme": (1, 10)}))
    assert await credits.take(holds("d", tenant="acme"), quotas) == [over]


async def test_rates_hold_without_a_ledger(ctx: Context, clock: HandClock) -> None:
    """What was spent before it went away counts, is earned back, and a rate that changes holds at once."""
    quotas = {"acme": Quotas(requests_per_second=1.0, burst_seconds=2.0)}
    credits = Credits(ctx)
    assert await credits.take(holds("a", tenant="acme"), quotas) == ["taken"]
    assert await credits.take(holds("a", tenant="acme"), quotas) == ["known"], "which is not spent twice"
    away(ctx)
    taken, over = await credits.take(holds("b", "c", tenant="acme"), quotas)
    assert (taken, over) == ("taken", OverQuota("requests", 2.0, 2.0, 1.0))
    clock.at += 0.5
    faster = {"acme": Quotas(requests_per_second=8.0, burst_seconds=1.0)}
    assert await credits.take(holds("d", tenant="acme"), faster) == ["taken"]
    clock.at += 0.125
    credits.note_telemetry(counts(clock, 5.0))
    assert (await credits.take(holds("e", tenant="acme"), quotas))[0] == OverQuota("requests", 1.5, 2.0, 0.5)
    assert await credits.take(holds("e", tenant="acme"), NONE) == ["taken"]
