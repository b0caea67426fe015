"""Power of two choices: of two devices at random the one with the shorter queue (Mitzenmacher, 2001); a baseline."""

from __future__ import annotations

from collections.abc import Sequence

from llmos.pipelines.scheduling.rankings.chance import draw
from llmos.pipelines.scheduling.rankings.shortest_queue import queue_of
from llmos.pipelines.scheduling.snapshot import Load


def better_of_two(devices: Sequence[Load], drawn: int) -> tuple[int, int]:
    """The place of the better of two different devices, and the numbers drawn so far."""
    count = len(devices)
    if count == 1:
        return 0, drawn
    one = draw(drawn, count)
    other = (one + 1 + draw(drawn + 1, count - 1)) % count
    return (other if queue_of(devices[other]) < queue_of(devices[one]) else one), drawn + 2
