"""Keys and values stay within their bound: who joins when, what is held, what is given back; and how prompts are read."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.pipelines.engine.decoder import Engine, Lack
from llmos.pipelines.engine.pacing import CHUNK_TOKENS, FIRST_TOKENS, Pace
from llmos.pipelines.models.manifest import Manifest
from llmos.pipelines.models.tokenizer import Tokenizer
from llmos.schemas.errors import TooLong
from tests.unit.pipelines.engine.chains import (
    Chain,
    alone,
    chain_engine,
    chain_of,
    drain,
    engine_of,
    outcome,
    request,
)

TOKEN_BYTES = 8
"""Of a chain's cache."""
UNIT = 128 * TOKEN_BYTES


@pytest.fixture(scope="module")
def tokenizer(llama: Manifest) -> Tokenizer:
    return Tokenizer.load(llama)


def engine(tokenizer: Tokenizer, units: int, **options: Any) -> Engine:
    """Up to 8 sequences of 1,000 tokens, with memory for `units` of 128 tokens; each says one letter for ever."""
    model = Chain({5: 5})
    return chain_engine(model, tokenizer, 8, context=1000, cache_bytes=units * UNIT, **options)


def test_a_sequence_joins_only_with_the_memory_it_may_need(tokenizer: Tokenizer) -> None:
    """Prompt and `max_tokens` in whole units, times the sequences, the longest counting for all."""
    full = engine(tokenizer, 4)
    short, long = full.open([5] * 100), full.open([5] * 101)
    assert [full.may_add(short, request(28)), full.may_add(long, request(28))] == [True, True]
    full.add("a", short, request(28))
    full.add("b", short, request(28))
    assert full.lacks(short, request(28)) is None
    assert full.lacks(long, request(28)) == Lack("kv_memory", 3 * 2 * UNIT, 4 * UNIT)
    assert full.statistics().reserved_bytes == 2 * UNIT
    with pytest.raises(ValueError, match="no room: kv_memory 6144 of 4096"):
        full.add("c", long, request(28))
    full.remove("a")
    assert full.may_add(long, request(28))


def test_slots_are_the_other_bound(tokenizer: Tokenizer) -> None:
    """With memory left, the number of sequences counts."""
    full = engine(tokenizer, 100)
    for key in range(8):
        full.add(key, [5], request(1))
    assert full.lacks(full.open([5]), request(1)) == Lack("slots", 9, 8)


def test_what_never_fits_is_refused_at_once(tokenizer: Tokenizer) -> None:
    """Alone it would need more than there is: the refusal says how many tokens there is room for."""
    small = engine(tokenizer, 2)
    small.check(small.open([5] * 200), request(56))
    with pytest.raises(TooLong, match=r"257 tokens.*'chain' holds 256"):
        small.add("x", [5] * 200, request(57))
    whole = engine(tokenizer, 8)
    whole.check(whole.open([5] * 900), request(100))
    with pytest.raises(TooLong, match=r"1001 tokens.*'chain' holds 1000"):
        whole.add("x", [5] * 900, request(101))


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.integers(1, 300), st.integers(1, 500)),
            st.integers(0, 7),
            st.none(),
        ),
        max_size=40,
    ),
    units=st.integers(1, 24),
)
def test_the_cache_never_exceeds_its_bound(
    tokenizer: Tokenizer, steps: list[tuple[int, int] | int | None], units: int
) -> None:
    """Whatever joins (prompt, max_tokens), leaves (a place) or steps, what is held stays within the bound, and within
    what is reserved once the cache was given back."""
    bounded = engine(tokenizer, units)
    names = itertools.count()
    for step in steps:
        if isinstance(step, tuple):
            opening, asked = bounded.open([5] * step[0]), request(step[1])
            try:
                bounded.check(opening, asked)
            except TooLong:
                continue
            if bounded.may_add(opening, asked):
                bounded.add(next(names), opening, asked)
        elif step is None:
            bounded.step()
        elif step < bounded.active:
            bounded.remove(bounded.keys()[step])
        done = bounded.statistics()
        assert done.cache_bytes == bounded.cache.resident_bytes <= units * UNIT
        assert done.reserved_bytes <= units * UNIT
    bounded.shrink()
    assert bounded.statistics().cache_bytes <= bounded.statistics().reserved_bytes
    while bounded.active:
        bounded.remove(bounded.keys()[-1])
    bounded.shrink()
    assert bounded.statistics().cache_bytes == 0


def test_a_cache_of_another_shape_is_given_back_for_a_sequence(llama: Manifest) -> None:
    """After one long sequence there is room for many short ones, and the other way round, while some go on undisturbed."""
    token_bytes = engine_of(llama).cache.token_bytes
    bounded = engine_of(llama, slots=8, cache_bytes=8 * 96 * token_bytes)
    bounded.cache.most_bytes = None  # doubles: the shapes it takes are not what was reserved
    prompts = {key: [5 + key] * 4 for key in range(8)}
    events = []
    for key, prompt in prompts.items():
        bounded.add(key, prompt, request(6 + 5 * key))
        events += bounded.step()
        bounded.shrink()
    events += drain(bounded)
    for key, prompt in prompts.items():
        assert outcome(events, key) == alone(llama, prompt, request(6 + 5 * key))


def test_choices_share_the_reading_of_their_prompt(llama: Manifest) -> None:
    """Eight draws from one prompt read it once, each has the text of its own seed alone, also one that joins later."""
    together = engine_of(llama, slots=4)
    opening = together.open([5, 6, 7, 8, 9] * 6, choices=8)
    asked = request(12, temperature=1.0, seed=40)
    events = []
    for choice in range(4):
        together.add(choice, opening, asked, choice)
    events += together.step()
    waiting = [4, 5, 6, 7]
    for _ in range(60):
        while waiting and together.free_slots:
            choice = waiting.pop(0)
            together.add(choice, opening, asked, choice)
        events += together.step()
    assert together.active == 0
    told = [outcome(events, choice) for choice in range(8)]
    assert told == [alone(llama, opening.tokens, request(12, temperature=1.0, seed=40 + choice)) for choice in range(8)]
    assert len(set(told)) > 4
    assert together.statistics().prefill_tokens < 3 * len(opening)


def test_choices_survive_the_one_that_read(tokenizer: Tokenizer) -> None:
    """When the first of them leaves while it reads, the next one reads instead."""
    after, tokens = chain_of(tokenizer, "abcdefgh")
    cut = chain_engine(Chain(after), tokenizer, 3, prefill_tokens=16)
    opening = cut.open([tokens[0]] * 40, choices=2)
    cut.add("first", opening, request(3))
    cut.add("second", opening, request(3), 1)
    cut.step()
    assert cut.remove("first")
    assert outcome(drain(cut), "second") == ("bcd", "length")


def test_statistics_count_what_was_done(tokenizer: Tokenizer) -> None:
    """Prompt tokens and decode steps, with the seconds of each by the clock that was given."""
    ticks = itertools.count()
    counted = chain_engine(Chain({5: 5}), tokenizer, 4, context=256, clock=lambda: float(next(ticks)))
    counted.add("a", [5] * 30, request(3))
    counted.add("b", [5] * 10, request(3))
    assert counted.work == 40
    counted.step()
    assert counted.work == 2
    drain(counted)
    done = counted.statistics()
    assert (done.prefill_tokens, done.prefill_seconds) == (40, 2.0)
    assert (done.decode_steps, done.decode_tokens, done.decode_seconds) == (2, 4, 2.0)
    assert (done.active, done.reading, done.reserved_bytes) == (0, 0, 0)


def test_short_prompts_share_a_step(tokenizer: Tokenizer) -> None:
    """As many as the budget holds are read in one step, a very short one counted as a whole chunk."""
    model = Chain({5: 5})
    shared = chain_engine(model, tokenizer, 8, context=256, prefill_tokens=64)
    for key in range(5):
        shared.add(key, [5] * 3, request(2))
    shared.step()
    assert model.chunks == [3] * 4
    assert shared.statistics().reading == 1


def test_a_prompt_alone_is_always_read_in_the_same_pieces(tokenizer: Tokenizer) -> None:
    """Whatever was measured before: the same request alone is computed in the same way."""
    model = Chain({5: 5})
    fresh = chain_engine(model, tokenizer, 2, context=1000, prefill_tokens=64)
    for _ in range(3):
        fresh.add("x", [5] * 150, request(2))
        drain(fresh)
    assert model.chunks == [64, 64, 22] * 3


def test_the_pace_bounds_how_long_streams_wait() -> None:
    """Nobody decodes: all that is allowed. Else what takes a fifth of a second, or a decode step where that is longer."""
    pace = Pace(512)
    assert (pace.budget(False), pace.budget(True)) == (512, FIRST_TOKENS)
    pace.decoded(0.050)
    assert pace.budget(True) == FIRST_TOKENS
    pace.read(100, 0.125)
    assert (pace.budget(False), pace.budget(True)) == (512, 160)
    pace.read(8, 0.050)
    assert pace.budget(True) == 88
    pace.decoded(0.700)
    assert pace.budget(True) == 88
    pace.decoded(1.0)
    assert pace.budget(True) == 152
    pace.decoded(100.0)
    assert pace.budget(True) == 512
    slow = Pace(512)
    slow.decoded(0.001)
    slow.read(1, 1.0)
    assert slow.budget(True) == CHUNK_TOKENS
