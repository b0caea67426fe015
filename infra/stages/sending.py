"""Sends what a turn made: one awaited batch per place, places side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from llmos.infra.log.port import Log, Out, Place


class Outbox:
    """Collects records per place, in order, until `send`."""

    __slots__ = ("_batches",)

    def __init__(self) -> None:
        self._batches: dict[Place, list[Out]] = {}

    def put(self, place: Place, out: Out) -> None:
        """Appends one record."""
        self._batches.setdefault(place, []).append(out)

    def __bool__(self) -> bool:
        return bool(self._batches)

    def take(self) -> dict[Place, list[Out]]:
        """What was collected; the box is empty then."""
        batches, self._batches = self._batches, {}
        return batches

    async def send(self, log: Log) -> None:
        """Sends everything and returns when all of it is acknowledged. Raises `Ambiguous`."""
        await send(log, self.take())


async def send(log: Log, batches: Mapping[Place, Sequence[Out]]) -> None:
    """One awaited batch per place; the first failure is raised as it is, not as a group."""
    if len(batches) == 1:
        ((place, outs),) = batches.items()
        await log.emit(place, outs)
    elif batches:
        tasks = [asyncio.ensure_future(log.emit(place, outs)) for place, outs in batches.items()]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
