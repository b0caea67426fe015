"""`embed`: turns texts into vectors; lists are split into pieces that are embedded as one batch."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from llmos.pipelines.kinds.base import Counter, PartPlan, chunks, items_of, read_input
from llmos.schemas.tasks import EmbedInput

BYTES_PER_NUMBER = 9
"""A MessagePack float64."""
WIDEST = 4096
"""The width that is assumed where the model's is unknown."""


class Embed:
    """The embed kind."""

    name = "embed"
    needs_model = True
    items_per_part = 32

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

    def answer_bytes(self, request: EmbedInput, parts: Sequence[PartPlan], width: int) -> int:
        """A vector per item."""
        return ((width or WIDEST) * BYTES_PER_NUMBER + 64) * sum(part.items for part in parts)
