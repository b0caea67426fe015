"""λ and μ from measurements, exponentially weighted by time: what was seen a half-life ago counts half."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class Decaying:
    """A sum whose parts fade with their age."""

    half_life_seconds: float
    total: float = 0.0
    at: float = 0.0

    def add(self, amount: float, now: float) -> None:
        """Adds `amount` now."""
        self.total = self.value(now) + amount
        self.at = max(now, self.at)

    def value(self, now: float) -> float:
        """The faded sum."""
        age = max(now - self.at, 0.0)
        return self.total * math.pow(0.5, age / self.half_life_seconds)


class ArrivalRate:
    """λ in 1/s: arrivals, faded, over the time that the fading window sees (corrected while it fills)."""

    __slots__ = ("_arrivals", "_began", "_half_life")

    def __init__(self, half_life_seconds: float, now: float) -> None:
        self._half_life = half_life_seconds
        self._arrivals = Decaying(half_life_seconds, at=now)
        self._began = now

    def arrived(self, count: int, now: float) -> None:
        """`count` arrivals now."""
        self._arrivals.add(count, now)

    def value(self, now: float) -> float:
        """λ. With S = Σ 2^(−age/h), λ = S / ∫₀^T 2^(−t/h) dt, T the time since the start."""
        span = max(now - self._began, 1e-3)
        window = self._half_life / math.log(2) * (1.0 - math.pow(0.5, span / self._half_life))
        return self._arrivals.value(now) / max(window, 1.0)


class ServiceRate:
    """μ in 1/s: tasks done per second of busy device, faded; and their mean service time in s."""

    __slots__ = ("_busy", "_tasks", "samples")

    def __init__(self, half_life_seconds: float, now: float) -> None:
        self._tasks = Decaying(half_life_seconds, at=now)
        self._busy = Decaying(half_life_seconds, at=now)
        self.samples = 0

    def served(self, tasks: int, busy_seconds: float, now: float) -> None:
        """`tasks` were done in `busy_seconds` of device time."""
        self._tasks.add(tasks, now)
        self._busy.add(busy_seconds, now)
        self.samples += tasks

    def value(self, now: float) -> float:
        """μ; 0 while nothing was served."""
        busy = self._busy.value(now)
        return self._tasks.value(now) / busy if busy > 0 else 0.0

    def tasks(self, now: float) -> float:
        """Tasks done, faded."""
        return self._tasks.value(now)

    def mean_service_seconds(self, now: float) -> float | None:
        """Busy seconds per task; None while nothing was served."""
        tasks = self._tasks.value(now)
        return self._busy.value(now) / tasks if tasks > 1e-9 and self.samples else None


def utilisation(arrival_rate: float, service_rate: float) -> float:
    """ρ = λ/μ; 0 while μ is unknown."""
    return arrival_rate / service_rate if service_rate > 0 else 0.0
