"""What a task costs a device: prompt tokens, decode steps by batch, or a whole task's mean; and what is predicted of it. Pure.

A decode step of a batch of B takes a + b · (B − 1) seconds: a for reading the weights, b for each further sequence.
"""

from __future__ import annotations

from typing import NamedTuple

DEFAULT_OUTPUT_FRACTION = 0.5
"""Of the tokens a task may generate, assumed where none was measured."""


class Cost(NamedTuple):
    """Of tasks of one model and kind on one device."""

    task_seconds: float
    """Device time of a task on average."""
    prefill_seconds: float = 0.0
    """Per prompt token (or token of a text to embed); 0: unknown."""
    step_seconds: float = 0.0
    """a: a decode step of one sequence; 0: unknown, or the kind has none."""
    sequence_seconds: float = 0.0
    """b: what each further sequence adds to a step."""
    output_fraction: float = DEFAULT_OUTPUT_FRACTION
    """Generated tokens over those a task may generate."""
    confidence: float = 0.0
    """0 … 1: how much of this was measured here."""

    def slower(self, factor: float) -> Cost:
        """The same, on a device that takes `factor` times as long."""
        return self._replace(
            task_seconds=self.task_seconds * factor,
            prefill_seconds=self.prefill_seconds * factor,
            step_seconds=self.step_seconds * factor,
            sequence_seconds=self.sequence_seconds * factor,
        )

    def nearing(self, other: Cost, share: float) -> Cost:
        """What is left of this where it is the dearer one: `share` of the difference; else the same."""

        def field(own: float, theirs: float) -> float:
            return theirs + share * (own - theirs) if own > theirs > 0.0 else own

        return self._replace(
            task_seconds=field(self.task_seconds, other.task_seconds),
            prefill_seconds=field(self.prefill_seconds, other.prefill_seconds),
            step_seconds=field(self.step_seconds, other.step_seconds),
            sequence_seconds=field(self.sequence_seconds, other.sequence_seconds),
        )


class Service(NamedTuple):
    """What a task takes once it has begun."""

    seconds: float
    """Until it is done, in a batch with others."""
    work_seconds: float
    """Device time that is its own: a batch shares its steps."""


def service_of(cost: Cost, input_tokens: int, output_tokens: int, batch: int, sequences: int = 1) -> Service:
    """prefill(input) + expected output · step(batch), as far as these were measured; else the mean.

    Of a batch `sequences` are its own: they share its output, and each step brings a token of each.
    """
    prefill = cost.prefill_seconds * input_tokens
    if cost.step_seconds > 0.0 and output_tokens:
        own = min(sequences, batch)
        steps = output_tokens * cost.output_fraction / own
        decode = steps * (cost.step_seconds + cost.sequence_seconds * (batch - 1))
        return Service(prefill + decode, prefill + decode * own / batch)
    if output_tokens:
        return Service(cost.task_seconds, cost.task_seconds)
    return Service(prefill, prefill) if prefill > 0.0 else Service(cost.task_seconds, cost.task_seconds)
