"""What a model that generates is to the engine that runs it: chunks of prompts, steps of a batch, logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from llmos.pipelines.engine.kvcache import KvCache


class Decoder(Protocol):
    """A causal model; for one thread at a time.

    What the sequences have said so far is in a cache of its own making (`new_cache`), which grows to what a call needs.
    Slots that decode together are neighbours. A call that raised, repeated with the same arguments, is harmless.
    """

    @property
    def vocabulary(self) -> int:
        """How many tokens it knows."""

    @property
    def context(self) -> int:
        """The most tokens of a sequence, prompt included."""

    @property
    def resident_bytes(self) -> int:
        """Bytes that its weights and tables hold."""

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that the cache holds for each position of each slot."""

    def new_cache(self, slots: int, tokens: int) -> KvCache:
        """An empty cache that grows up to `slots` sequences of `tokens` tokens. Raises `ValueError` beyond the context."""

    def prefill(self, tokens: Sequence[int], cache: KvCache, slot: int, start: int) -> torch.Tensor:
        """Reads `tokens`, at least one, at positions `start`… of the sequence in `slot`, of which all before is in the cache.

        Gives the last hidden state of each, (n, hidden), in the model's dtype.
        """

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], cache: KvCache, first_slot: int = 0
    ) -> torch.Tensor:
        """Reads one token of each sequence in the slots from `first_slot` on, at their `positions`; (n, hidden)."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """From hidden states (n, hidden) to logits (n, vocabulary)."""


class TextModel(Protocol):
    """A model that reads whole texts at once, to embed them; for one thread at a time."""

    @property
    def vocabulary(self) -> int:
        """How many tokens it knows."""

    @property
    def resident_bytes(self) -> int:
        """Bytes that its weights and tables hold."""

    def hidden_states(self, batch: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """The last hidden states of a batch of texts, (texts, longest, hidden), and where tokens are, (texts, longest)."""
