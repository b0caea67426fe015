"""The input and output of every task kind: what is inside a payload and inside an item of an answer."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from llmos.schemas.base import Value
from llmos.schemas.limits import (
    CHOICES,
    ITEMS,
    OUTPUT_TOKENS,
    PAYLOAD_BYTES,
    STOP_CHARACTERS,
    STOP_STRINGS,
    TOP_LOGPROBS,
)

_Text = Annotated[str, Meta(max_length=PAYLOAD_BYTES)]
_Texts = Annotated[list[_Text], Meta(min_length=1, max_length=ITEMS)]
_Stop = Annotated[list[Annotated[str, Meta(min_length=1, max_length=STOP_CHARACTERS)]], Meta(max_length=STOP_STRINGS)]


class ChatMessage(Value, frozen=True, kw_only=True):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: _Text


class GenerateInput(Value, frozen=True, kw_only=True):
    """Continue one prompt, or each of a list, or answer a conversation."""

    prompt: _Text | _Texts = ""
    messages: Annotated[list[ChatMessage], Meta(max_length=ITEMS)] = []
    """A conversation in place of a prompt, written out by the model's own chat template."""
    max_tokens: Annotated[int, Meta(ge=1, le=OUTPUT_TOKENS)] = 64
    temperature: Annotated[float, Meta(ge=0, le=10)] = 0.0
    """0 takes the likeliest token."""
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """0: no limit."""
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Tokens less likely than this share of the likeliest are left out; 0: none."""
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    """Taken off the logits of tokens that the output has."""
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    """Taken off the logits of a token once for each time that the output has it."""
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] = 1.0
    """Divides the positive logits, multiplies the negative ones, of tokens that prompt or output have; 1: none."""
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    stop: _Stop = []
    n: Annotated[int, Meta(ge=1, le=CHOICES)] = 1
    """Outputs per prompt; those of one prompt follow one another, the k-th (from 0) drawn with the seed `seed + k`."""
    logprobs: Annotated[int, Meta(ge=0, le=TOP_LOGPROBS)] | None = None
    """Log-probabilities of the output's tokens, and of so many of the likeliest tokens at each place; none: no such."""


Prompt = str | list[ChatMessage]
"""What one sequence goes on from: a text, or a conversation for the model's chat template."""


class TopToken(Value, frozen=True, array_like=True, kw_only=False):
    """A token that was likely at a place: its id, its text (U+FFFD where it is no whole character), its log-probability."""

    token: int
    text: str
    logprob: float


class TokenLogprob(Value, frozen=True, kw_only=True):
    """A token of the output: natural logarithm of its probability under the model's own distribution (softmax of the raw
    logits), before temperature, penalties and truncation."""

    token: int
    text: str
    logprob: float
    top: list[TopToken] = []
    """The likeliest at its place, the likeliest first."""


class GenerateOutput(Value, frozen=True, kw_only=True):
    """The continuation."""

    text: str
    finish: Literal["stop", "length"]
    tokens: int
    logprobs: list[TokenLogprob] = []


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


class PartBody(Value, frozen=True, array_like=True, kw_only=False):
    """What is inside a sealed part: the kind's input (MessagePack), and the key of its outputs' digests."""

    input: bytes
    digest_key: bytes
