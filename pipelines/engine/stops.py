"""Ends a growing text at the first stop string, also where it lies across several tokens."""

from __future__ import annotations

from collections.abc import Sequence


class StopFilter:
    """Lets text through, but for an end that may yet become a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False

    def feed(self, text: str) -> str:
        """The text that is certain now. Once a stop string was met, `hit` is set and nothing follows."""
        if self.hit or not text:
            return ""
        self._held += text
        if not self._stops:
            return self.flush()
        found = [(place + len(stop), place) for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            self.hit = True
            # the one that is complete first, so that the cut does not depend on how the text came
            certain, self._held = self._held[: min(found)[1]], ""
            return certain
        held = self._uncertain()
        certain = self._held[: len(self._held) - held]
        self._held = self._held[len(self._held) - held :]
        return certain

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held

    def _uncertain(self) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        longest = min(len(self._held), max(len(stop) for stop in self._stops) - 1)
        for length in range(longest, 0, -1):
            end = self._held[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
