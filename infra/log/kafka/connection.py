"""A service's connection to Kafka: it emits, and makes readers and transactors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llmos.infra.log.kafka.batches import fill
from llmos.infra.log.kafka.clients import STOP_SECONDS, Clients, stop_producer
from llmos.infra.log.kafka.creation import ensure
from llmos.infra.log.kafka.errors import RAISED, describe
from llmos.infra.log.kafka.names import Names
from llmos.infra.log.kafka.offers import Offers
from llmos.infra.log.kafka.queries import Queries
from llmos.infra.log.kafka.reader import KafkaReader
from llmos.infra.log.kafka.transactor import KafkaTransactor
from llmos.infra.log.lanes import Lanes
from llmos.infra.log.port import Commit, Out, Place, TopicSpec
from llmos.infra.settings.tree import Kafka
from llmos.schemas.errors import Ambiguous, BadSetting, Unreachable

_FIRST_RETRY_SECONDS = 0.05
_LAST_RETRY_SECONDS = 1.0


class KafkaLog:
    """The port's `Log`, over Kafka; owned by one service. Made by `connect`."""

    def __init__(self, settings: Kafka, client: str) -> None:
        self._settings = settings
        self._client = client
        self._names = Names(settings.topic_prefix)
        self._clients = Clients(settings, client)
        self._queries = Queries(self._clients, self._names)
        self._producer: Any = self._clients.producer()
        self._offers = Offers(self._clients)
        self._lanes = Lanes(self._send, settings.request_seconds)
        self._made: set[KafkaReader | KafkaTransactor] = set()

    @classmethod
    async def connect(cls, settings: Kafka, client: str) -> KafkaLog:
        """Connects under the name `client`, trying again with a growing back-off for `connect_seconds`.

        Raises:
            BadSetting: `kafka.bootstrap` is empty.
            Unreachable: no broker answered in time.
        """
        if not settings.bootstrap:
            raise BadSetting(setting="kafka.bootstrap", problem="it is empty, and no embedded broker was started")
        problem = "no answer"
        pause = _FIRST_RETRY_SECONDS
        try:
            async with asyncio.timeout(settings.connect_seconds):
                while True:
                    log = cls(settings, client)
                    connected = False
                    try:
                        await log._start()
                        connected = True
                        return log
                    except RAISED as error:
                        problem = describe(error)
                    finally:
                        if not connected:
                            await log.close()
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _LAST_RETRY_SECONDS)
        except TimeoutError:
            raise Unreachable(
                what="Kafka",
                address=settings.bootstrap,
                seconds=settings.connect_seconds,
                setting="kafka.bootstrap",
                problem=problem,
            ) from None

    async def _start(self) -> None:
        await self._queries.start()
        await self._producer.start()

    def reader(self, group: str | None = None) -> KafkaReader:
        """A reader with nothing assigned; it connects at its first use."""
        reader = KafkaReader(self._clients, self._names, group, self._made.discard)
        self._made.add(reader)
        return reader

    async def emit(self, place: Place, records: Sequence[Out]) -> int:
        """Appends one batch, awaited; gives the first record's offset.

        Calls for one place queue up, and those that wait go out as one batch. A cancelled caller's records are
        sent all the same. Raises `Ambiguous`, and from then on always.
        """
        return await self._lanes.emit(place, records)

    async def _send(self, place: Place, records: Sequence[Out], start: int) -> tuple[int, int]:
        batch, end = fill(self._producer, records, start)
        topic = self._names.wire(place.topic)
        delivered = await (await self._producer.send_batch(batch, topic, partition=place.partition))
        if delivered is None or delivered.offset < 0:
            # A retry that the broker knew already: the records are in the log, nobody can say where.
            raise Ambiguous(operation=f"emitting to {place.topic}", problem="the delivery has no offset")
        return delivered.offset, end

    async def offer(self, place: Place, records: Sequence[Out]) -> bool:
        """Best effort: whether the records are in the log; gives up within seconds."""
        return await self._offers.offer(place, self._names.wire(place.topic), records)

    async def transactor(self, name: str) -> KafkaTransactor:
        """Initialises the producer of this name: fences the older, ends its open transaction. Raises `Ambiguous`."""
        transactor = KafkaTransactor(self._clients, self._names, self._queries, name, self._made.discard)
        await transactor.start()
        self._made.add(transactor)
        return transactor

    async def committed(self, group: str, places: Iterable[Place]) -> dict[Place, Commit | None]:
        """What is committed; None where nothing is."""
        return await self._queries.committed(group, places)

    async def begins(self, places: Iterable[Place]) -> dict[Place, int]:
        """The first offset still in the log."""
        return await self._queries.begins(places)

    async def ends(self, places: Iterable[Place]) -> dict[Place, int]:
        """The offset that the next record will get."""
        return await self._queries.ends(places)

    async def offsets_at(self, times: Mapping[Place, float]) -> dict[Place, int]:
        """The first offset whose record is no older than the time; the end where there is none."""
        return await self._queries.offsets_at(times)

    async def partitions(self, topic: str) -> int | None:
        """How many partitions `topic` has; None where it does not exist."""
        return await self._queries.partitions(topic)

    async def ensure(self, topics: Sequence[TopicSpec]) -> None:
        """Makes the topics that do not exist yet. Raises `BadSetting`, `OperatorError` or `Ambiguous`."""
        await ensure(self._settings, self._client, self._names, self._queries, topics)

    async def close(self) -> None:
        """Ends all producers and connections; bounded in time."""
        await self._lanes.close(STOP_SECONDS)
        made = list(self._made)
        await asyncio.gather(
            *(one.close() for one in made), stop_producer(self._producer), self._offers.close(), self._queries.close()
        )
