"""How many prompt tokens a step reads, so that those that decode beside it are not kept waiting."""

from __future__ import annotations

CHUNK_TOKENS = 16
"""The least that is read of a prompt at once, and what a call counts for at least: shorter ones cost hardly less."""
FIRST_TOKENS = 64
"""Beside those that decode, before anything was measured."""
STALL_SECONDS = 0.2
_WEIGHT = 0.2
"""Of the newest measurement in the averages."""


class Pace:
    """Measured step times, and the budget that follows from them.

    Running streams wait no longer for the prompts of others than `STALL_SECONDS`, or a decode step where that takes
    longer, for each of their tokens. Less would be no better: the sooner a prompt is read, the more decode together, and
    a step over twice as many costs little more. With nobody to wait, prompts are read in the largest pieces, whose size
    does not depend on measurements: the same request alone is computed in the same way every time.
    """

    def __init__(self, most_tokens: int) -> None:
        self._most_tokens = most_tokens
        self._step_seconds = 0.0
        self._token_seconds = 0.0

    def budget(self, decoding: bool) -> int:
        """Prompt tokens that this step may read."""
        if not decoding:
            return self._most_tokens
        if not self._step_seconds or not self._token_seconds:
            return min(FIRST_TOKENS, self._most_tokens)
        affordable = int(max(self._step_seconds, STALL_SECONDS) / self._token_seconds)
        return min(max(affordable, CHUNK_TOKENS), self._most_tokens)

    def decoded(self, seconds: float) -> None:
        """A decode step took this long."""
        self._step_seconds = _average(self._step_seconds, seconds)

    def read(self, tokens: int, seconds: float) -> None:
        """So many prompt tokens took this long."""
        self._token_seconds = _average(self._token_seconds, seconds / tokens)


def _average(before: float, now: float) -> float:
    return before + _WEIGHT * (now - before) if before else now
