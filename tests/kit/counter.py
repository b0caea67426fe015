"""An independent reader of what the system wrote: aiokafka and msgpack only, committed records only, told by origin.

It knows nothing of the services or of the client: a map that a stranger can decode is all it goes by.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgpack
from aiokafka import AIOKafkaConsumer, TopicPartition

Origin = tuple[str, int, int]
"""Topic, partition and offset of a submission, as its produce acknowledgement named them."""
Message = Mapping[str, Any]

LOOK_SECONDS = 0.2
_FETCH_BYTES = 16 * 1024 * 1024


class Tally(NamedTuple):
    """What is wrong with a set of answers."""

    lost: list[Origin]
    """Acknowledged and without an answer."""
    doubled: dict[Origin, int]
    """With more answers than one, and how many."""

    @property
    def clean(self) -> bool:
        """Whether each has exactly one."""
        return not self.lost and not self.doubled


def origin_of(message: Message) -> Origin:
    """Whose answer, receipt, event or dead letter it is."""
    topic, partition, offset = message["origin"]
    return topic, partition, offset


def tally(acknowledged: Iterable[Origin], messages: Iterable[Message]) -> Tally:
    """Counts the answers of what was acknowledged; doubles are told of every submission, acknowledged or not."""
    counts = Counter(origin_of(message) for message in messages)
    lost = sorted(origin for origin in acknowledged if not counts[origin])
    return Tally(lost, {origin: count for origin, count in sorted(counts.items()) if count > 1})


class Reader:
    """Reads all partitions of one topic from their beginning; each call goes on where the last one ended."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._positions: dict[TopicPartition, int] = {}
        self.messages: list[dict[str, Any]] = []
        """All that was read, in the order of each partition."""

    def of(self, origin: Origin) -> list[dict[str, Any]]:
        """What was read of one submission."""
        return [message for message in self.messages if origin_of(message) == origin]

    async def one(self, origin: Origin, timeout: float) -> dict[str, Any]:
        """Waits for the message of this submission and gives it; fails when there are more."""
        await self.until([origin], timeout)
        (message,) = self.of(origin)
        return message

    async def until(self, origins: Iterable[Origin], timeout: float) -> None:
        """Reads until there is something of each of `origins`, then to the end as of then.

        Raises `AssertionError` with those that are missing when that takes longer than `timeout` seconds.
        """
        missing = set(origins)
        if missing:
            missing -= {origin_of(message) for message in self.messages}
        consumer = await self._connect(timeout)
        try:
            async with asyncio.timeout(timeout):
                while missing:
                    missing -= {origin_of(message) for message in await self._take(consumer)}
                await self._to_the_end(consumer)
        except TimeoutError:
            raise AssertionError(f"{len(missing)} have nothing on {self._topic!r}: {sorted(missing)[:5]}") from None
        finally:
            await consumer.stop()

    async def advance(self, timeout: float = 30.0) -> None:
        """Reads to the end as of now."""
        await self.until((), timeout)

    async def _connect(self, timeout: float) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            self._topic,  # without a group: all its partitions
            bootstrap_servers=self._bootstrap,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=_FETCH_BYTES,
        )
        try:
            async with asyncio.timeout(timeout):
                await consumer.start()
                for place in consumer.assignment():
                    consumer.seek(place, self._positions.get(place, 0))
        except BaseException:
            await consumer.stop()
            raise
        return consumer

    async def _to_the_end(self, consumer: AIOKafkaConsumer) -> None:
        ends = await consumer.end_offsets(sorted(consumer.assignment()))
        while [place for place, end in ends.items() if await consumer.position(place) < end]:
            await self._take(consumer)

    async def _take(self, consumer: AIOKafkaConsumer) -> list[dict[str, Any]]:
        batches = await consumer.getmany(timeout_ms=int(LOOK_SECONDS * 1000))
        new = [msgpack.unpackb(record.value) for records in batches.values() for record in records]
        self.messages += new
        for place in consumer.assignment():
            self._positions[place] = await consumer.position(place)
        return new
