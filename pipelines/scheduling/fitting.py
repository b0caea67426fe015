"""Costs from measurements: sums that fade with time, and a decode step as a line over the batch by weighted least squares."""

from __future__ import annotations

import math
from typing import NamedTuple

from llmos.pipelines.scheduling.costs import DEFAULT_OUTPUT_FRACTION, Cost
from llmos.schemas.telemetry import Served

PRIOR_TASKS = 4.0
"""How many tasks the prior counts for: confidence = n / (n + this)."""
STEPS_PER_TASK = 16.0
"""So many decode steps tell as much as a task."""
TOKENS_PER_TASK = 256.0
"""So many prompt tokens tell as much as a task."""
SEQUENCE_SHARE = 0.1
"""b / a where batches of one size were seen only."""
RIDGE = 0.05
"""Variance of the batch at which the measured slope and the prior one count alike."""
LEAST_STEP_SHARE = 0.05
"""a is at least this share of the mean step, whatever the line says."""


class Delta(NamedTuple):
    """What was served between two heartbeats; seconds, tokens, counts."""

    tasks: int
    busy_seconds: float
    tokens_out: int
    prefill_tokens: int
    prefill_seconds: float
    decode_steps: int
    decode_tokens: int
    decode_seconds: float


def delta_of(before: Served | None, after: Served) -> Delta:
    """The difference of two readings of counters that count since the worker's start."""
    if before is None:
        return Delta(
            after.tasks, after.busy_seconds, after.tokens_out, after.prefill_tokens, after.prefill_seconds,
            after.decode_steps, after.decode_tokens, after.decode_seconds,
        )  # fmt: skip
    return Delta(
        after.tasks - before.tasks,
        max(after.busy_seconds - before.busy_seconds, 0.0),
        max(after.tokens_out - before.tokens_out, 0),
        max(after.prefill_tokens - before.prefill_tokens, 0),
        max(after.prefill_seconds - before.prefill_seconds, 0.0),
        max(after.decode_steps - before.decode_steps, 0),
        max(after.decode_tokens - before.decode_tokens, 0),
        max(after.decode_seconds - before.decode_seconds, 0.0),
    )


class CostMeter:
    """Measures what tasks of one model and kind cost one device."""

    __slots__ = (
        "_asked", "_asked_tasks", "_at", "_busy", "_half_life", "_out", "_prefill_seconds", "_prefill_tokens", "_steps",
        "_tasks", "_x", "_xx", "_xy", "_y",
    )  # fmt: skip

    def __init__(self, half_life_seconds: float, now: float) -> None:
        self._half_life = half_life_seconds
        self._at = now
        self._tasks = self._busy = self._out = 0.0
        self._asked = self._asked_tasks = 0.0
        self._prefill_tokens = self._prefill_seconds = 0.0
        self._steps = self._x = self._y = self._xx = self._xy = 0.0

    def asked(self, output_tokens: int, now: float) -> None:
        """A task that may generate so many tokens is on its way."""
        self._fade(now)
        self._asked += output_tokens
        self._asked_tasks += 1.0

    def served(self, delta: Delta, now: float) -> None:
        """Takes in what was served since the last time."""
        self._fade(now)
        self._tasks += delta.tasks
        self._busy += delta.busy_seconds
        self._out += delta.tokens_out
        self._prefill_tokens += delta.prefill_tokens
        self._prefill_seconds += delta.prefill_seconds
        steps = delta.decode_steps
        if steps:
            x = delta.decode_tokens / steps - 1.0
            self._steps += steps
            self._x += steps * x
            self._xx += steps * x * x
            self._y += delta.decode_seconds
            self._xy += x * delta.decode_seconds

    def age(self, now: float) -> float:
        """Seconds since anything was asked or served."""
        return max(now - self._at, 0.0)

    @property
    def samples(self) -> float:
        """The evidence, in tasks, faded."""
        return self._tasks + self._steps / STEPS_PER_TASK + self._prefill_tokens / TOKENS_PER_TASK

    @property
    def confidence(self) -> float:
        """0 … 1: n / (n + n₀)."""
        return self.samples / (self.samples + PRIOR_TASKS)

    def cost(self, prior: Cost | None) -> Cost:
        """Measured and prior costs, weighed by the confidence; without a prior what was measured alone."""
        confidence = self.confidence
        first, each = self._step(prior)
        mean = self._busy / self._tasks if self._tasks > 1e-9 else 0.0
        prefill = self._prefill_seconds / self._prefill_tokens if self._prefill_tokens > 1e-9 else 0.0
        fraction = self._fraction()
        if prior is None:
            return Cost(mean, prefill, first, each, fraction or DEFAULT_OUTPUT_FRACTION, confidence)
        return Cost(
            _weigh(mean, prior.task_seconds, confidence),
            _weigh(prefill, prior.prefill_seconds, confidence),
            _weigh(first, prior.step_seconds, confidence),
            _weigh(each, prior.sequence_seconds, confidence) if first > 0.0 else prior.sequence_seconds,
            _weigh(fraction, prior.output_fraction, confidence),
            confidence,
        )

    def _step(self, prior: Cost | None) -> tuple[float, float]:
        """a and b of step = a + b · (B − 1); 0, 0 while no step was seen."""
        if self._steps < 1e-9:
            return 0.0, 0.0
        x, y = self._x / self._steps, self._y / self._steps
        share = prior.sequence_seconds / prior.step_seconds if prior and prior.step_seconds > 0.0 else SEQUENCE_SHARE
        slope = share * y / (1.0 + share * x)
        variance = max(self._xx / self._steps - x * x, 0.0)
        covariance = self._xy / self._steps - x * y
        each = max((covariance + RIDGE * slope) / (variance + RIDGE), 0.0)
        first = max(y - each * x, LEAST_STEP_SHARE * y)
        return first, (y - first) / x if x > 1e-9 and y > first else each

    def _fraction(self) -> float:
        """Tokens generated over those asked for, per task; 0 while unknown."""
        if self._tasks < 1e-9 or self._asked < 1e-9 or self._out <= 0.0:
            return 0.0
        return min((self._out / self._tasks) / (self._asked / self._asked_tasks), 1.0)

    def _fade(self, now: float) -> None:
        age = now - self._at
        if age <= 0.0:
            return
        self._at = now
        factor = math.pow(0.5, age / self._half_life)
        for name in _SUMS:
            setattr(self, name, getattr(self, name) * factor)


_SUMS = tuple(name for name in CostMeter.__slots__ if name not in ("_at", "_half_life"))


def _weigh(measured: float, prior: float, confidence: float) -> float:
    if measured <= 0.0:
        return prior
    return confidence * measured + (1.0 - confidence) * prior if prior > 0.0 else measured


def expected_seconds(cost: Cost, delta: Delta) -> tuple[float, float]:
    """What `delta` should have taken by `cost`, and what it took, over the parts that both know."""
    expected = taken = 0.0
    if cost.step_seconds > 0.0 and delta.decode_steps:
        batch = delta.decode_tokens / delta.decode_steps
        expected += delta.decode_steps * (cost.step_seconds + cost.sequence_seconds * (batch - 1.0))
        taken += delta.decode_seconds
    if cost.prefill_seconds > 0.0 and delta.prefill_tokens:
        expected += delta.prefill_tokens * cost.prefill_seconds
        taken += delta.prefill_seconds
    if taken <= 0.0 and cost.task_seconds > 0.0 and cost.step_seconds <= 0.0 and delta.tasks:
        return delta.tasks * cost.task_seconds, delta.busy_seconds
    return expected, taken
