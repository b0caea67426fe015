"""Which task first: lane, then priority; among equals tenants by their shares (`shares`), each tenant's by due time, then
arrival.

The due time is the deadline, or `DUE_SECONDS` after the arrival where that is earlier: so nobody waits behind an unending
stream of others whose deadlines are nearer. That lanes and priorities starve nobody either is the work of `ageing`.
"""

from __future__ import annotations

from typing import NamedTuple

from llmos.schemas.job import LANES, Lane

_RANK: dict[Lane, int] = {lane: rank for rank, lane in enumerate(LANES)}
PRIORITIES = 10
DUE_SECONDS = 300.0


class Key(NamedTuple):
    """A waiting task; smaller is sooner. Partition, s and part name the task; the tokens tell its size."""

    lane: int
    unimportance: int
    """9 − priority."""
    due: float
    arrival: float
    partition: int
    s: int
    part: int
    input_tokens: int = 0
    output_tokens: int = 0
    """At most, of all its sequences together."""
    sequences: int = 1
    """That it generates side by side."""

    @property
    def level(self) -> int:
        """Lane and priority in one, from 0, the most urgent."""
        return self.lane * PRIORITIES + self.unimportance


def key_of(
    lane: Lane,
    priority: int,
    deadline: float,
    arrival: float,
    partition: int,
    s: int,
    part: int,
    input_tokens: int = 0,
    output_tokens: int = 0,
    sequences: int = 1,
) -> Key:
    """The key of a task."""
    due = min(deadline, arrival + DUE_SECONDS)
    return Key(_RANK[lane], 9 - priority, due, arrival, partition, s, part, input_tokens, output_tokens, sequences)
