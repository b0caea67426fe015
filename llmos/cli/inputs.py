"""From the words of a command line to the input of a task kind; pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

from llmos.schemas.errors import InvalidRequest
from llmos.schemas.tasks import EchoInput, EmbedInput, GenerateInput


class KindChoice(StrEnum):
    """The task kinds."""

    GENERATE = "generate"
    EMBED = "embed"
    ECHO = "echo"


MODELS = {KindChoice.GENERATE: "shakespeare-decoder", KindChoice.EMBED: "minilm-l6-v2", KindChoice.ECHO: ""}
"""The model of a kind where none is named: those that ship."""

STDIN = "-"


def texts_of(words: Sequence[str], lines: Iterable[str]) -> list[str]:
    """The texts; the word `-` stands for the lines of `lines` (standard input), without empty ones.

    Raises:
        InvalidRequest: there is no text.
    """
    texts: list[str] = []
    for word in words:
        if word == STDIN:
            texts += [line.rstrip("\n") for line in lines if line.strip()]
        else:
            texts.append(word)
    if not texts:
        raise InvalidRequest(where="TEXT", problem="there is no text")
    return texts


def input_of(
    kind: KindChoice,
    texts: list[str],
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
    stop: list[str],
) -> GenerateInput | EmbedInput | EchoInput:
    """The kind's input: one text as such, several as a list."""
    text = texts[0] if len(texts) == 1 else texts
    if kind is KindChoice.GENERATE:
        return GenerateInput(prompt=text, max_tokens=max_tokens, temperature=temperature, seed=seed, stop=stop)
    return EmbedInput(text=text) if kind is KindChoice.EMBED else EchoInput(text=text)
