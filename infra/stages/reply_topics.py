"""Where the events and the copy of the answer of a job with a `reply_to` go: topics of other owners, never relied upon."""

from __future__ import annotations

from llmos.infra.log.port import Log, Place
from llmos.infra.runtime.context import Context
from llmos.schemas.ids import partition_of
from llmos.schemas.job import Head

KNOWN_SECONDS = 30.0
"""How long it is remembered that a topic exists: their owners make and delete them."""
MISSING_SECONDS = 1.0
"""How long it is remembered that it does not."""
REFUSED_SECONDS = 30.0
"""How long nothing more is tried with one that took nothing: each try may take seconds."""
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
        count = await self.partitions(head.reply_to)
        return Place(head.reply_to, partition_of(head.job_id, count)) if count else None

    async def partitions(self, topic: str) -> int | None:
        """How many it has; None when it does not exist, or refused a moment ago."""
        now = self._clock.now()
        count, until = self._known.get(topic, (None, 0.0))
        if now >= until:
            count = await self._log.partitions(topic)
            if len(self._known) >= _KNOWN_TOPICS:
                self._known.clear()
            self._known[topic] = (count, now + (MISSING_SECONDS if count is None else KNOWN_SECONDS))
        return count

    def refused(self, topic: str) -> None:
        """It could not be written: it counts as missing for a while."""
        self._known[topic] = (None, self._clock.now() + REFUSED_SECONDS)
