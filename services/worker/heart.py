"""What the worker says of itself: heartbeats, and residency in the ledger."""

from __future__ import annotations

import asyncio
import os

import structlog

from llmos.infra.ledger.port import LedgerAway
from llmos.infra.log.port import Out, Place
from llmos.infra.runtime.context import Context
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.telemetry import Heartbeat, Residency, Served
from llmos.services.worker.equipment import Equipment
from llmos.services.worker.held import HeldTasks

log = structlog.get_logger()

RESIDENCY_SECONDS = 5.0
"""Residency that has not changed is written again this often: the ledger may have been emptied."""


class Heart:
    """Beats until the process ends."""

    def __init__(self, ctx: Context, equipment: Equipment, incarnation: int, held: HeldTasks) -> None:
        self._ctx = ctx
        self._equipment = equipment
        self._device = equipment.device
        self._incarnation = incarnation
        self._held = held
        self._sequence = 0
        self._written: tuple[float, list[Residency]] = (0.0, [])
        self._now = asyncio.Event()

    def beat_now(self) -> None:
        """The next heartbeat is due at once."""
        self._now.set()

    async def run(self) -> None:
        """Beats until cancelled."""
        while True:
            await self.beat()
            try:
                async with asyncio.timeout(self._ctx.settings.worker.heartbeat_seconds):
                    await self._now.wait()
            except TimeoutError:
                continue
            finally:
                self._now.clear()

    async def beat(self) -> None:
        """One heartbeat."""
        residents = self._equipment.residents()
        message = self._message(residents)
        await self._ctx.log.emit(Place(topics.TELEMETRY, 0), [Out(self._device.encode(), encode(message))])
        self._ctx.health.progress("heart")
        await self._write_residency(residents)

    def _message(self, residents: list[Residency]) -> Heartbeat:
        now = self._ctx.clock.now()
        queued, running, done = self._held.lists(now)
        self._sequence += 1
        meter = self._equipment.meter
        served = [
            Served(
                model=model,
                kind=kind,
                tasks=tasks,
                busy_seconds=meter.busy_seconds[model, kind],
                tokens_in=meter.tokens_in[model, kind],
                tokens_out=meter.tokens_out[model, kind],
            )
            for (model, kind), tasks in list(meter.tasks.items())
        ]
        return Heartbeat(
            device=self._device,
            node=self._ctx.settings.node.name,
            pid=os.getpid(),
            incarnation=self._incarnation,
            sequence=self._sequence,
            at=now,
            queued=queued,
            running=running,
            done=done,
            slots=self._ctx.settings.worker.slots,
            budget_bytes=self._equipment.budget_bytes,
            resident_bytes=sum(r.resident_bytes for r in residents),
            residents=residents,
            served=served,
            busy_seconds=meter.wall_busy_seconds,
            steps=meter.steps,
            draining=self._ctx.stop.is_set(),
            kinds=self._equipment.kinds,
            models=self._equipment.models,
        )

    async def _write_residency(self, residents: list[Residency]) -> None:
        now = asyncio.get_running_loop().time()
        at, written = self._written
        if residents == written and now - at < RESIDENCY_SECONDS:
            return
        try:
            if not await self._ctx.ledger.put_residency(self._device, self._incarnation, residents):
                log.warning("residency_refused", device=self._device, incarnation=self._incarnation)
        except LedgerAway as away:
            log.warning("ledger_away", problem=str(away))
        self._written = (now, residents)
