"""The input and output of every task kind: what is inside a payload and inside an item of an answer."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from llmos.schemas.base import Value
from llmos.schemas.limits import ITEMS, OUTPUT_TOKENS, PAYLOAD_BYTES, STOP_CHARACTERS, STOP_STRINGS

_Text = Annotated[str, Meta(max_length=PAYLOAD_BYTES)]
_Texts = Annotated[list[_Text], Meta(min_length=1, max_length=ITEMS)]
_Stop = Annotated[list[Annotated[str, Meta(min_length=1, max_length=STOP_CHARACTERS)]], Meta(max_length=STOP_STRINGS)]


class GenerateInput(Value, frozen=True, kw_only=True):
    """Continue one prompt, or each of a list."""

    prompt: _Text | _Texts
    max_tokens: Annotated[int, Meta(ge=1, le=OUTPUT_TOKENS)] = 64
    temperature: Annotated[float, Meta(ge=0, le=10)] = 0.0
    """0 takes the likeliest token."""
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """0: no limit."""
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    stop: _Stop = []


class GenerateOutput(Value, frozen=True, kw_only=True):
    """The continuation."""

    text: str
    finish: Literal["stop", "length"]
    tokens: int


class EmbedInput(Value, frozen=True, kw_only=True):
    """One text, or a list, to embed."""

    text: _Text | _Texts


class EmbedOutput(Value, frozen=True, kw_only=True):
    """The embedding, as the model's own configuration pools and normalises it (float32 values)."""

    embedding: list[float]


class EchoInput(Value, frozen=True, kw_only=True):
    """One text, or a list, to send back: it measures the pipeline."""

    text: _Text | _Texts


class EchoOutput(Value, frozen=True, kw_only=True):
    """The text that came."""

    text: str


KindName = Literal["generate", "embed", "echo"]

INPUTS: dict[str, type[msgspec.Struct]] = {"generate": GenerateInput, "embed": EmbedInput, "echo": EchoInput}
OUTPUTS: dict[str, type[msgspec.Struct]] = {
    "generate": GenerateOutput,
    "embed": EmbedOutput,
    "echo": EchoOutput,
}
