"""How far a stage is behind, and how near the oldest record that it has not read is to being lost to retention."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple

from llmos.infra.log.port import Place
from llmos.infra.runtime.context import Context
from llmos.infra.telemetry.metrics import BACKLOG_RECORDS, BACKLOG_RETENTION
from llmos.schemas.topics import topic_named

LOOK_SECONDS = 5.0


class Reached(NamedTuple):
    """How far a place was read."""

    position: int
    read_to: float
    """Time of the last record that was read, in Unix seconds; 0 before the first."""


async def watch_backlog(ctx: Context, reached: Callable[[], Mapping[Place, Reached]]) -> None:
    """Keeps the metrics until cancelled."""
    while True:
        places = reached()
        if places:
            ends = await ctx.log.ends(list(places))
            for place, at in places.items():
                _set(place, max(ends[place] - at.position, 0), at.read_to, ctx.clock.now())
        await asyncio.sleep(LOOK_SECONDS)


def _set(place: Place, records: int, read_to: float, now: float) -> None:
    names = (place.topic, str(place.partition))
    BACKLOG_RECORDS.labels(*names).set(records)
    BACKLOG_RETENTION.labels(*names).set(retention_used(place.topic, records, read_to, now))


def retention_used(topic: str, records: int, read_to: float, now: float) -> float:
    """Age of the oldest unread record as a fraction of the topic's retention, at most: it is no older than the last one
    read. 0 where nothing is unread or nothing was read yet."""
    retention = topic_named(topic).retention_seconds
    if not records or not read_to or retention is None:
        return 0.0
    return max(now - read_to, 0.0) / retention
