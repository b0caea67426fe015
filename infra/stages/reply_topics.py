"""Where the events and the copy of the answer of a job with a `reply_to` go, if that topic is there."""

from __future__ import annotations

from llmos.infra.log.port import Log, Place
from llmos.infra.runtime.context import Context
from llmos.schemas import topics
from llmos.schemas.ids import partition_of
from llmos.schemas.job import Head

KNOWN_SECONDS = 30.0
"""How long it is remembered that a topic exists, or not: their owners make and delete them."""


class ReplyTopics:
    """Remembers the partitions of `reply_to` topics for a short while."""

    def __init__(self, ctx: Context) -> None:
        self._log: Log = ctx.log
        self._clock = ctx.clock
        self._known: dict[str, tuple[int | None, float]] = {}

    async def copy_place(self, head: Head) -> Place | None:
        """Where the copy goes; None when the topic does not exist."""
        if head.reply_to is None:
            return None
        now = self._clock.now()
        count, at = self._known.get(head.reply_to, (None, -KNOWN_SECONDS))
        if now - at >= KNOWN_SECONDS or count is None:
            count = await self._log.partitions(head.reply_to)
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[head.reply_to] = (count, now)
        return Place(head.reply_to, partition_of(head.job_id, count)) if count else None

    async def events_place(self, head: Head, partition: int) -> Place | None:
        """Where the job's events go: its `reply_to` if it named one (None when that is missing), else `stream`."""
        if head.reply_to is None:
            return Place(topics.STREAM, partition)
        return await self.copy_place(head)
