"""One write of a client to the broker: applied, acknowledged, delayed or lost, as its fate says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from llmos.infra.log.memory.faults import Fate, Operation
from llmos.infra.log.memory.life import Life
from llmos.infra.log.memory.state import BrokerState
from llmos.infra.log.port import Place

T = TypeVar("T")


class Writes:
    """Carries a client's writes to the broker."""

    def __init__(self, broker: BrokerState, client: str, life: Life) -> None:
        self._broker = broker
        self._client = client
        self._life = life

    async def write(self, operation: Operation, place: Place | None, apply: Callable[[Fate], T]) -> T:
        """Applies at the broker and hears of it; `apply`'s error is what the broker answers.

        Raises:
            Crashed: the client died meanwhile; it was applied, or will be, or not.
        """
        await self._life.gate()
        fate = self._broker.faults.fate(self._client, operation, place, self._broker.random)
        if fate.apply_after is None:
            await self._life.never()
        applied: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._broker.later(fate.apply_after or 0.0, lambda: self._apply(applied, fate, apply))
        result = await self._life.wait(applied)
        if fate.ack_after is None:
            await self._life.never()
        await self._life.sleep(fate.ack_after or 0.0)
        await self._life.gate()
        return result

    def _apply(self, applied: asyncio.Future[T], fate: Fate, apply: Callable[[Fate], T]) -> None:
        if self._life.crashed and not fate.survives:
            return
        try:
            result = apply(fate)
        except Refused as refusal:
            if not applied.done():
                applied.set_exception(refusal)
            return
        if not applied.done():
            applied.set_result(result)


class Refused(Exception):
    """The broker's answer to a write: no."""

    def __init__(self, reason: str, *, fenced: bool = False) -> None:
        super().__init__(reason)
        self.fenced = fenced
