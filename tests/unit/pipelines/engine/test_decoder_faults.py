"""What fails in a step fails one sequence, with a typed error, and those beside it go on as if alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llmos.pipelines.engine.kvcache import SlotCache
from llmos.pipelines.engine.sequences import Event
from llmos.pipelines.models.manifest import Manifest
from llmos.pipelines.models.tokenizer import Tokenizer
from tests.unit.pipelines.engine.chains import (
    Chain,
    alone,
    chain_engine,
    chain_of,
    drain,
    engine_of,
    errors,
    outcome,
    request,
)


def test_logits_that_are_not_finite_end_one_sequence(llama: Manifest) -> None:
    """A sequence whose logits become NaN ends with an error after what it had said; its neighbours end as they should."""
    tokenizer = Tokenizer.load(llama)
    after, tokens = chain_of(tokenizer, "abcdefgh")
    model = Chain(after, nan=tokens[5])
    engine = chain_engine(model, tokenizer, 3)
    engine.add("bad", tokens[:1], request())
    engine.add("fine", tokens[:1], request(3))
    engine.add("bad at once", [tokens[5]], request())
    events = drain(engine)
    assert errors(events) == {"bad": "not_finite", "bad at once": "not_finite"}
    assert "".join(event.text for event in events if event.key == "bad") == "bcdef"
    assert outcome(events, "fine") == ("bcd", "length")


def test_a_step_that_raises_is_repeated_one_by_one(llama: Manifest) -> None:
    """A sequence that makes the common step raise ends with an error; the others lose no token and go on together."""
    tokenizer = Tokenizer.load(llama)
    after, tokens = chain_of(tokenizer, "abcdefgh")
    model = Chain(after, bomb=tokens[4])
    engine = chain_engine(model, tokenizer, 3)
    engine.add("first", [tokens[5]], request())
    engine.add("bomb", [tokens[2]], request())
    engine.add("last", [tokens[0]], request(3))
    events = drain(engine)
    assert errors(events) == {"bomb": "engine_failed"}
    assert "RuntimeError: boom" in str([event.error for event in events if event.key == "bomb"][-1])
    assert outcome(events, "first") == ("gh", "stop")
    assert outcome(events, "last") == ("bcd", "length")
    assert model.steps[:4] == [3, 3, 1, 1]


def test_a_prompt_that_raises_ends_its_own_sequence(llama: Manifest) -> None:
    """An exception while a prompt is read fails that sequence alone."""
    tokenizer = Tokenizer.load(llama)
    after, tokens = chain_of(tokenizer, "abcdefgh")
    engine = chain_engine(Chain(after, bomb=tokens[7]), tokenizer, 3)
    engine.add("bomb", [tokens[7]], request())
    engine.add("fine", [tokens[5]], request(1))
    bomb, fine = drain(engine)
    assert (bomb._replace(error=None), fine) == (Event("bomb", "", 0, 0), Event("fine", "g", 1, 0, "length"))
    assert errors([bomb]) == {"bomb": "engine_failed"}


def test_nan_in_a_slot_does_not_outlive_its_sequence(make_llama: Any) -> None:
    """After a sequence failed with NaN in its keys and values, a shorter one in the same slot generates as if alone."""
    manifest = make_llama("poisoned", vocab_size=321)
    engine = engine_of(manifest, slots=2)
    embedding = engine._model._embedding  # type: ignore[attr-defined]
    embedding[300] = float("nan")
    engine.add("bad", [5, 6, 7, 300, 300, 300], request())
    assert errors(engine.step()) == {"bad": "not_finite"}
    engine.add("short", [8], request(20))
    engine.add("long", [9] * 12, request(20))
    events = drain(engine)
    assert not [event.error for event in events if event.error]
    assert outcome(events, "short") == alone(manifest, [8], request(20))


def test_nan_in_the_middle_of_a_prompt_is_found_at_once(make_llama: Any) -> None:
    """A prompt that is read in pieces fails at the piece that is not finite, and does not go on with NaN in its slot."""
    engine = engine_of(make_llama("poisoned", vocab_size=321), slots=2, prefill_tokens=2)
    assert isinstance(engine.cache, SlotCache)
    engine._model._embedding[300] = float("nan")  # type: ignore[attr-defined]
    engine.add("bad", [5, 300, 6, 7, 8], request())
    assert errors(engine.step()) == {"bad": "not_finite"}
    assert all(bool(torch.isfinite(keys).all()) for keys in engine.cache.keys)


@pytest.mark.parametrize(
    "problem",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
        ),
    ],
    ids=["accelerator", "python", "cpu"],
)
def test_a_batch_that_does_not_fit_loses_its_largest(problem: Exception, llama: Manifest) -> None:
    """Where the memory is not enough for all, the one that reserves most goes, of equal ones the newest; nobody else."""
    tokenizer = Tokenizer.load(llama)
    after, tokens = chain_of(tokenizer, "abcdefgh")
    model = Chain(after)
    engine = chain_engine(model, tokenizer, 4, context=512)

    def at_most_two(batch: int) -> None:
        if batch > 2:
            raise problem

    model.before_decode = at_most_two
    engine.add("first", tokens[:1], request(4))
    engine.add("large", tokens[:1], request(300))
    engine.add("second", tokens[:1], request(4))
    engine.add("newest", tokens[:1], request(4))
    events = drain(engine)
    assert errors(events) == {"large": "device_out_of_memory", "newest": "device_out_of_memory"}
    assert outcome(events, "first") == outcome(events, "second") == ("bcde", "length")


def test_one_that_does_not_fit_alone_fails(llama: Manifest) -> None:
    """There is nobody else to make room; the engine is free afterwards and works."""
    tokenizer = Tokenizer.load(llama)
    after, tokens = chain_of(tokenizer, "abcdefgh")
    model = Chain(after)
    engine = chain_engine(model, tokenizer, 2)
    engine.add("x", tokens[:1], request())
    engine.step()
    model.before_decode = _no_memory
    assert errors(engine.step()) == {"x": "device_out_of_memory"}
    model.before_decode = lambda batch: None
    engine.add("y", tokens[:1], request(2))
    assert outcome(drain(engine), "y") == ("bc", "length")


def _no_memory(batch: int) -> None:
    raise MemoryError


def test_memory_for_the_cache_that_does_not_suffice_fails_the_newcomer(
    llama: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that cannot grow for a prompt keeps what is in it: the newcomer fails, the others end as they should."""
    tokenizer = Tokenizer.load(llama)
    after, tokens = chain_of(tokenizer, "abcdefgh")
    engine = chain_engine(Chain(after), tokenizer, 2)
    engine.add("first", tokens[:1], request())
    events = engine.step()

    def full(self: SlotCache, wanted: Any) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(SlotCache, "_resize", full)
    engine.add("newcomer", tokens[:1], request())
    events += drain(engine)
    assert errors(events) == {"newcomer": "device_out_of_memory"}
    assert outcome(events, "first")[1] == "stop"
