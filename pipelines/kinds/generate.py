"""`generate`: continues prompts; every prompt of a list is a task of its own, so that they spread over devices."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from llmos.pipelines.kinds.base import Counter, PartPlan, items_of, read_input
from llmos.schemas.tasks import GenerateInput

BYTES_PER_TOKEN = 24
"""Text of one token in an answer, generously."""


class Generate:
    """The generate kind."""

    name = "generate"
    needs_model = True
    items_per_part = 1

    def read(self, body: bytes, content_type: str) -> GenerateInput:
        """The input in `body`. Raises `InvalidRequest`."""
        request: GenerateInput = read_input(GenerateInput, body, content_type)
        return request

    def plan(self, request: GenerateInput, count: Counter, items_per_part: int) -> list[PartPlan]:
        """One part per prompt."""
        prompts = items_of(request.prompt)
        return [
            PartPlan(
                i,
                1,
                msgspec.msgpack.encode(msgspec.structs.replace(request, prompt=[prompt])),
                tokens,
                request.max_tokens,
                max(tokens, 1) + request.max_tokens,
            )
            for i, (prompt, tokens) in enumerate(zip(prompts, count(prompts), strict=True))
        ]

    def answer_bytes(self, request: GenerateInput, parts: Sequence[PartPlan], width: int) -> int:
        """The longest outputs."""
        return len(parts) * (request.max_tokens * BYTES_PER_TOKEN + 128)
