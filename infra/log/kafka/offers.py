"""Best-effort writing to topics of other owners: what cannot be written soon is dropped, and nothing else suffers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from llmos.infra.log.kafka.batches import fill
from llmos.infra.log.kafka.clients import Clients, cut_producer, stop_producer
from llmos.infra.log.kafka.errors import RAISED, describe
from llmos.infra.log.port import Out, Place

log = structlog.get_logger()

OFFER_SECONDS = 2.0


class Offers:
    """A producer of its own, replaced after every failure: a topic that was deleted hangs a producer, not a service.

    Offers run side by side; those that share a producer with one that failed keep it until they have ended.
    """

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._current: _Shared | None = None
        self._starting = asyncio.Lock()
        self._ending: set[asyncio.Task[None]] = set()

    async def offer(self, place: Place, topic: str, records: Sequence[Out]) -> bool:
        """Whether the records, in order, are in the log; `topic` is the name on the wire."""
        shared: _Shared | None = None
        try:
            async with asyncio.timeout(OFFER_SECONDS):
                shared = await self._begun()
                await _write(shared.producer, topic, place.partition, records)
        except RAISED as problem:
            log.warning("offer_dropped", topic=place.topic, records=len(records), problem=describe(problem))
            if shared is not None and shared is self._current:
                self._current = None
            return False
        finally:
            if shared is not None:
                shared.users -= 1
                if shared.users == 0 and shared is not self._current:
                    self._end(shared.producer)
        return True

    def _end(self, producer: Any) -> None:
        """Beside: it may hang for seconds in what it could not send."""
        task = asyncio.create_task(_cut_and_stop(producer), name="ending a producer of offers")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _begun(self) -> _Shared:
        """The producer to use now, with one user more."""
        async with self._starting:
            if self._current is None:
                producer = self._clients.producer()
                await producer.start()
                self._current = _Shared(producer)
        self._current.users += 1
        return self._current

    async def close(self) -> None:
        """Ends the producers; bounded in time."""
        shared, self._current = self._current, None
        if shared is not None and shared.users == 0:
            self._end(shared.producer)  # else whoever uses it last does
        if self._ending:
            await asyncio.wait(self._ending)


@dataclass(slots=True, eq=False)
class _Shared:
    producer: Any
    users: int = 0


async def _write(producer: Any, topic: str, partition: int, records: Sequence[Out]) -> None:
    start = 0
    while start < len(records):
        batch, start = fill(producer, records, start)
        await (await producer.send_batch(batch, topic, partition=partition))


async def _cut_and_stop(producer: Any) -> None:
    await cut_producer(producer)
    await stop_producer(producer)
