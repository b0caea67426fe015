"""How fast a device is just now, against its own longer mean: found within seconds when somebody steals its time."""

from __future__ import annotations

import math
from collections import deque

DRIFT = 0.6
"""Three heartbeats in a row that are slower than this share of the present speed, or faster by as much, are believed at once."""
DRIFT_SAMPLES = 3
LEAST_SECONDS = 0.02
"""A sample that took less is weighed, but drift is not found by it."""
SLOWEST, FASTEST = 0.02, 50.0


class Speed:
    """1: as fast as its mean; 0.5: everything takes twice as long. Exponentially weighted over busy seconds."""

    __slots__ = ("_at", "_busy_half_life", "_idle_half_life", "_recent", "_speed")

    def __init__(self, busy_half_life_seconds: float, idle_half_life_seconds: float, now: float) -> None:
        self._busy_half_life = busy_half_life_seconds
        self._idle_half_life = idle_half_life_seconds
        self._recent: deque[float] = deque(maxlen=DRIFT_SAMPLES)
        self._speed = 1.0
        self._at = now

    def saw(self, expected_seconds: float, taken_seconds: float, now: float) -> None:
        """What should have taken `expected_seconds` by the mean took `taken_seconds`."""
        if expected_seconds <= 0.0 or taken_seconds <= 0.0:
            return
        ratio = min(max(expected_seconds / taken_seconds, SLOWEST), FASTEST)
        self._speed = self.value(now)
        self._at = now
        weight = 1.0 - math.pow(0.5, taken_seconds / self._busy_half_life)
        if taken_seconds >= LEAST_SECONDS:
            self._recent.append(ratio)
            if len(self._recent) == DRIFT_SAMPLES and (
                max(self._recent) < DRIFT * self._speed or min(self._recent) > self._speed / DRIFT
            ):
                self._speed = sum(self._recent) / DRIFT_SAMPLES
                return
        self._speed += weight * (ratio - self._speed)

    def value(self, now: float) -> float:
        """The speed; of a device that does nothing it goes back to 1, so that a slow one gets its chance again."""
        idle = max(now - self._at, 0.0)
        return 1.0 + (self._speed - 1.0) * math.pow(0.5, idle / self._idle_half_life)
