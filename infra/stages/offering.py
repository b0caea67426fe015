"""Offers records to topics of other owners beside a service's loop: a topic that hangs holds up nothing but itself."""

from __future__ import annotations

import asyncio
from collections import deque

import structlog

from llmos.infra.log.port import Log, Out, Place
from llmos.infra.log.sizes import size_of
from llmos.infra.runtime.context import Context
from llmos.infra.stages.reply_topics import ReplyTopics
from llmos.schemas.ids import partition_of

log = structlog.get_logger()

TOPICS_AT_ONCE = 256
"""Each with a task of its own; further topics wait for one of these to end, which takes seconds at most."""
WAITING_BYTES = 64 * 1024 * 1024
"""Of records that wait to be offered; what comes beyond is dropped."""
_SHARE = 4
"""One topic may take this part of it."""


class Offering:
    """One task per topic with records, in order within a topic. What is not taken in seconds is dropped, and so is
    what comes for the same topic within the next half minute."""

    def __init__(self, ctx: Context, room: int = WAITING_BYTES) -> None:
        """`room`: bytes that may wait."""
        self._log: Log = ctx.log
        self._topics = ReplyTopics(ctx)
        self._room = room
        self._waiting: dict[str, deque[tuple[bytes | None, Out]]] = {}
        """By topic; a topic is here as long as a task of its own is at work, or is to come."""
        self._bytes: dict[str, int] = {}
        self._total = 0
        self._begun: deque[str] = deque()
        self._wake = asyncio.Event()
        self._dropped = 0
        self.idle = asyncio.Event()
        """Nothing waits, and nothing is on its way."""
        self.idle.set()

    def put(self, topic: str, out: Out, job_id: bytes | None = None) -> None:
        """Takes a record: for the partition of its job, or the first."""
        size = size_of(out)
        if self._total + size > self._room or self._bytes.get(topic, 0) + size > self._room // _SHARE:
            self._dropped += 1
            return
        self._total += size
        self._bytes[topic] = self._bytes.get(topic, 0) + size
        if topic not in self._waiting:
            self._waiting[topic] = deque()
            self._begun.append(topic)
            self._wake.set()
            self.idle.clear()
        self._waiting[topic].append((job_id, out))

    async def run(self) -> None:
        """Offers until cancelled."""
        slots = asyncio.Semaphore(TOPICS_AT_ONCE)
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._begun:
                    await slots.acquire()
                    topic = self._begun.popleft()
                    task = tasks.create_task(self._offer_all(topic), name=f"offering to {topic}")
                    task.add_done_callback(lambda _: slots.release())
                if self._dropped:
                    log.warning("offers_dropped", count=self._dropped)
                    self._dropped = 0

    async def _offer_all(self, topic: str) -> None:
        waiting = self._waiting[topic]
        while waiting:
            taken = list(waiting)
            waiting.clear()
            await self._offer(topic, taken)
            self._total -= (size := sum(size_of(out) for _, out in taken))
            self._bytes[topic] -= size
        del self._waiting[topic], self._bytes[topic]
        if not self._waiting:
            self.idle.set()

    async def _offer(self, topic: str, records: list[tuple[bytes | None, Out]]) -> None:
        count = await self._topics.partitions(topic)
        if count is None:
            log.info("offer_topic_missing", topic=topic, records=len(records))
            return
        batches: dict[Place, list[Out]] = {}
        for job_id, out in records:
            partition = 0 if job_id is None else partition_of(job_id, count)
            batches.setdefault(Place(topic, partition), []).append(out)
        for place, outs in batches.items():
            if not await self._log.offer(place, outs):
                self._topics.refused(topic)
                return
