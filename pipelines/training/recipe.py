"""What decides the outcome of a training run, with the reasons for the defaults; the command's flags derive from it."""

from __future__ import annotations

import math

import msgspec

from llmos.schemas.errors import OperatorError


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes and schedule. The defaults train in about a quarter of an hour on one core, in 5 MB of weights."""

    vocabulary: int = 1024
    """Tokens, among them 256 bytes and the end mark; small, so that a megabyte of text shows each often."""
    hidden_size: int = 128
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    """Key and value heads; fewer than `heads` makes the cache of generation smaller."""
    intermediate_size: int = 384
    context: int = 256
    """Tokens that the model sees at once."""
    steps: int = 1500
    batch: int = 8
    """Windows of `context` tokens in a step."""
    peak_rate: float = 3e-3
    """Learning rate after the warm-up."""
    final_rate: float = 1e-4
    """Learning rate of the last step."""
    warmup_steps: int = 100
    weight_decay: float = 0.1
    """Of matrices only, not of norms."""
    clip_norm: float = 1.0
    """Largest norm of all gradients together."""
    start_fraction: float = 0.125
    """Share of windows that begin at a speech, behind the end mark, so that the mark alone is a usable prompt."""
    evaluate_every: int = 100
    """Steps between passes over the validation text."""
    checkpoint_every: int = 100
    seed: int = 1

    def __post_init__(self) -> None:
        problems = {
            "hidden_size must be a multiple of 2 · heads": self.hidden_size % (2 * self.heads) != 0,
            "heads must be a multiple of kv_heads": self.heads % self.kv_heads != 0,
            "vocabulary must hold 256 bytes and the end mark": self.vocabulary < 257,
            "steps, batch, context, evaluate_every and checkpoint_every must be at least 1": min(
                self.steps, self.batch, self.context, self.evaluate_every, self.checkpoint_every
            )
            < 1,
        }
        for problem, holds in problems.items():
            if holds:
                raise OperatorError(problem=f"this recipe cannot be trained: {problem}")

    @property
    def head_size(self) -> int:
        """Numbers per head."""
        return self.hidden_size // self.heads

    def rate(self, step: int) -> float:
        """Learning rate of step `step` (from 0): linear warm-up, then half a cosine (arXiv:1608.03983)."""
        if step < self.warmup_steps:
            return self.peak_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - 1 - self.warmup_steps)
        return self.final_rate + (self.peak_rate - self.final_rate) * (1 + math.cos(math.pi * progress)) / 2
