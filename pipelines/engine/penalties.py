"""Penalties on tokens that a text has already, for one sequence."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from llmos.schemas.tasks import GenerateInput


def has_penalties(request: GenerateInput) -> bool:
    """Whether the request asks for any."""
    return bool(request.presence_penalty or request.frequency_penalty or request.repetition_penalty != 1.0)


class Penalties:
    """What the prompt and the output have, and what that takes off the logits.

    Repetition (Keskar et al. 2019, arXiv:1909.05858) is for tokens of prompt and output: positive logits are divided,
    negative ones multiplied. Then presence and frequency, for tokens of the output alone: a constant, and a constant for
    each time. The order is that of vLLM and, as far as they have it, of `transformers`.
    """

    def __init__(self, request: GenerateInput, prompt: Iterable[int]) -> None:
        self._repetition = request.repetition_penalty
        self._presence = request.presence_penalty
        self._frequency = request.frequency_penalty
        known = list(dict.fromkeys(prompt))
        self._places = {token: place for place, token in enumerate(known)}
        room = len(known) + request.max_tokens
        self._tokens = torch.zeros(room, dtype=torch.int64)
        self._tokens[: len(known)] = torch.tensor(known, dtype=torch.int64)
        self._counts = torch.zeros(room)
        """How often the output has each of the tokens."""

    def add(self, token: int) -> None:
        """The output has one more token."""
        place = self._places.setdefault(token, len(self._places))
        self._tokens[place] = token
        self._counts[place] += 1

    def apply(self, logits: torch.Tensor) -> None:
        """Changes float32 `logits` (vocabulary,) in place."""
        known = len(self._places)
        tokens = self._tokens[:known].to(logits.device)
        counts = self._counts[:known].to(logits.device)
        values = logits[tokens]
        values = torch.where(values > 0, values / self._repetition, values * self._repetition)
        values -= self._frequency * counts + self._presence * (counts > 0)
        logits[tokens] = values
