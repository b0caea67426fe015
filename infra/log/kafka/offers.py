"""Best-effort writing to topics of other owners: what cannot be written soon is dropped, and nothing else suffers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog

from llmos.infra.log.kafka.batches import fill
from llmos.infra.log.kafka.clients import Clients, stop_producer
from llmos.infra.log.kafka.errors import RAISED, describe
from llmos.infra.log.port import Out, Place

log = structlog.get_logger()

OFFER_SECONDS = 2.0


class Offers:
    """A producer of its own, replaced after every failure: a topic that was deleted hangs a producer, not a service."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._producer: Any = None

    async def offer(self, place: Place, topic: str, records: Sequence[Out]) -> bool:
        """Whether the records, in order, are in the log; `topic` is the name on the wire."""
        try:
            async with asyncio.timeout(OFFER_SECONDS):
                await self._write(topic, place.partition, records)
        except RAISED as problem:
            log.warning("offer_dropped", topic=place.topic, records=len(records), problem=describe(problem))
            await self.close()
            return False
        return True

    async def _write(self, topic: str, partition: int, records: Sequence[Out]) -> None:
        if self._producer is None:
            self._producer = self._clients.producer()
            await self._producer.start()
        start = 0
        while start < len(records):
            batch, start = fill(self._producer, records, start)
            await (await self._producer.send_batch(batch, topic, partition=partition))

    async def close(self) -> None:
        """Ends the producer; bounded in time."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_producer(producer)
