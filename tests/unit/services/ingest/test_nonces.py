"""Nonces in the ledger and beside it."""

from __future__ import annotations

import pytest

from llmos.infra.ledger.memory import MemoryLedger
from llmos.infra.runtime.context import Context
from llmos.services.ingest import nonces as module
from llmos.services.ingest.nonces import Nonces
from tests.kit.bench import HandClock, configured, context

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


async def test_instances_share_what_they_have_seen(ctx: Context) -> None:
    """A copy on another instance's partition is known; the own record, read again by anybody, passes."""
    assert await Nonces(ctx).seen([("a:1", "r:0:1")], 0.0) == [None]
    assert await Nonces(ctx).seen([("a:1", "r:1:5"), ("a:1", "r:0:1"), ("a:2", "r:1:6")], 0.0) == ["r:0:1", None, None]


async def test_without_a_ledger_an_instance_knows_its_own(ctx: Context) -> None:
    """Also what it saw while the ledger was there, and afterwards what the ledger missed."""
    here = Nonces(ctx)
    await here.seen([("a:1", "1")], 0.0)
    away(ctx)
    assert await here.seen([("a:1", "2"), ("a:2", "1"), ("a:2", "3")], 0.0) == ["1", None, "1"]
    assert await Nonces(ctx).seen([("a:1", "2")], 0.0) == [None], "a new one knows nothing"
    away(ctx, gone=False)
    assert await here.seen([("a:2", "4")], 0.0) == ["1"]


async def test_a_copy_is_never_the_first_one_in_a_ledger_that_was_emptied(ctx: Context) -> None:
    """The instance that saw the first record tells the ledger so: read again in another life, that one still passes."""
    here = Nonces(ctx)
    await here.seen([("a:1", "1")], 0.0)
    assert isinstance(ctx.ledger, MemoryLedger)
    ctx.ledger.flush()
    assert await here.seen([("a:1", "2")], 0.0) == ["1"]
    assert await Nonces(ctx).seen([("a:1", "2"), ("a:1", "1")], 0.0) == ["1", None]


async def test_remembered_for_twice_the_freshness_and_the_lag(ctx: Context, clock: HandClock) -> None:
    """What waits in a backlog is read late: so much longer its copy may come."""
    here = Nonces(ctx)
    for gone in (False, True):
        away(ctx, gone)
        await here.seen([(f"a:{gone}", "1")], 50.0)
        clock.at += 249.0
        assert await here.seen([(f"a:{gone}", "2")], 50.0) == ["1"]
        clock.at += 2.0
        assert await here.seen([(f"a:{gone}", "2")], 50.0) == [None]


async def test_the_own_table_is_bounded(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first; nothing of it matters while the ledger is there."""
    monkeypatch.setattr(module, "KNOWN_AT_MOST", 10)
    here = Nonces(ctx)
    for i in range(50):
        await here.seen([(f"a:{i}", "1")], 0.0)
    assert await here.seen([("a:0", "2")], 0.0) == ["1"]
    away(ctx)
    assert await here.seen([("a:1", "2"), ("a:49", "2")], 0.0) == [None, "1"]
