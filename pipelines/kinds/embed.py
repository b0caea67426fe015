"""`embed`: turns texts into vectors; lists are split into pieces that are embedded as one batch."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from llmos.pipelines.kinds.base import Counter, PartPlan, chunks, items_of, read_input
from llmos.schemas.tasks import EmbedInput

BYTES_PER_ITEM = 9 * 4096 + 64
"""A vector of 4,096 numbers as MessagePack float64."""


class Embed:
    """The embed kind."""

    name = "embed"
    needs_model = True

    def read(self, body: bytes, content_type: str) -> EmbedInput:
        """The input in `body`. Raises `InvalidRequest`."""
        request: EmbedInput = read_input(EmbedInput, body, content_type)
        return request

    def plan(self, request: EmbedInput, count: Counter, items_per_part: int) -> list[PartPlan]:
        """Lists in pieces of `items_per_part`; an encoder produces no tokens."""
        texts = items_of(request.text)
        tokens = count(texts)
        return [
            PartPlan(
                first,
                n,
                msgspec.msgpack.encode(EmbedInput(text=texts[first : first + n])),
                sum(tokens[first : first + n]),
                0,
                0,  # encoders cut what is longer than their context, as their own configuration says
            )
            for first, n in chunks(len(texts), items_per_part)
        ]

    def answer_bytes(self, request: EmbedInput, parts: Sequence[PartPlan]) -> int:
        """A vector per item."""
        return BYTES_PER_ITEM * sum(part.items for part in parts)
