"""Which partitions an instance owns, and where it starts reading: at its commit, at the very beginning, or not at all."""

from __future__ import annotations

from collections.abc import Iterable

from llmos.infra.log.port import Commit, Log, Place
from llmos.infra.runtime.context import Context
from llmos.infra.settings.tree import Instance
from llmos.schemas.errors import CommitMissing, LayoutMismatch, TopicMissing

RECOMMIT_SECONDS = 3600.0
"""Idle partitions are committed again this often: committed offsets expire, although the consumer lives."""


def owned(instance: Instance, partitions: int) -> list[int]:
    """The partitions p with p mod n = i."""
    return [p for p in range(partitions) if p % instance.n == instance.i]


async def starts(log: Log, group: str, places: Iterable[Place]) -> dict[Place, Commit]:
    """The commit of each place; without one, offset 0 where the whole log is still there.

    Reading everything again is safe (replays are dropped further on); beginning anywhere else is not.

    Raises:
        CommitMissing: there is no commit and the beginning of the log is gone.
    """
    places = list(places)
    commits = await log.committed(group, places)
    begins = await log.begins(places)
    result: dict[Place, Commit] = {}
    for place in places:
        commit = commits.get(place)
        if commit is None:
            if begins[place] > 0:
                raise CommitMissing(group=group, topic=place.topic, partition=place.partition)
            commit = Commit(0, "")
        if commit.offset < begins[place]:
            raise CommitMissing(group=group, topic=place.topic, partition=place.partition)
        result[place] = commit
    return result


async def partitions_of(ctx: Context, topic: str) -> int:
    """How many partitions a topic of the table has.

    Raises:
        TopicMissing: it does not exist.
        LayoutMismatch: it has another number than the settings say.
    """
    found = await ctx.log.partitions(topic)
    wanted = ctx.settings.kafka.partitions
    if found is None:
        raise TopicMissing(topic=topic)
    if found != wanted:
        raise LayoutMismatch(what=f"topic {topic}", found=f"{found} partitions", wanted=wanted)
    return found
