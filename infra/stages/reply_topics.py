"""Where the events and the copy of the answer of a job with a `reply_to` go: topics of other owners, never relied upon."""

from __future__ import annotations

import asyncio
from collections import deque

import structlog

from llmos.infra.log.port import Log, Out, Place
from llmos.infra.runtime.context import Context
from llmos.schemas.ids import partition_of
from llmos.schemas.job import Head

log = structlog.get_logger()

KNOWN_SECONDS = 30.0
"""How long it is remembered that a topic exists: their owners make and delete them."""
MISSING_SECONDS = 1.0
"""How long it is remembered that it does not."""
WAITING_EVENTS = 20_000
"""Events that wait to be sent at most; what comes beyond is dropped."""
_KNOWN_TOPICS = 10_000


class ReplyTopics:
    """Remembers the partitions of `reply_to` topics for a short while."""

    def __init__(self, ctx: Context) -> None:
        self._log: Log = ctx.log
        self._clock = ctx.clock
        self._known: dict[str, tuple[int | None, float]] = {}

    async def place(self, head: Head) -> Place | None:
        """The job's place on its `reply_to` topic; None when it named none, or when that does not exist."""
        if head.reply_to is None:
            return None
        now = self._clock.now()
        count, until = self._known.get(head.reply_to, (None, 0.0))
        if now >= until:
            count = await self._log.partitions(head.reply_to)
            if len(self._known) >= _KNOWN_TOPICS:
                self._known.clear()
            self._known[head.reply_to] = (count, now + (MISSING_SECONDS if count is None else KNOWN_SECONDS))
        return Place(head.reply_to, partition_of(head.job_id, count)) if count else None

    def forget(self, topic: str) -> None:
        """It could not be written: it counts as missing for a moment."""
        self._known[topic] = (None, self._clock.now() + MISSING_SECONDS)


class ReplyEvents:
    """Sends events to `reply_to` topics beside the service's loop: a topic that hangs holds up nothing but itself."""

    def __init__(self, ctx: Context) -> None:
        self._log: Log = ctx.log
        self._topics = ReplyTopics(ctx)
        self._waiting: deque[tuple[Head, Out]] = deque()
        self._wake = asyncio.Event()
        self._dropped = 0

    def put(self, head: Head, out: Out) -> None:
        """Takes an event of a job with a `reply_to`."""
        if len(self._waiting) >= WAITING_EVENTS:
            self._dropped += 1
            return
        self._waiting.append((head, out))
        self._wake.set()

    async def run(self) -> None:
        """Sends until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            waiting, self._waiting = self._waiting, deque()
            batches: dict[Place, list[Out]] = {}
            for head, out in waiting:
                place = await self._topics.place(head)
                if place is not None:
                    batches.setdefault(place, []).append(out)
            for place, outs in batches.items():
                if not await self._log.offer(place, outs):
                    self._topics.forget(place.topic)
            if self._dropped:
                log.warning("reply_events_dropped", count=self._dropped)
                self._dropped = 0
