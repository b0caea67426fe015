"""`echo`: sends texts back; a true task of the pipeline that costs no device time, to measure everything else."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from llmos.pipelines.kinds.base import Counter, PartPlan, chunks, items_of, read_input
from llmos.schemas.tasks import EchoInput


class Echo:
    """The echo kind."""

    name = "echo"
    needs_model = False
    items_per_part = 64

    def read(self, body: bytes, content_type: str) -> EchoInput:
        """The input in `body`. Raises `InvalidRequest`."""
        request: EchoInput = read_input(EchoInput, body, content_type)
        return request

    def plan(self, request: EchoInput, count: Counter, items_per_part: int) -> list[PartPlan]:
        """Lists in pieces of `items_per_part`."""
        texts = items_of(request.text)
        return [
            PartPlan(first, n, msgspec.msgpack.encode(EchoInput(text=texts[first : first + n])), 0, 0, 0)
            for first, n in chunks(len(texts), items_per_part)
        ]

    def answer_bytes(self, request: EchoInput, parts: Sequence[PartPlan], width: int) -> int:
        """As large as the input."""
        return sum(len(part.body) for part in parts) + 32 * sum(part.items for part in parts)
