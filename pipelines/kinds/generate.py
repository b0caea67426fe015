"""`generate`: continues prompts or answers a conversation; every prompt of a list is a task of its own, so that they spread
over devices, and its outputs (`n`) are the items of that task, so that its tokens are read once.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from llmos.pipelines.kinds.base import Counter, PartPlan, items_of, read_input
from llmos.schemas.errors import InvalidRequest
from llmos.schemas.limits import ITEMS
from llmos.schemas.tasks import GenerateInput, Prompt

BYTES_PER_TOKEN = 24
"""Text of one token in an answer, generously."""
BYTES_PER_LOGPROB = 72 + BYTES_PER_TOKEN
"""A token's log-probability beside that, with the names of its fields."""
BYTES_PER_TOP_TOKEN = 16 + BYTES_PER_TOKEN
"""One of the likeliest tokens at its place."""


class Generate:
    """The generate kind."""

    name = "generate"
    needs_model = True
    items_per_part = 1

    def read(self, body: bytes, content_type: str) -> GenerateInput:
        """The input in `body`.

        Raises:
            InvalidRequest: it is not one, has both a prompt and a conversation, or asks for too many outputs.
        """
        request: GenerateInput = read_input(GenerateInput, body, content_type)
        if request.messages and request.prompt != "":
            raise InvalidRequest(where="input.messages", problem="there is a prompt beside them; send one of the two")
        outputs = len(prompts_of(request)) * request.n
        if outputs > ITEMS:
            raise InvalidRequest(where="input.n", problem=f"that makes {outputs} outputs; at most {ITEMS} are allowed")
        return request

    def plan(self, request: GenerateInput, count: Counter, items_per_part: int) -> list[PartPlan]:
        """One part per prompt, with its `n` outputs as items. Raises what `count` raises."""
        prompts = prompts_of(request)
        return [
            PartPlan(
                first_item=i * request.n,
                items=request.n,
                body=msgspec.msgpack.encode(_only(request, prompt)),
                input_tokens=tokens,
                max_output_tokens=request.max_tokens * request.n,
                longest_item_tokens=max(tokens, 1) + request.max_tokens,
            )
            for i, (prompt, tokens) in enumerate(zip(prompts, count(prompts), strict=True))
        ]

    def answer_bytes(self, request: GenerateInput, parts: Sequence[PartPlan], width: int) -> int:
        """The longest outputs, with what is told of each token."""
        token = BYTES_PER_TOKEN
        if request.logprobs is not None:
            token += BYTES_PER_LOGPROB + request.logprobs * BYTES_PER_TOP_TOKEN
        return sum(part.items for part in parts) * (request.max_tokens * token + 128)


def prompts_of(request: GenerateInput) -> list[Prompt]:
    """What the request wants continued: its conversation, or its prompts."""
    return [request.messages] if request.messages else [*items_of(request.prompt)]


def _only(request: GenerateInput, prompt: Prompt) -> GenerateInput:
    """The same request for this prompt alone."""
    return request if request.messages else msgspec.structs.replace(request, prompt=[prompt])
