"""Nonces in the ledger and beside it, as credits are taken."""

from __future__ import annotations

import pytest

from llmos.infra.ledger.memory import MemoryLedger
from llmos.infra.ledger.port import Asked, Copied, Hold
from llmos.infra.runtime.context import Context
from llmos.services.ingest import nonces as module
from llmos.services.ingest.credits import CLOCKS_APART_SECONDS, Credits
from tests.kit.bench import NOW, HandClock, configured, context

SETTINGS = configured(ingest={"freshness_seconds": 100.0})


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def ctx(clock: HandClock) -> Context:
    return context(clock, SETTINGS)


def away(ctx: Context, gone: bool = True) -> None:
    assert isinstance(ctx.ledger, MemoryLedger)
    ctx.ledger.away = gone


async def seen(here: Credits, nonces: list[tuple[str, str]], lag_seconds: float = 0.0) -> list[str | None]:
    """For each nonce ("tenant:nonce", origin) where it was seen first, if elsewhere."""
    asked = [_asked(name, origin, wants=i % 2 == 0) for i, (name, origin) in enumerate(nonces)]
    outcomes = await here.take(asked, {}, lag_seconds)
    assert len(outcomes) == len(asked)
    return [outcome.first if isinstance(outcome, Copied) else None for outcome in outcomes]


def _asked(name: str, origin: str, wants: bool) -> Asked:
    tenant, _, nonce = name.partition(":")
    hold = Hold(f"{nonce}@{origin}", "standard", 1, tenant) if wants else None
    return Asked(tenant, hold, nonce.encode(), origin)


async def test_instances_share_what_they_have_seen(ctx: Context) -> None:
    """A copy on another instance's partition is known; the own record, read again by anybody, passes."""
    assert await seen(Credits(ctx), [("a:1", "r:0:1")]) == [None]
    assert await seen(Credits(ctx), [("a:1", "r:1:5"), ("a:1", "r:0:1"), ("a:2", "r:1:6")]) == ["r:0:1", None, None]


async def test_without_a_ledger_an_instance_knows_its_own(ctx: Context) -> None:
    """Also what it saw while the ledger was there, and afterwards what the ledger missed."""
    here = Credits(ctx)
    await seen(here, [("a:1", "1")])
    away(ctx)
    assert await seen(here, [("a:1", "2"), ("a:2", "1"), ("a:2", "3")]) == ["1", None, "1"]
    assert await seen(Credits(ctx), [("a:1", "2")]) == [None], "a new one knows nothing"
    away(ctx, gone=False)
    assert await seen(here, [("a:2", "4")]) == ["1"]


async def test_a_copy_is_never_the_first_one_in_a_ledger_that_was_emptied(ctx: Context) -> None:
    """The instance that saw the first record tells the ledger so: read again in another life, that one still passes."""
    here = Credits(ctx)
    await seen(here, [("a:1", "1")])
    assert isinstance(ctx.ledger, MemoryLedger)
    ctx.ledger.flush()
    assert await seen(here, [("a:1", "2")]) == ["1"]
    assert await seen(Credits(ctx), [("a:1", "2"), ("a:1", "1")]) == ["1", None]


async def test_remembered_for_twice_the_freshness_and_the_lag(ctx: Context, clock: HandClock) -> None:
    """What waits in a backlog is read late: so much longer its copy may come."""
    here = Credits(ctx)
    for gone in (False, True):
        away(ctx, gone)
        await seen(here, [(f"a:{gone}", "1")], 50.0)
        clock.at += 249.0 + CLOCKS_APART_SECONDS
        assert await seen(here, [(f"a:{gone}", "2")], 50.0) == ["1"]
        clock.at += 2.0
        assert await seen(here, [(f"a:{gone}", "2")], 50.0) == [None]


async def test_remembered_as_far_back_as_any_partition_is_unread(ctx: Context, clock: HandClock) -> None:
    """Another instance is down for a day: its partition may hold a copy, which is found when it is read at last."""
    here = Credits(ctx)
    await seen(here, [("a:early", "1")])
    for _ in range(24):
        clock.at += 3600.0
        here.note_frontier(NOW)
        await seen(here, [(f"a:{clock.at}", "1")])
    for reader in (here, Credits(ctx)):
        reader.note_frontier(NOW)
        assert await seen(reader, [("a:early", "2")], clock.at - NOW) == ["1"]
    here.note_frontier(clock.at)
    assert await seen(here, [("a:early", "2")]) == [None], "all have read as far as now"


async def test_the_own_table_is_bounded(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first; nothing of it matters while the ledger is there."""
    monkeypatch.setattr(module, "KNOWN_AT_MOST", 10)
    here = Credits(ctx)
    for i in range(50):
        await seen(here, [(f"a:{i}", "1")])
    assert await seen(here, [("a:0", "2")]) == ["1"]
    away(ctx)
    assert await seen(here, [("a:1", "2"), ("a:49", "2")]) == [None, "1"]
