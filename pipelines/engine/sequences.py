"""One sequence that generates: its tokens, its text, when it ends; knows nothing of those beside it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Literal, NamedTuple

import torch

from llmos.pipelines.engine.sampling import Sampler
from llmos.pipelines.engine.stops import StopFilter
from llmos.pipelines.models.tokenizer import StreamDecoder
from llmos.schemas.tasks import GenerateInput

Finish = Literal["", "stop", "length"]


class Event(NamedTuple):
    """What a step brought for one sequence; the texts of its events joined are its whole output."""

    key: Hashable
    text: str
    tokens: int
    """New tokens in this event. The token that ends a text is not counted: it has no text."""
    first_token: int
    """Place of the first of them in the output."""
    finish: Finish = ""
    error: str | None = None
    """Why this sequence ended without a result; `finish` is empty then and nothing follows."""


class Sequence:
    """A sequence from its prompt to its end."""

    def __init__(
        self,
        key: Hashable,
        prompt: list[int],
        request: GenerateInput,
        text: StreamDecoder,
        end_tokens: frozenset[int],
    ) -> None:
        self.key = key
        self.prompt = prompt
        self.read = 0
        """Prompt tokens that are in the cache."""
        self.produced: list[int] = []
        self.finish: Finish = ""
        self.failed = False
        self._max_tokens = request.max_tokens
        self._end_tokens = end_tokens
        self._sampler = Sampler(request)
        self._decoder = text
        self._stops = StopFilter(request.stop)
        self._told = 0
        """Tokens that events have told of."""

    @property
    def ended(self) -> bool:
        """Whether its last event was made."""
        return self.failed or bool(self.finish)

    @property
    def prefilled(self) -> bool:
        """Whether the whole prompt was read, so that it takes part in decoding."""
        return self.read == len(self.prompt)

    @property
    def length(self) -> int:
        """Positions of the cache that are in use, between steps: all but the newest token."""
        return self.read + max(0, len(self.produced) - 1)

    @property
    def last_token(self) -> int:
        """The token that the next step reads."""
        return self.produced[-1]

    def accept(self, logits: torch.Tensor) -> Event | None:
        """Draws the next token from `logits` (vocabulary,); None while there is nothing to tell.

        Raises:
            ArithmeticError: the logits are not finite.
        """
        if not bool(torch.isfinite(logits).all()):
            raise ArithmeticError("the model's logits are not finite")
        token = self._sampler.pick(logits)
        if token in self._end_tokens:
            return self._event(self._stops.feed(self._decoder.finish()) + self._stops.flush(), "stop")
        self.produced.append(token)
        text = self._stops.feed(self._decoder.push((token,)))
        if self._stops.hit:
            return self._event(text, "stop")
        if len(self.produced) < self._max_tokens:
            return self._event(text, "") if text else None
        text += self._stops.feed(self._decoder.finish())
        finish: Finish = "stop" if self._stops.hit else "length"
        return self._event(text + self._stops.flush(), finish)

    def fail(self, problem: str) -> Event:
        """Ends it without a result; gives the event that says so."""
        self.failed = True
        return self._event("", "")._replace(error=problem)

    def _event(self, text: str, finish: Finish) -> Event:
        first, self._told = self._told, len(self.produced)
        self.finish = finish
        return Event(self.key, text, len(self.produced) - first, first, finish)
