"""Writes what is resident into the ledger: when it changes, now and then, and at once when the ledger was emptied."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from llmos.infra.ledger.port import LedgerAway
from llmos.infra.runtime.context import Context
from llmos.schemas.telemetry import Residency

log = structlog.get_logger()

RESIDENCY_SECONDS = 5.0
"""Residency that has not changed is written again this often, whatever the ledger says of itself."""


class ResidencyWriter:
    """Beside the heart, so that a ledger that answers slowly holds up no heartbeat."""

    def __init__(self, ctx: Context, device: str, incarnation: int, residents: Callable[[], list[Residency]]) -> None:
        self._ctx = ctx
        self._device = device
        self._incarnation = incarnation
        self._residents = residents
        self._written: tuple[float, list[Residency], str | None] | None = None
        """When, what, and into which generation of the ledger."""
        self._away = False
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """What is resident changed: to be written now."""
        self._changed.set()

    async def run(self) -> None:
        """Writes until cancelled."""
        while True:
            await self.write()
            try:
                async with asyncio.timeout(self._ctx.settings.worker.heartbeat_seconds):
                    await self._changed.wait()
            except TimeoutError:
                continue
            finally:
                self._changed.clear()

    async def write(self) -> None:
        """Writes what is resident, if that is due."""
        now, residents = asyncio.get_running_loop().time(), self._residents()
        lasting = [_lasting(resident) for resident in residents]
        try:
            generation = await self._ctx.ledger.generation()
            if self._written is not None:
                at, before, into = self._written
                if lasting == before and generation == into and now - at < RESIDENCY_SECONDS:
                    return
            if not await self._ctx.ledger.put_residency(self._device, self._incarnation, residents):
                log.warning("residency_refused", device=self._device, incarnation=self._incarnation)
        except LedgerAway as away:
            if not self._away:
                log.warning("ledger_away", problem=str(away))
            self._away, self._written = True, None
            return
        self._away, self._written = False, (now, lasting, generation)


def _lasting(resident: Residency) -> Residency:
    """Without what changes with every step: that alone is not worth a write."""
    return msgspec.structs.replace(resident, last_used_at=0.0, active=0, loaded_bytes=0)
