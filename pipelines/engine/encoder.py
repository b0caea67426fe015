"""Texts to vectors, in batches of about equally long ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from llmos.pipelines.engine.interface import TextModel
from llmos.pipelines.engine.pooling import Pooling
from llmos.pipelines.models.tokenizer import Tokenizer
from llmos.schemas.errors import EngineFailed

BATCH_TOKENS = 4096
"""Places of one batch, padding included: bounds what its activations take."""
BATCH_TEXTS = 64


class Encoder:
    """Embeds texts; `tokenizer` cuts them to what the model holds."""

    def __init__(
        self,
        model: TextModel,
        tokenizer: Tokenizer,
        pooling: Pooling,
        *,
        batch_texts: int = BATCH_TEXTS,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._pooling = pooling
        self._batch_texts = batch_texts
        self._batch_tokens = batch_tokens

    @property
    def resident_bytes(self) -> int:
        """Bytes that the weights hold."""
        return self._model.resident_bytes

    def tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens of each text are read, special ones included; what is cut off is not counted."""
        return self._tokenizer.count(texts)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """The vector of each text, in their order, as the model's own files pool and normalise it.

        Raises:
            EngineFailed: a text has no tokens, a token that the model does not have, or a vector that is not finite.
        """
        tokens = self._tokenizer.encode_many(texts)
        self._check(tokens)
        vectors: list[list[float]] = [[] for _ in texts]
        for batch in self._batches(tokens):
            hidden, there = self._model.hidden_states([tokens[i] for i in batch])
            pooled = self._pooling.pool(hidden, there)
            if not bool(torch.isfinite(pooled).all()):
                raise EngineFailed(problem="an embedding is not finite")
            for i, vector in zip(batch, pooled.tolist(), strict=True):
                vectors[i] = vector
        return vectors

    def _check(self, tokens: Sequence[Sequence[int]]) -> None:
        known = self._model.vocabulary
        for i, text in enumerate(tokens):
            if not text:
                raise EngineFailed(problem=f"text {i} has no tokens")
            if max(text) >= known:
                raise EngineFailed(problem=f"token {max(text)} of text {i} is not one of the model's {known}")

    def _batches(self, tokens: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Places of the texts, shortest first, so that a batch is padded little."""
        batch: list[int] = []
        for i in sorted(range(len(tokens)), key=lambda i: len(tokens[i])):
            full = len(batch) == self._batch_texts or (len(batch) + 1) * len(tokens[i]) > self._batch_tokens
            if batch and full:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch
