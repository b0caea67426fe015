"""Gives the credits of answered jobs back and charges their tokens, beside the loop: answers do not wait for the ledger."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

import structlog

from llmos.infra.ledger.port import LedgerAway
from llmos.infra.runtime.context import Context

log = structlog.get_logger()

COMPANY_SECONDS = 0.01
"""How long the first credit of a batch waits for others."""


class Credits:
    """Credits on their way back, and tokens to be charged."""

    def __init__(self, ctx: Context) -> None:
        self._ledger = ctx.ledger
        self._holds: list[str] = []
        self._tokens: Counter[str] = Counter()
        self._some = asyncio.Event()

    def give_back(self, holds: Sequence[str], tokens: Mapping[str, int]) -> None:
        """These jobs are answered, and of these tenants so many tokens were read and written for them."""
        self._holds += holds
        self._tokens.update(tokens)
        self._some.set()

    async def run(self) -> None:
        """Gives back until cancelled. What the ledger does not hear while it is away, the scheduler's reconciliation
        puts right; tokens that it does not hear of are not charged."""
        while True:
            await self._some.wait()
            await asyncio.sleep(COMPANY_SECONDS)
            self._some.clear()
            holds, self._holds = self._holds, []
            tokens, self._tokens = self._tokens, Counter()
            try:
                await self._ledger.release(holds)
                if tokens:
                    await self._ledger.charge(tokens)
            except LedgerAway as away:
                log.warning("ledger_away", problem=str(away))
