"""Windows: how many tasks a device may hold, by additive increase and multiplicative decrease on the measured delay. Pure.

As in TCP's congestion control (Chiu and Jain, 1989): a full window grows by a little while tasks begin soon after they came,
and shrinks by a share when they wait longer than the target. Below the floor the device would idle while work waits; above
the ceiling it would hold what it does not begin soon.
"""

from __future__ import annotations

import math
from typing import NamedTuple

DECREASE = 0.7
INCREASE_SHARE = 8
"""A full window grows by slots / this, at least by one."""

LEAST_INTERVAL_SECONDS = 1e-5
"""Tasks that end faster than this one after the other are not told apart."""


class Seen(NamedTuple):
    """What a heartbeat tells of the time since the one before."""

    delay_seconds: float | None
    """Mean wait on the device of the tasks that began; None: none began."""
    was_full: bool
    """The window held work back meanwhile."""
    idle_seconds: float
    """Without any work."""


def first_window(slots: int, factor: float) -> float:
    """Where a device begins; one without slots takes nothing."""
    return slots * factor


def floor_of(slots: int, interval_seconds: float, target_seconds: float) -> float:
    """What keeps `slots` sequences running: as many, and one more where it would begin within the target.

    `interval_seconds`: between the ends of two tasks while all slots are busy; 0: unknown.
    """
    return slots + (1 if interval_seconds <= target_seconds else 0)


def ceiling_of(slots: int, interval_seconds: float, target_seconds: float, factor: float) -> float:
    """What the device begins within the target, beside what it runs; while that is unknown, where windows begin."""
    if interval_seconds <= 0.0:
        return first_window(slots, factor)
    return max(
        slots + math.ceil(target_seconds / max(interval_seconds, LEAST_INTERVAL_SECONDS)),
        floor_of(slots, interval_seconds, target_seconds),
    )


def next_window(
    window: float, seen: Seen, slots: int, interval_seconds: float, target_seconds: float, factor: float
) -> float:
    """The window for the next while; of a device without slots, none."""
    if slots < 1:
        return 0.0
    floor = floor_of(slots, interval_seconds, target_seconds)
    ceiling = ceiling_of(slots, interval_seconds, target_seconds, factor)
    if seen.delay_seconds is not None and seen.delay_seconds > target_seconds:
        window *= DECREASE
    elif seen.was_full:
        step = max(slots / INCREASE_SHARE, 1.0)
        window += step if seen.idle_seconds <= 0.0 else 2 * step
    return min(max(window, floor), ceiling)
