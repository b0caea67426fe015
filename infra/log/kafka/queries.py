"""Questions to the brokers: partitions, first and last offsets, offsets by time, commits. Asked again while they are busy."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

from aiokafka import errors as kafka
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.producer.transaction_manager import TransactionResult
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.transaction import EndTxnRequest

from llmos.infra.log.kafka.clients import RETRY_SECONDS, Clients, stop_client, stop_consumer
from llmos.infra.log.kafka.errors import BUSY, FENCED, RAISED, ambiguous, describe
from llmos.infra.log.kafka.names import Names
from llmos.infra.log.port import Commit, Place
from llmos.schemas.errors import Ambiguous

T = TypeVar("T")


class Queries:
    """Asks over one client and one consumer of its own. Every question raises `Ambiguous` when no answer comes."""

    def __init__(self, clients: Clients, names: Names) -> None:
        self._names = names
        self._seconds = clients.settings.request_seconds
        self._client = clients.client()
        self._oracle = clients.oracle()

    async def start(self) -> None:
        """Connects."""
        await self._client.bootstrap()
        await self._oracle.start()

    async def close(self) -> None:
        """Ends both; bounded in time."""
        await stop_consumer(self._oracle)
        await stop_client(self._client)

    async def partitions(self, topic: str) -> int | None:
        """How many partitions the topic has; None where it does not exist. Creates nothing."""
        return await self._ask(f"asking for topic {topic}", lambda: self._partitions(self._names.wire(topic)))

    async def _partitions(self, name: str) -> int | None:
        request = MetadataRequest([name], allow_auto_topic_creation=False)
        response = await self._client.send(self._client.get_random_node(), request)
        (topic,) = response.to_object()["topics"]
        error = kafka.for_code(topic["error_code"])
        if error in (kafka.UnknownTopicOrPartitionError, kafka.InvalidTopicError):
            return None
        if error is not kafka.NoError:
            raise error
        return len(topic["partitions"])

    async def led(self, topic: str) -> None:
        """Waits until every partition of the topic has a leader, as far as the broker asked knows."""
        await self._ask(f"waiting for the leaders of {topic}", lambda: self._led(self._names.wire(topic)))

    async def _led(self, name: str) -> None:
        request = MetadataRequest([name], allow_auto_topic_creation=False)
        response = await self._client.send(self._client.get_random_node(), request)
        (found,) = response.to_object()["topics"]
        _raise_for(found["error_code"])
        if any(partition["leader"] < 0 for partition in found["partitions"]):
            raise kafka.LeaderNotAvailableError

    async def begins(self, places: Iterable[Place]) -> dict[Place, int]:
        """The first offset still in the log."""
        return await self._offsets("asking for first offsets", self._oracle.beginning_offsets, places)

    async def ends(self, places: Iterable[Place]) -> dict[Place, int]:
        """The offset that the next record will get."""
        return await self._offsets("asking for last offsets", self._oracle.end_offsets, places)

    async def _offsets(
        self, operation: str, ask: Callable[[list[Any]], Awaitable[Any]], places: Iterable[Place]
    ) -> dict[Place, int]:
        wanted = [self._names.partition(place) for place in places]
        found = await self._ask(operation, lambda: ask(wanted))
        return {self._names.place(tp): found[tp] for tp in wanted}

    async def offsets_at(self, times: Mapping[Place, float]) -> dict[Place, int]:
        """The first offset whose record is no older than the time; the end where there is none."""
        wanted = {self._names.partition(place): _milliseconds(time) for place, time in times.items()}
        # aiokafka changes the mapping that it is given.
        found = await self._ask("asking for offsets by time", lambda: self._oracle.offsets_for_times(dict(wanted)))
        offsets = {self._names.place(tp): hit.offset for tp, hit in found.items() if hit is not None}
        missing = [place for place in times if place not in offsets]
        return offsets | (await self.ends(missing) if missing else {})

    async def committed(self, group: str, places: Iterable[Place]) -> dict[Place, Commit | None]:
        """What is committed; None where nothing is."""
        wanted = list(places)
        return await self._ask(f"asking for the commits of {group}", lambda: self._committed(group, wanted))

    async def _committed(self, group: str, places: list[Place]) -> dict[Place, Commit | None]:
        # Not by the admin client's call of this name: it does not look at the answer's error code, and a
        # coordinator that is still loading would read as "nothing is committed".
        name = self._names.wire(group)
        by_topic: dict[str, list[int]] = defaultdict(list)
        for place in places:
            by_topic[self._names.wire(place.topic)].append(place.partition)
        node = await self._client.coordinator_lookup(CoordinationType.GROUP, name)
        request = OffsetFetchRequest(name, list(by_topic.items()))
        response = await self._client.send(node, request, group=ConnectionGroup.COORDINATION)
        _raise_for(response.error_code)
        found: dict[tuple[str, int], Commit | None] = {}
        for topic, partitions in response.topics:
            for partition, offset, metadata, code in partitions:
                _raise_for(code)
                found[topic, partition] = None if offset < 0 else Commit(offset, metadata or "")
        return {place: found[self._names.wire(place.topic), place.partition] for place in places}

    async def abort(self, name: str, producer_id: int, epoch: int) -> bool:
        """Aborts what a producer left open, in its name; False where a newer one of the name was initialised.

        Beside the producer, which may be hanging in what is to be aborted.
        """
        return await self._ask(
            f"aborting a transaction of {name}", lambda: self._abort(self._names.wire(name), producer_id, epoch)
        )

    async def _abort(self, name: str, producer_id: int, epoch: int) -> bool:
        node = await self._client.coordinator_lookup(CoordinationType.TRANSACTION, name)
        request = EndTxnRequest(
            transactional_id=name,
            producer_id=producer_id,
            producer_epoch=epoch,
            transaction_result=TransactionResult.ABORT,
        )
        response = await self._client.send(node, request, group=ConnectionGroup.COORDINATION)
        error = kafka.for_code(response.error_code)
        if error in FENCED or error is kafka.InvalidProducerIdMapping:
            return False
        if error is not kafka.InvalidTxnState:  # nothing was open: the broker looks at the epoch first
            _raise_for(response.error_code)
        return True

    async def _ask(self, operation: str, question: Callable[[], Awaitable[T]]) -> T:
        last: Exception | None = None
        try:
            async with asyncio.timeout(self._seconds):
                while True:
                    try:
                        return await question()
                    except RAISED as error:
                        if type(error) not in BUSY:
                            raise
                        last = error
                    await asyncio.sleep(RETRY_SECONDS)
        except RAISED as error:
            if last is not None and isinstance(error, TimeoutError):
                problem = f"no answer within {self._seconds:.1f} s, the last one was {describe(last)}"
                raise Ambiguous(operation=operation, problem=problem) from last
            raise ambiguous(operation, error) from error


def _raise_for(code: int) -> None:
    error = kafka.for_code(code)
    if error is not kafka.NoError:
        raise error


def _milliseconds(time: float) -> int:
    """Rounded up, as no older record is wanted; thousandths of a millisecond are beyond a float's precision."""
    return max(0, math.ceil(round(time * 1000, 2)))
