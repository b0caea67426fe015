"""What answers give back, and what they are charged with, beside the loop."""

from __future__ import annotations

import asyncio

from llmos.infra.ledger.memory import MemoryLedger
from llmos.infra.ledger.port import Hold, Limit, Limits, TenantUse
from llmos.infra.runtime.context import Context
from llmos.schemas.catalog import Quotas
from llmos.schemas.job import LANES
from llmos.services.aggregator.credits import Credits
from tests.kit.bench import Bench, on_bench
from tests.kit.ledger_kit import take

LIMITS = Limits({lane: Limit(10, 1000) for lane in LANES}, Limit(1, 1))
QUOTAS = {"acme": Quotas(tokens_per_second=1.0)}


async def _held(ctx: Context) -> None:
    holds = [Hold("a", "standard", 5, "acme"), Hold("b", "standard", 5, "demo")]
    await take(ctx.ledger, holds, LIMITS, 1e6, QUOTAS)


def test_holds_come_back_and_tokens_are_charged() -> None:
    """Those of several answers together, each to its tenant; of a tenant without such a quota none are kept."""

    async def main(bench: Bench) -> None:
        ctx = bench.context("aggregator")
        await _held(ctx)
        credits = Credits(ctx)
        giving = asyncio.create_task(credits.run())
        credits.give_back(["a"], {"acme": 100})
        credits.give_back(["b"], {"acme": 20, "demo": 7})
        await asyncio.sleep(1.0)
        giving.cancel()
        (use,) = (await ctx.ledger.tenants()).items()
        assert use[0] == "acme"
        assert use[1]._replace(tokens=0.0) == TenantUse()
        assert 119.0 <= use[1].tokens < 120.0

    on_bench(main)


def test_without_a_ledger_nothing_waits_for_it() -> None:
    """What it does not hear is left to reconciliation, or not charged; afterwards it goes on."""

    async def main(bench: Bench) -> None:
        ctx = bench.context("aggregator")
        assert isinstance(ctx.ledger, MemoryLedger)
        await _held(ctx)
        credits = Credits(ctx)
        giving = asyncio.create_task(credits.run())
        ctx.ledger.away = True
        credits.give_back(["a"], {"acme": 100})
        await asyncio.sleep(1.0)
        ctx.ledger.away = False
        credits.give_back(["b"], {"acme": 5})
        await asyncio.sleep(1.0)
        giving.cancel()
        use = (await ctx.ledger.tenants())["acme"]
        assert (use.jobs, round(use.tokens)) == (1, 4)

    on_bench(main)
