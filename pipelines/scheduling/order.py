"""Which task first: lane, then priority, then deadline, then arrival."""

from __future__ import annotations

from typing import NamedTuple

from llmos.schemas.job import LANES, Lane

_RANK: dict[Lane, int] = {lane: rank for rank, lane in enumerate(LANES)}


class Key(NamedTuple):
    """A waiting task; smaller is sooner. Its last three fields name the task."""

    lane: int
    unimportance: int
    """9 − priority."""
    deadline: float
    arrival: float
    partition: int
    s: int
    part: int


def key_of(lane: Lane, priority: int, deadline: float, arrival: float, partition: int, s: int, part: int) -> Key:
    """The key of a task."""
    return Key(_RANK[lane], 9 - priority, deadline, arrival, partition, s, part)
