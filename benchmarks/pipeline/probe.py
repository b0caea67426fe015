"""Sends jobs and reads answers with aiokafka and msgpack alone: the same code for llmos and for the bare chain."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import NamedTuple

import msgpack
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

TEXT = "the quick brown fox jumps over the lazy dog, " * 2
RECORD_BYTES = 420
"""About what a record of an echo job has on its way through llmos, on average over the topics."""
PATIENCE_SECONDS = 30.0


class Target(NamedTuple):
    """Where jobs go, where answers come from, and how both are read."""

    name: str
    source: str
    results: str
    partitions: int
    request: Callable[[str], bytes]
    id_of: Callable[[bytes], str]


def llmos_target(partitions: int) -> Target:
    """llmos: echo jobs on the standard lane, no stream events."""

    def request(name: str) -> bytes:
        return bytes(
            msgpack.packb(
                {
                    "type": "request/1",
                    "request_id": name,
                    "tenant": "demo",
                    "kind": "echo",
                    "input": {"text": TEXT},
                    "events": "none",
                }
            )
        )

    def id_of(value: bytes) -> str:
        answer = msgpack.unpackb(value)
        if answer["status"] != "completed":
            raise RuntimeError(f"a job was not completed: {answer}")
        return str(answer["request_id"])

    return Target("llmos", "requests", "results", partitions, request, id_of)


def bare_target(source: str, results: str, partitions: int) -> Target:
    """The bare chain: the name, padded."""
    return Target(
        "bare chain",
        source,
        results,
        partitions,
        lambda name: name.encode().ljust(RECORD_BYTES),
        lambda value: value.decode().strip(),
    )


class Probe:
    """A client of one target."""

    def __init__(self, bootstrap: str, target: Target) -> None:
        self.name = target.name
        self._target = target
        self._producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap, enable_auto_commit=False, isolation_level="read_committed"
        )
        self._run = uuid.uuid4().hex[:8]
        self._count = 0
        self._sent: dict[str, float] = {}
        self._latencies: list[float] = []
        self._answered = asyncio.Condition()
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to read at the end."""
        await self._producer.start()
        await self._consumer.start()
        places = [TopicPartition(self._target.results, p) for p in range(self._target.partitions)]
        self._consumer.assign(places)
        await self._consumer.seek_to_end(*places)
        for place in places:
            await self._consumer.position(place)
        self._reader = asyncio.create_task(self._read())

    async def stop(self) -> None:
        """Ends."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await self._consumer.stop()
        await self._producer.stop()

    async def paced(self, rate: float, seconds: float) -> list[float]:
        """Sends one job every 1/rate seconds, whatever comes back; gives the latencies in seconds."""
        self._latencies = []
        count = int(rate * seconds)
        began = time.perf_counter()
        sends = []
        for i in range(count):
            await asyncio.sleep(max(began + i / rate - time.perf_counter(), 0.0))
            sends.append(asyncio.create_task(self._send_one()))
        await asyncio.gather(*sends)
        await self._all_answered()
        return self._latencies

    async def saturate(self, in_flight: int, seconds: float) -> float:
        """Keeps `in_flight` jobs on their way; gives the answers per second."""
        await self._all_answered()
        self._latencies = []
        began = time.perf_counter()
        measured_from, measured_at = 0, began
        while (now := time.perf_counter()) - began < seconds:
            if measured_from == 0 and now - began > seconds * 0.2:
                measured_from, measured_at = len(self._latencies), now
            room = in_flight - len(self._sent)
            if room > 0:
                await self._send_many(room)
            else:
                async with self._answered:
                    await asyncio.wait_for(self._answered.wait(), PATIENCE_SECONDS)
        rate = (len(self._latencies) - measured_from) / (time.perf_counter() - measured_at)
        await self._all_answered()
        return rate

    def _next(self) -> tuple[str, int]:
        self._count += 1
        return f"{self._run}-{self._count}", self._count % self._target.partitions

    async def _send_one(self) -> None:
        name, partition = self._next()
        self._sent[name] = time.perf_counter()
        await self._producer.send_and_wait(self._target.source, self._target.request(name), partition=partition)

    async def _send_many(self, count: int) -> None:
        batches = {}
        for _ in range(count):
            name, partition = self._next()
            batch = batches.get(partition)
            if batch is None:
                batch = batches[partition] = self._producer.create_batch()
            if batch.append(key=None, value=self._target.request(name), timestamp=None) is None:
                break
            self._sent[name] = time.perf_counter()
        await asyncio.gather(
            *[
                await self._producer.send_batch(batch, self._target.source, partition=partition)
                for partition, batch in batches.items()
            ]
        )

    async def _all_answered(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS), self._answered:
            await self._answered.wait_for(lambda: not self._sent)

    async def _read(self) -> None:
        while True:
            batches = await self._consumer.getmany(timeout_ms=1000)
            now = time.perf_counter()
            for records in batches.values():
                for record in records:
                    sent = self._sent.pop(self._target.id_of(record.value), None)
                    if sent is not None:
                        self._latencies.append(now - sent)
            async with self._answered:
                self._answered.notify_all()
