"""Many sequences that generate together: they join and leave between steps, and none can spoil another.

The sequences stand in a row, and a sequence's place in it is its slot of the cache: those that decode first, without a
gap, behind them those whose prompts are being read, the oldest first. So a step over all that decode is one product
over the front of the cache, and leaving costs the copy of one or two slots.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import ParamSpec, Protocol, TypeAlias, TypeVar

import torch

from llmos.pipelines.engine.kvcache import KvCache
from llmos.pipelines.engine.sequences import Event, Sequence
from llmos.pipelines.models.tokenizer import StreamDecoder, Tokenizer
from llmos.schemas.errors import InvalidRequest, TooLong
from llmos.schemas.tasks import GenerateInput

__all__ = ["Decoder", "Engine", "Event"]

Ids: TypeAlias = list[int]
P = ParamSpec("P")
T = TypeVar("T")
_Outcome: TypeAlias = torch.Tensor | Exception | None
"""Logits (vocabulary,), what was raised, or None while a prompt is being read."""

PREFILL_TOKENS = 256
"""Prompt tokens read in one step at most: how long those that decode wait for a newcomer's prompt."""


class Decoder(Protocol):
    """A model that the engine can run; `LlamaModel` is one."""

    @property
    def vocabulary(self) -> int:
        """How many tokens it knows."""

    @property
    def resident_bytes(self) -> int:
        """Bytes that its weights hold."""

    def new_cache(self, slots: int, context: int) -> KvCache:
        """Room for `slots` sequences of `context` tokens."""

    def prefill(self, tokens: Ids, cache: KvCache, slot: int, start: int) -> torch.Tensor:
        """Reads prompt tokens; hidden states (n, hidden)."""

    def decode(self, tokens: Ids, positions: Ids, cache: KvCache, first_slot: int = 0) -> torch.Tensor:
        """Reads one token of each sequence from `first_slot` on; hidden states (n, hidden)."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (n, vocabulary)."""


class Engine:
    """Generates for up to `slots` sequences at once, each of at most `context` tokens, prompt included."""

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        slots: int,
        context: int,
        *,
        name: str = "",
        prefill_tokens: int = PREFILL_TOKENS,
    ) -> None:
        self.slots = slots
        self.context = context
        self.cache = model.new_cache(slots, context)
        self._model = model
        self._tokenizer = tokenizer
        self._name = name
        self._prefill_tokens = prefill_tokens
        self._row: list[Sequence] = []
        self._beginning = sorted(tokenizer.eos_ids)[:1] if tokenizer.bos_id is None else [tokenizer.bos_id]

    @property
    def active(self) -> int:
        """Sequences that are in."""
        return len(self._row)

    @property
    def free_slots(self) -> int:
        """Sequences that may still join."""
        return self.slots - len(self._row)

    @property
    def resident_bytes(self) -> int:
        """Bytes that weights and cache hold."""
        return self._model.resident_bytes + self.cache.resident_bytes

    def keys(self) -> list[Hashable]:
        """The sequences that are in."""
        return [sequence.key for sequence in self._row]

    def add(self, key: Hashable, prompt: str | list[int], request: GenerateInput) -> int:
        """A sequence joins; gives the tokens of its prompt. An empty prompt begins from the model's own first token.

        Raises:
            TooLong: prompt and `max_tokens` together exceed the context.
            InvalidRequest: a token is not one of the model's, or there is nothing to begin from.
            ValueError: the key is in already, or no slot is free; the caller did not look.
        """
        if any(sequence.key == key for sequence in self._row):
            raise ValueError(f"sequence {key!r} is in already")
        if not self.free_slots:
            raise ValueError("no slot is free")
        tokens = self._tokens(prompt)
        if len(tokens) + request.max_tokens > self.context:
            raise TooLong(tokens=len(tokens) + request.max_tokens, model=self._name, limit=self.context)
        self._row.append(Sequence(key, tokens, request, StreamDecoder(self._tokenizer), self._tokenizer.eos_ids))
        return len(tokens)

    def remove(self, key: Hashable) -> bool:
        """A sequence leaves without an event; False where it was not in (any more)."""
        for slot, sequence in enumerate(self._row):
            if sequence.key == key:
                self._leave(slot)
                return True
        return False

    def step(self) -> list[Event]:
        """One token for each sequence that decodes, then some prompt tokens of those that wait; what there is to tell."""
        events = self._settle(self._decode())
        budget = self._prefill_tokens
        while budget > 0 and (waiting := self._waiting()) is not None:
            chunk = waiting.prompt[waiting.read : waiting.read + budget]
            budget -= len(chunk)
            events += self._settle([(waiting, _attempt(self._prefill, waiting, chunk))])
        return events

    def _waiting(self) -> Sequence | None:
        """The oldest sequence whose prompt is not read yet."""
        return next((sequence for sequence in self._row if not sequence.prefilled), None)

    def _prefill(self, sequence: Sequence, chunk: list[int]) -> torch.Tensor | None:
        """Reads a piece of a prompt; logits (vocabulary,) behind the last piece, None before."""
        hidden = self._model.prefill(chunk, self.cache, self._row.index(sequence), sequence.read)
        sequence.read += len(chunk)
        if sequence.prefilled:
            return self._model.logits(hidden[-1:])[0]
        if not bool(torch.isfinite(hidden).all()):
            raise ArithmeticError("the model's hidden states are not finite")
        return None

    def _decode(self) -> list[tuple[Sequence, _Outcome]]:
        """The outcome of one step of all that decode."""
        ready = [sequence for sequence in self._row if sequence.prefilled]
        if not ready:
            return []
        together = _attempt(self._decode_slots, ready, 0)
        if isinstance(together, torch.Tensor):
            return list(zip(ready, together, strict=True))
        if len(ready) == 1:
            return [(ready[0], together)]
        # each alone shows whose fault it is, and repeating a step is harmless
        alone = [_attempt(self._decode_slots, [sequence], slot) for slot, sequence in enumerate(ready)]
        return [
            (sequence, outcome[0] if isinstance(outcome, torch.Tensor) else outcome)
            for sequence, outcome in zip(ready, alone, strict=True)
        ]

    def _decode_slots(self, sequences: list[Sequence], first_slot: int) -> torch.Tensor:
        """Logits (n, vocabulary) of neighbouring slots."""
        tokens = [sequence.last_token for sequence in sequences]
        positions = [sequence.length for sequence in sequences]
        return self._model.logits(self._model.decode(tokens, positions, self.cache, first_slot))

    def _settle(self, outcomes: list[tuple[Sequence, _Outcome]]) -> list[Event]:
        """What there is to tell of each outcome; those that ended leave, once all that ran together have their token."""
        events: list[Event] = []
        for sequence, outcome in outcomes:
            event = outcome if isinstance(outcome, Exception) else _attempt(_accept, sequence, outcome)
            if isinstance(event, Exception):
                event = sequence.fail(f"{type(event).__name__}: {event}")
            if event is not None:
                events.append(event)
        for sequence in [sequence for sequence, _ in outcomes if sequence.ended]:
            slot = self._row.index(sequence)
            if sequence.failed:
                self.cache.clear(slot)  # it may hold NaN, which a later sequence in this slot must not meet
            self._leave(slot)
        return events

    def _leave(self, slot: int) -> None:
        """Takes a sequence out and closes the gap: by the last that decodes, then by those that wait, in order."""
        last = sum(sequence.prefilled for sequence in self._row) - 1
        if slot < last:
            self._move(last, slot)
            slot = last
        for behind in range(slot + 1, len(self._row)):
            self._move(behind, behind - 1)
        self._row.pop()

    def _move(self, source: int, target: int) -> None:
        sequence = self._row[source]
        if sequence.length:
            self.cache.move(source, target, sequence.length)
        self._row[target] = sequence

    def _tokens(self, prompt: str | list[int]) -> list[int]:
        """A prompt's tokens, at least one."""
        tokens = self._tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        tokens = tokens or self._beginning
        if not tokens:
            raise InvalidRequest(where="input.prompt", problem="it is empty, and the model has no first token")
        wrong = next((token for token in tokens if not 0 <= token < self._model.vocabulary), None)
        if wrong is not None:
            raise InvalidRequest(where="input.prompt", problem=f"{wrong} is not a token of the model")
        return tokens


def _accept(sequence: Sequence, logits: torch.Tensor | None) -> Event | None:
    return None if logits is None else sequence.accept(logits)


def _attempt(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Exception:
    """The result, or what was raised: whatever one sequence meets, it becomes that sequence's error and nobody else's."""
    try:
        return call(*args, **kwargs)
    except Exception as problem:  # noqa: BLE001 - told in the sequence's last event
        return problem
