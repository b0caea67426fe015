"""Many sequences that generate together: they join and leave between steps, and none can spoil another.

The sequences stand in a row, and a sequence's place in it is its slot of the cache: those that decode first, without a
gap, behind them those whose prompts are being read, the oldest first. So a step over all that decode is one product
over the front of the cache, and leaving costs the copy of one or two slots.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Literal, NamedTuple, ParamSpec, TypeAlias, TypeVar

import structlog
import torch

from llmos.infra.telemetry.faults import fault_of
from llmos.pipelines.engine.faults import as_error, is_out_of_memory
from llmos.pipelines.engine.interface import Decoder
from llmos.pipelines.engine.kvcache import whole_units
from llmos.pipelines.engine.pacing import CHUNK_TOKENS, Pace
from llmos.pipelines.engine.sampling import Draw, draw_tokens
from llmos.pipelines.engine.sequences import Event, Opening, Sequence
from llmos.pipelines.models.tokenizer import Tokenizer
from llmos.schemas.errors import InvalidRequest, LlmosError, NotFinite, TooLong
from llmos.schemas.tasks import ChatMessage, GenerateInput, Prompt

__all__ = ["PREFILL_TOKENS", "Engine", "Event", "Lack", "Opening", "Statistics"]

log = structlog.get_logger()
P = ParamSpec("P")
T = TypeVar("T")
_Outcome: TypeAlias = Draw | Exception | None
"""A token, what went wrong, or None while a prompt is being read."""

PREFILL_TOKENS = 512
"""Prompt tokens read in one step at most; fewer beside sequences that decode, see `pacing`."""


class Lack(NamedTuple):
    """Why a sequence cannot join now, but later."""

    rule: Literal["slots", "kv_memory"]
    need: int
    """Sequences, or bytes of keys and values, with it in."""
    have: int


class Statistics(NamedTuple):
    """What an engine has in it, and what it did since it was made."""

    active: int
    """Sequences that are in."""
    reading: int
    """Of them, those whose prompts are not read yet."""
    reserved_bytes: int
    """Of keys and values that the sequences may come to need."""
    cache_bytes: int
    """Of keys and values that are held now."""
    prefill_tokens: int
    prefill_seconds: float
    decode_steps: int
    decode_tokens: int
    """Sum of the batch over all decode steps."""
    decode_seconds: float


class Engine:
    """Generates for up to `slots` sequences at once, each of at most `context` tokens, prompt included.

    The keys and values that sequences may come to need never exceed `cache_bytes`: each reserves its prompt and
    `max_tokens`, in whole units of 128 tokens, and since the slots of the cache are equally long, the longest counts for
    all. What is held grows with what is used.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        *,
        slots: int,
        context: int,
        cache_bytes: int,
        name: str = "",
        prefill_tokens: int = PREFILL_TOKENS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.slots = slots
        self.context = context
        self.cache_bytes = cache_bytes
        self.cache = model.new_cache(slots, context)
        self.cache.most_bytes = cache_bytes
        self._model = model
        self._tokenizer = tokenizer
        self._name = name
        self._pace = Pace(prefill_tokens)
        self._clock = clock
        self._row: list[Sequence] = []
        self._joined = 0
        self._beginning = sorted(tokenizer.eos_ids)[:1] if tokenizer.bos_id is None else [tokenizer.bos_id]
        self._done = Statistics(0, 0, 0, 0, 0, 0.0, 0, 0, 0.0)

    @property
    def active(self) -> int:
        """Sequences that are in."""
        return len(self._row)

    @property
    def free_slots(self) -> int:
        """Sequences that may still join, if there is memory for them."""
        return self.slots - len(self._row)

    @property
    def resident_bytes(self) -> int:
        """Bytes that weights and cache hold."""
        return self._model.resident_bytes + self.cache.resident_bytes

    def statistics(self) -> Statistics:
        """What is in it now, and what it did so far."""
        return self._done._replace(
            active=len(self._row),
            reading=sum(not sequence.prefilled for sequence in self._row),
            reserved_bytes=self._bytes_with(0, 0),
            cache_bytes=self.cache.resident_bytes,
        )

    def keys(self) -> list[Hashable]:
        """The sequences that are in."""
        return [sequence.key for sequence in self._row]

    def open(self, prompt: Prompt | list[int], choices: int = 1) -> Opening:
        """A prompt as tokens, at least one, for `choices` sequences that go on from it. An empty text begins from the
        model's own first token.

        Raises:
            InvalidRequest: a token is not one of the model's, or there is nothing to begin from, or the chat template
                refuses the conversation.
            NoChatTemplate: it is a conversation, and the model takes none.
        """
        if isinstance(prompt, str):
            tokens = self._tokenizer.encode(prompt)
        else:
            turns = [one for one in prompt if isinstance(one, ChatMessage)]
            tokens = self._tokenizer.prompt_tokens(turns) if turns else [one for one in prompt if isinstance(one, int)]
        tokens = tokens or self._beginning
        if not tokens:
            raise InvalidRequest(where="input.prompt", problem="it is empty, and the model has no first token")
        wrong = next((token for token in tokens if not 0 <= token < self._model.vocabulary), None)
        if wrong is not None:
            raise InvalidRequest(where="input.prompt", problem=f"{wrong} is not a token of the model")
        return Opening(tokens, choices)

    def check(self, opening: Opening, request: GenerateInput) -> None:
        """Whether the sequence can ever be in.

        Raises:
            TooLong: prompt and `max_tokens` together exceed the context, or what the memory for keys and values holds.
        """
        held = self.cache_bytes // self.cache.token_bytes if self.cache.token_bytes else self.context
        limit = min(self.context, held)
        need = len(opening) + request.max_tokens
        if need > self.context or self._unit(need) > held:
            raise TooLong(tokens=need, model=self._name, limit=limit)

    def lacks(self, opening: Opening, request: GenerateInput) -> Lack | None:
        """Why the sequence cannot join now; None where it may."""
        if not self.free_slots:
            return Lack("slots", len(self._row) + 1, self.slots)
        need = self._bytes_with(1, len(opening) + request.max_tokens)
        return Lack("kv_memory", need, self.cache_bytes) if need > self.cache_bytes else None

    def may_add(self, opening: Opening, request: GenerateInput) -> bool:
        """Whether the sequence may join now."""
        return self.lacks(opening, request) is None

    def add(self, key: Hashable, prompt: Opening | Prompt | list[int], request: GenerateInput, choice: int = 0) -> int:
        """A sequence joins, drawn with the seed `seed + choice`; gives the tokens of its prompt.

        Raises:
            TooLong: as `check` does; and for what is no `Opening` yet, what `open` raises.
            ValueError: the key is in already, or there is no room now; the caller did not look.
        """
        opening = prompt if isinstance(prompt, Opening) else self.open(prompt)
        self.check(opening, request)
        if any(sequence.key == key for sequence in self._row):
            raise ValueError(f"sequence {key!r} is in already")
        lack = self.lacks(opening, request)
        if lack is not None:
            raise ValueError(f"there is no room: {lack.rule} {lack.need} of {lack.have}")
        self._joined += 1
        self._row.append(Sequence(key, opening, request, self._tokenizer, choice, self._joined))
        return len(opening)

    def remove(self, key: Hashable) -> bool:
        """A sequence leaves without an event; False where it was not in (any more)."""
        for slot, sequence in enumerate(self._row):
            if sequence.key == key:
                self._leave(slot)
                return True
        return False

    @property
    def work(self) -> int:
        """Tokens that the next step computes, about: one for each sequence that decodes, and of prompts."""
        decoding = sum(sequence.prefilled for sequence in self._row)
        unread = sum(len(sequence.opening) - sequence.read for sequence in self._row)
        return decoding + min(unread, self._pace.budget(decoding > 0))

    def shrink(self) -> None:
        """Gives the memory of keys and values back that nothing uses now; it grows again with what comes."""
        self.cache.shrink(len(self._row), max((sequence.length for sequence in self._row), default=0))

    def step(self) -> list[Event]:
        """One token for each sequence that decodes, then some prompt tokens of those that wait; what there is to tell."""
        decoding = any(sequence.prefilled for sequence in self._row)
        events = self._decode()
        budget = self._pace.budget(decoding)
        while budget > 0 and (waiting := self._waiting()) is not None:
            before = waiting.read
            events += self._settle([(waiting, _attempt(self._read, waiting, budget))])
            budget -= max(waiting.read - before, CHUNK_TOKENS)
        return events

    def _waiting(self) -> Sequence | None:
        """The oldest sequence whose prompt is not read yet."""
        return next((sequence for sequence in self._row if not sequence.prefilled), None)

    def _read(self, sequence: Sequence, most: int) -> Draw | None:
        """Reads up to `most` tokens of a prompt; the first token behind it, or None where it goes on."""
        opening, slot = sequence.opening, self._row.index(sequence)
        source = self._source(opening)
        if source is not None and opening.logits is not None:
            self._make_room(slot + 1, len(opening))
            self.cache.ensure(slot + 1, len(opening))
            self.cache.copy(source, slot, len(opening))
            sequence.read = len(opening)
            return _finite(draw_tokens(opening.logits, [sequence.sampler])[0])
        chunk = opening.tokens[sequence.read : sequence.read + most]
        began = self._clock()
        self._make_room(slot + 1, sequence.read + len(chunk))
        hidden = self._model.prefill(chunk, self.cache, slot, sequence.read)
        draw = None
        if sequence.read + len(chunk) == len(opening):
            logits = self._model.logits(hidden[-1:])
            draw = _finite(draw_tokens(logits, [sequence.sampler])[0])
            opening.logits = logits.clone() if opening.choices > 1 else None
        elif not bool(torch.isfinite(hidden).all()):
            raise NotFinite
        sequence.read += len(chunk)
        self._count_prefill(len(chunk), self._clock() - began)
        return draw

    def _source(self, opening: Opening) -> int | None:
        """The slot of a sequence that has read this very prompt."""
        if opening.logits is None:
            return None
        return next((slot for slot, one in enumerate(self._row) if one.opening is opening and one.prefilled), None)

    def _decode(self) -> list[Event]:
        """One token for all that decode."""
        events: list[Event] = []
        while ready := [sequence for sequence in self._row if sequence.prefilled]:
            began = self._clock()
            together = _attempt(self._decode_slots, ready, 0)
            if not isinstance(together, Exception):
                self._count_decode(len(ready), self._clock() - began)
                return events + self._settle(list(zip(ready, together, strict=True)))
            if len(ready) == 1 or not is_out_of_memory(together):
                return events + self._settle(self._one_by_one(ready, together))
            # the one that takes most makes room for the others; of equal ones the newest
            largest = max(ready, key=lambda sequence: (self._unit(sequence.longest), sequence.joined))
            events += self._settle([(largest, together)])
        return events

    def _one_by_one(self, ready: list[Sequence], together: Exception) -> list[tuple[Sequence, _Outcome]]:
        """A step that raised, repeated for each alone: that shows whose fault it is, and is harmless."""
        if len(ready) == 1:
            return [(ready[0], together)]
        outcomes: list[tuple[Sequence, _Outcome]] = []
        for slot, sequence in enumerate(ready):
            alone = _attempt(self._decode_slots, [sequence], slot)
            outcomes.append((sequence, alone if isinstance(alone, Exception) else alone[0]))
        return outcomes

    def _decode_slots(self, sequences: list[Sequence], first_slot: int) -> list[_Outcome]:
        """The next tokens of neighbouring slots."""
        tokens = [sequence.last_token for sequence in sequences]
        positions = [sequence.length for sequence in sequences]
        self._make_room(first_slot + len(sequences), max(positions) + 1)
        logits = self._model.logits(self._model.decode(tokens, positions, self.cache, first_slot))
        draws = draw_tokens(logits, [sequence.sampler for sequence in sequences])
        return [NotFinite() if draw is None else draw for draw in draws]

    def _make_room(self, slots: int, tokens: int) -> None:
        """Gives back what the cache's shape holds in excess, where it could not grow to `slots` × `tokens` otherwise."""
        if self.cache.bytes_for(slots, tokens) > self.cache_bytes:
            self.shrink()

    def _settle(self, outcomes: list[tuple[Sequence, _Outcome]]) -> list[Event]:
        """What there is to tell of each outcome; those that ended leave, once all that ran together have their token."""
        events: list[Event] = []
        for sequence, outcome in outcomes:
            event = _attempt(sequence.accept, outcome) if isinstance(outcome, Draw) else outcome
            if isinstance(event, Exception):
                event = sequence.fail(as_error(event))
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

    def _unit(self, tokens: int) -> int:
        """What a sequence of so many tokens reserves, in tokens."""
        return min(whole_units(tokens), self.context)

    def _bytes_with(self, more: int, tokens: int) -> int:
        """Bytes reserved by those that are in, and `more` of up to `tokens` tokens."""
        longest = max([tokens, *(sequence.longest for sequence in self._row)])
        return (len(self._row) + more) * self._unit(longest) * self.cache.token_bytes

    def _count_prefill(self, tokens: int, seconds: float) -> None:
        self._pace.read(tokens, seconds)
        done = self._done
        self._done = done._replace(
            prefill_tokens=done.prefill_tokens + tokens, prefill_seconds=done.prefill_seconds + seconds
        )

    def _count_decode(self, batch: int, seconds: float) -> None:
        self._pace.decoded(seconds)
        done = self._done
        self._done = done._replace(
            decode_steps=done.decode_steps + 1,
            decode_tokens=done.decode_tokens + batch,
            decode_seconds=done.decode_seconds + seconds,
        )


def _finite(draw: Draw | None) -> Draw:
    if draw is None:
        raise NotFinite
    return draw


def _attempt(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Exception:
    """The result, or what was raised: whatever one sequence meets, it becomes that sequence's error and nobody else's."""
    try:
        return call(*args, **kwargs)
    except Exception as problem:  # noqa: BLE001  sorted by the caller
        if not isinstance(problem, LlmosError):
            log.warning("engine_fault", **fault_of(problem)._asdict())
        return problem.with_traceback(None)  # its frames would keep tensors alive
