"""How long a step may take before it is taken for hung: by what such steps took so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

LEAST_SECONDS = 1.5
"""No limit is shorter: a step that waits for a core that somebody else has is slow and not hung."""
FACTOR = 8.0
"""A step is hung when it takes so many times what such steps take on the average."""
SAMPLES = 5
"""Steps of a model that must have been seen first: the first ones make caches and choose kernels."""
WEIGHT = 0.1
"""Of the newest step in the averages."""

Key = tuple[str, str]
"""Model and kind."""


class _Average(NamedTuple):
    """Exponentially weighted."""

    samples: int
    seconds: float
    seconds_per_work: float


@dataclass(slots=True)
class StepTimes:
    """Averages by (model, kind).

    Steps differ in what they do (a step that decodes 4 tokens, one that reads 2,000 of a prompt), so two limits are kept
    and the longer one counts: by the seconds of a step, and by its seconds per unit of work.
    """

    first_seconds: float = 0.0
    """What steps may take of which nothing is known yet; 0: anything."""
    _averages: dict[Key, _Average] = field(default_factory=dict)

    def limit(self, key: Key, work: float) -> float:
        """Seconds that a step of so much work may take; 0: unknown."""
        average = self._averages.get(key)
        if average is None or average.samples < SAMPLES:
            return self.first_seconds
        return max(LEAST_SECONDS, FACTOR * max(average.seconds, average.seconds_per_work * max(work, 1.0)))

    def took(self, key: Key, work: float, seconds: float) -> None:
        """A step of so much work took so long."""
        each = seconds / max(work, 1.0)
        before = self._averages.get(key)
        if before is None:
            self._averages[key] = _Average(1, seconds, each)
            return
        # as a plain mean at first, so that the very first step does not weigh more than it should
        weight = max(WEIGHT, 1.0 / (before.samples + 1))
        self._averages[key] = _Average(
            before.samples + 1,
            before.seconds + weight * (seconds - before.seconds),
            before.seconds_per_work + weight * (each - before.seconds_per_work),
        )

    def forget(self, model: str) -> None:
        """The model was loaded anew: its first steps are slow again."""
        for key in [key for key in self._averages if key[0] == model]:
            del self._averages[key]
