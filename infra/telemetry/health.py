"""Whether a service is alive and ready: hangs are found by loops that stop taking turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

CATCH_UP = "catch-up"
"""The loop that reads the log up to its end at start: over as soon as another loop takes a turn."""


class ProgressHealth:
    """Keeps `Health`: services call `progress` and `ready`; the endpoint asks the rest."""

    def __init__(self, live_seconds: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        """`live_seconds`: a loop without a turn for longer makes the service not live."""
        self._live_seconds = live_seconds
        self._clock = clock
        self._turns: dict[str, float] = {}
        self._ready = False
        self._draining = False

    def progress(self, loop: str) -> None:
        """This loop took a turn now."""
        self._turns[loop] = self._clock()
        if loop != CATCH_UP:
            self._turns.pop(CATCH_UP, None)

    def ready(self, what: str = "") -> None:
        """Start-up is over (`what` is for the reader); the service takes work."""
        self._ready = True
        self._turns.pop(CATCH_UP, None)

    def drain(self) -> None:
        """The service takes no more work; it stays live while it finishes."""
        self._draining = True

    def is_ready(self) -> bool:
        """Whether start-up is over and the service does not drain."""
        return self._ready and not self._draining

    def ages(self) -> Mapping[str, float]:
        """Seconds since the last turn of each loop."""
        now = self._clock()
        return {loop: now - at for loop, at in self._turns.items()}

    def live(self) -> tuple[bool, str]:
        """Whether every loop still takes its turns, else which one does not."""
        stuck = {loop: age for loop, age in self.ages().items() if age > self._live_seconds}
        if not stuck:
            return True, ""
        loop = max(stuck, key=lambda name: stuck[name])
        return False, f"loop {loop!r} has taken no turn for {stuck[loop]:.0f} s"
