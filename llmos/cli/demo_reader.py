"""An independent witness of the demo: aiokafka and msgpack only, no line of llmos's client; counts answers per origin."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import NamedTuple

import msgpack  # type: ignore[import-untyped]
from aiokafka import AIOKafkaConsumer

Origin = tuple[str, int, int]
"""Topic, partition and offset of a request."""


class Witnessed(NamedTuple):
    """What stands on `results`."""

    answers: Counter[Origin]
    """How many answers each request has."""
    statuses: Counter[str]
    sealed: frozenset[Origin] = frozenset()
    """The requests whose answers have outputs, all of them sealed."""


async def witness(bootstrap: str, results: str, timeout: float = 60.0) -> Witnessed:
    """Reads the topic `results` from its beginning to its end as of now, committed records only.

    Raises `TimeoutError` when that takes longer than `timeout` seconds.
    """
    consumer = AIOKafkaConsumer(
        results,  # without a group: all its partitions
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=16 * 1024 * 1024,
    )
    async with asyncio.timeout(timeout):
        await consumer.start()
        try:
            return await _read(consumer)
        finally:
            await consumer.stop()


async def _read(consumer: AIOKafkaConsumer) -> Witnessed:
    answers: Counter[Origin] = Counter()
    statuses: Counter[str] = Counter()
    sealed: set[Origin] = set()
    places = sorted(consumer.assignment())
    ends = await consumer.end_offsets(places)
    await consumer.seek_to_beginning(*places)
    while True:
        behind = [place for place in places if await consumer.position(place) < ends[place]]
        if not behind:
            return Witnessed(answers, statuses, frozenset(sealed))
        for records in (await consumer.getmany(timeout_ms=200)).values():
            for record in records:
                answer = msgpack.unpackb(record.value)
                topic, partition, offset = answer["origin"]
                answers[topic, partition, offset] += 1
                statuses[answer["status"]] += 1
                outputs = [item for item in answer.get("items", ()) if item.get("output")]
                if outputs and all(item.get("sealed") for item in outputs):
                    sealed.add((topic, partition, offset))
