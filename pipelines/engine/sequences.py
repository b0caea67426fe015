"""One sequence that generates: its tokens, its text, when it ends; knows nothing of those beside it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Literal, NamedTuple

import torch

from llmos.pipelines.engine.sampling import Draw, Sampler
from llmos.pipelines.engine.stops import StopFilter
from llmos.pipelines.models.tokenizer import StreamDecoder, Tokenizer
from llmos.schemas.errors import LlmosError
from llmos.schemas.tasks import GenerateInput, TokenLogprob, TopToken

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
    error: LlmosError | None = None
    """Why this sequence ended without a result; `finish` is empty then and nothing follows."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the new tokens, one each, where the request asked for them."""


class Opening:
    """A prompt's tokens, read once for all sequences that go on from it."""

    def __init__(self, tokens: list[int], choices: int = 1) -> None:
        self.tokens = tokens
        self.choices = choices
        """How many sequences may go on from it."""
        self.logits: torch.Tensor | None = None
        """(1, vocabulary), behind its last token, once one of several sequences has read it."""

    def __len__(self) -> int:
        return len(self.tokens)


class Sequence:
    """A sequence from its prompt to its end."""

    def __init__(
        self,
        key: Hashable,
        opening: Opening,
        request: GenerateInput,
        tokenizer: Tokenizer,
        choice: int = 0,
        joined: int = 0,
    ) -> None:
        self.key = key
        self.joined = joined
        """A number that grows from one that joined to the next."""
        self.opening = opening
        self.read = 0
        """Prompt tokens that are in the cache."""
        self.produced: list[int] = []
        self.finish: Finish = ""
        self.failed = False
        self.sampler = Sampler(request, opening.tokens, choice)
        self.longest = len(opening) + request.max_tokens
        """Positions that it may come to need."""
        self._max_tokens = request.max_tokens
        self._tokenizer = tokenizer
        self._decoder = StreamDecoder(tokenizer)
        self._stops = StopFilter(request.stop)
        self._told = 0
        """Tokens that events have told of."""
        self._logprobs: list[TokenLogprob] = []
        """Of tokens that no event has told of."""

    @property
    def ended(self) -> bool:
        """Whether its last event was made."""
        return self.failed or bool(self.finish)

    @property
    def prefilled(self) -> bool:
        """Whether the whole prompt was read, so that it takes part in decoding."""
        return self.read == len(self.opening)

    @property
    def length(self) -> int:
        """Positions of the cache that are in use, between steps: all but the newest token."""
        return self.read + max(0, len(self.produced) - 1)

    @property
    def last_token(self) -> int:
        """The token that the next step reads."""
        return self.produced[-1]

    def accept(self, draw: Draw) -> Event | None:
        """Takes the next token; None while there is nothing to tell."""
        token = draw.token
        if token in self._tokenizer.eos_ids:
            return self._event(self._stops.feed(self._decoder.finish()) + self._stops.flush(), "stop")
        self.produced.append(token)
        self.sampler.add(token)
        if self.sampler.logprobs is not None:
            self._logprobs.append(self._logprob(draw))
        text = self._stops.feed(self._decoder.push((token,)))
        if self._stops.hit:
            return self._event(text, "stop")
        if len(self.produced) < self._max_tokens:
            return self._event(text, "") if text else None
        text += self._stops.feed(self._decoder.finish())
        finish: Finish = "stop" if self._stops.hit else "length"
        return self._event(text + self._stops.flush(), finish)

    def fail(self, error: LlmosError) -> Event:
        """Ends it without a result; gives the event that says so."""
        self.failed = True
        return self._event("", "")._replace(error=error)

    def _event(self, text: str, finish: Finish) -> Event:
        first, self._told = self._told, len(self.produced)
        logprobs, self._logprobs = self._logprobs, []
        self.finish = finish
        return Event(self.key, text, len(self.produced) - first, first, finish, logprobs=tuple(logprobs))

    def _logprob(self, draw: Draw) -> TokenLogprob:
        text = self._tokenizer.token_text
        top = [TopToken(token, text(token), logprob) for token, logprob in draw.top]
        return TokenLogprob(token=draw.token, text=text(draw.token), logprob=draw.logprob, top=top)
