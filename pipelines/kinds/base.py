"""The interface of a task kind: everything about it that is decided without running it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from llmos.schemas.base import JSON, without_values
from llmos.schemas.errors import InvalidRequest
from llmos.schemas.tasks import Prompt

Counter = Callable[[Sequence[Prompt]], Sequence[int]]
"""Token counts of texts and conversations, exact or estimated. Raises `NoChatTemplate` for a conversation with a model that
takes none, `InvalidRequest` where its template refuses it."""


class PartPlan(NamedTuple):
    """A part of a job before it is sealed."""

    first_item: int
    items: int
    body: bytes
    """MessagePack of the kind's input, for these items only."""
    input_tokens: int
    max_output_tokens: int
    longest_item_tokens: int
    """What the longest item needs of the model's context."""


class Kind(Protocol):
    """A task kind."""

    name: str
    needs_model: bool
    items_per_part: int
    """Items of a list that run as one task, where no setting says otherwise."""

    def read(self, body: bytes, content_type: str) -> Any:
        """The input in `body`. Raises `InvalidRequest`."""

    def plan(self, request: Any, count: Counter, items_per_part: int) -> list[PartPlan]:
        """The parts of a request, in order."""

    def answer_bytes(self, request: Any, parts: Sequence[PartPlan], width: int) -> int:
        """An upper estimate of the answer's items, in bytes; `width` is the model's hidden size, 0 if unknown."""


def read_input(type_: type[msgspec.Struct], body: bytes, content_type: str) -> Any:
    """Decodes a payload.

    Raises:
        InvalidRequest: it is not what the kind takes; says where and why, and quotes nothing of it: refusals travel in
            the clear.
    """
    decode = msgspec.json.decode if content_type == JSON else msgspec.msgpack.decode
    try:
        return decode(body, type=type_)
    except UnicodeDecodeError:
        raise InvalidRequest(where="input", problem="a text in it is not UTF-8") from None
    except (msgspec.DecodeError, RecursionError) as problem:
        text = without_values(problem)[:500]
        said, _, path = text.partition(" - at `$")
        raise InvalidRequest(where=f"input{path.partition('`')[0]}", problem=said) from None


def items_of(texts: str | list[str]) -> list[str]:
    """One text or many, as many."""
    return [texts] if isinstance(texts, str) else texts


def chunks(count: int, size: int) -> list[tuple[int, int]]:
    """(first, count) of each piece of at most `size`."""
    return [(first, min(size, count - first)) for first in range(0, count, size)]
