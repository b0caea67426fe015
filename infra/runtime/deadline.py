"""One budget of time for a whole shutdown, shared by everything that must end within it."""

from __future__ import annotations

import time
from collections.abc import Callable


class Deadline:
    """So many seconds from now, by a clock that never jumps.

    `left()` is what is left, never below 0. `left(reserve=s)` keeps `s` seconds back for those that come later, so that
    one slow child does not eat the budget of all.
    """

    __slots__ = ("_clock", "_end")

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    def left(self, reserve: float = 0.0) -> float:
        """Seconds left, less `reserve`; 0 when there are none."""
        return max(0.0, self._end - self._clock() - reserve)
