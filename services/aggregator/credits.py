"""Gives the credits of answered jobs back beside the loop: answers do not wait for the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from llmos.infra.ledger.port import LedgerAway
from llmos.infra.runtime.context import Context

log = structlog.get_logger()

COMPANY_SECONDS = 0.01
"""How long the first credit of a batch waits for others."""


class Credits:
    """Credits on their way back."""

    def __init__(self, ctx: Context) -> None:
        self._ledger = ctx.ledger
        self._holds: list[str] = []
        self._some = asyncio.Event()

    def give_back(self, holds: Sequence[str]) -> None:
        """These jobs are answered."""
        self._holds += holds
        self._some.set()

    async def run(self) -> None:
        """Gives back until cancelled. What the ledger does not hear while it is away, the scheduler's reconciliation
        puts right."""
        while True:
            await self._some.wait()
            await asyncio.sleep(COMPANY_SECONDS)
            self._some.clear()
            holds, self._holds = self._holds, []
            try:
                await self._ledger.release(holds)
            except LedgerAway as away:
                log.warning("ledger_away", problem=str(away))
