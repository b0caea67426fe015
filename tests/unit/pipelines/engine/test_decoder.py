"""Many sequences generate together, and each gets what it would get alone, whatever joins, leaves or fails beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from llmos.pipelines.engine.decoder import Engine
from llmos.pipelines.engine.device import open_device
from llmos.pipelines.engine.llama import LlamaConfig, LlamaModel
from llmos.pipelines.engine.loading import Sizes, open_model
from llmos.pipelines.engine.sequences import Event
from llmos.pipelines.engine.weights import load_weights, read_json
from llmos.pipelines.models.manifest import Manifest
from llmos.pipelines.models.tokenizer import Tokenizer
from llmos.schemas.errors import InvalidRequest, TooLong
from llmos.schemas.tasks import GenerateInput

PROMPTS = ["the a of the q", "be", "to be in it and the r of it", "and", "the h of the z and to be in", "in"]


def request(max_tokens: int = 12, **fields: Any) -> GenerateInput:
    return GenerateInput(prompt="", max_tokens=max_tokens, **fields)


def engine_of(manifest: Manifest, slots: int = 4, **options: Any) -> Engine:
    config = LlamaConfig.read(read_json(manifest, "config.json"), manifest.directory)
    model = LlamaModel(config, load_weights(manifest), manifest.directory, torch.device("cpu"))
    return Engine(model, Tokenizer.load(manifest), slots, config.context, name=manifest.name, **options)


def drain(engine: Engine) -> list[Event]:
    """Steps until all are done; a sequence that never ends fails the test."""
    events: list[Event] = []
    for _ in range(500):
        if not engine.active:
            return events
        events += engine.step()
    raise AssertionError(f"{engine.keys()} did not end")


def alone(manifest: Manifest, prompt: str | list[int], request: GenerateInput) -> tuple[str, str]:
    engine = engine_of(manifest, slots=1)
    engine.add("x", prompt, request)
    return outcome(drain(engine), "x")


def outcome(events: list[Event], key: Hashable) -> tuple[str, str]:
    """The joined text and the finish of a sequence; checks that its events have neither gap nor repeat."""
    mine, place = [event for event in events if event.key == key], 0
    for event in mine:
        assert event.first_token == place
        place += event.tokens
    assert [bool(event.finish or event.error) for event in mine] == [False] * (len(mine) - 1) + [True]
    return "".join(event.text for event in mine), mine[-1].finish


def greedy(manifest: Manifest, tokens: list[int], count: int) -> list[int]:
    """What `transformers` generates, up to the end token."""
    model = LlamaForCausalLM.from_pretrained(manifest.directory, dtype=torch.float32)
    model.generation_config.pad_token_id = 0
    produced = model.generate(torch.tensor([tokens]), max_new_tokens=count, do_sample=False)[0, len(tokens) :].tolist()
    return produced[: produced.index(1)] if 1 in produced else produced


def test_greedy_tokens_are_those_of_transformers(llama: Manifest) -> None:
    """Six prompts, more than there are slots, joining as others leave, give the text that `generate` of transformers gives."""
    engine, tokenizer = engine_of(llama, slots=3), Tokenizer.load(llama)
    lengths = [20, 3, 9, 30, 12, 7]
    waiting, events = list(enumerate(zip(PROMPTS, lengths, strict=True))), []
    for _ in range(200):
        while waiting and engine.free_slots:
            key, (prompt, length) = waiting.pop(0)
            engine.add(key, prompt, request(length))
        events += engine.step()
    assert engine.active == 0
    for key, (prompt, length) in enumerate(zip(PROMPTS, lengths, strict=True)):
        wanted = greedy(llama, tokenizer.encode(prompt), length)
        assert outcome(events, key)[0] == tokenizer.decode(wanted)
        assert sum(event.tokens for event in events if event.key == key) == len(wanted)


def test_seeded_tokens_do_not_depend_on_the_company(llama: Manifest) -> None:
    """A sampled text is the same alone, among others, and when its prompt is read in pieces of three tokens."""
    wanted = alone(llama, PROMPTS[2], request(25, temperature=1.0, top_k=50, seed=5))
    assert wanted != alone(llama, PROMPTS[2], request(25, temperature=1.0, top_k=50, seed=6))
    engine = engine_of(llama, slots=4, prefill_tokens=3)
    engine.add("before", PROMPTS[0], request(4, temperature=1.0))
    engine.add("me", PROMPTS[2], request(25, temperature=1.0, top_k=50, seed=5))
    events = engine.step()
    engine.add("after", PROMPTS[4], request(40, temperature=1.0, seed=9))
    assert outcome(events + drain(engine), "me") == wanted


def test_a_step_reads_a_bounded_piece_of_the_prompts(llama: Manifest) -> None:
    """A long prompt is read over several steps, in which a sequence that decodes gets a token each."""
    engine = engine_of(llama, slots=3, prefill_tokens=8)
    engine.add("quick", [5], request(10, temperature=1.0, seed=1))
    engine.step()
    engine.add("long", list(range(10, 30)), request(1))
    engine.add("later", [6, 7], request(1))
    told = [Counter({event.key: event.tokens for event in engine.step() if event.finish}) for _ in range(3)]
    assert [sorted(each) for each in told] == [[], [], ["later", "long"]]
    assert engine.keys() == ["quick"]


def test_removing_a_sequence_disturbs_nobody(llama: Manifest) -> None:
    """Sequences removed while they wait, read or decode leave without an event, and the others' texts stay the same."""
    engine = engine_of(llama, slots=6, prefill_tokens=7)
    for key, prompt in enumerate(PROMPTS):
        engine.add(key, prompt, request(15))
    events = engine.step()
    for key in (4, 0, 2):
        assert engine.remove(key)
        events += engine.step()
    assert not engine.remove(4)
    events += drain(engine)
    for key in (1, 3, 5):
        assert outcome(events, key) == alone(llama, PROMPTS[key], request(15))
    assert not any(event.finish for event in events if event.key in (0, 2, 4))


def test_what_does_not_fit_is_refused(llama: Manifest) -> None:
    """Prompt and output together may fill the context of 96 exactly; one token more is refused with the numbers."""
    engine = engine_of(llama)
    assert engine.add("fits", [5] * 90, request(6)) == 90
    with pytest.raises(TooLong, match=r"97 tokens.*'llama' holds 96"):
        engine.add("not", [5] * 91, request(6))
    assert outcome(drain(engine), "fits")[1] in ("stop", "length")


@pytest.mark.parametrize("prompt", [[5, 320], [-1]])
def test_tokens_that_are_none_are_refused(prompt: list[int], llama: Manifest) -> None:
    """A prompt of token ids that the model does not have is the client's error."""
    with pytest.raises(InvalidRequest, match="is not a token"):
        engine_of(llama).add("x", prompt, request())


def test_a_caller_that_did_not_look_is_told(llama: Manifest) -> None:
    """A second sequence of one name, or one more than there are slots, is a programming error."""
    engine = engine_of(llama, slots=2)
    engine.add("x", [5], request())
    with pytest.raises(ValueError, match="already"):
        engine.add("x", [5], request())
    engine.add("y", [5], request())
    assert (engine.active, engine.free_slots, engine.keys()) == (2, 0, ["x", "y"])
    with pytest.raises(ValueError, match="no slot"):
        engine.add("z", [5], request())


def test_an_empty_prompt_begins_from_the_first_token(llama: Manifest) -> None:
    """No text at all is continued from the token that begins texts."""
    assert alone(llama, "", request(8)) == alone(llama, [0], request(8))


class Chain:
    """A model whose next token is `after[token]`; reading `nan` gives NaN, and a step in which `bomb` is read raises."""

    vocabulary = 320
    resident_bytes = 0

    def __init__(self, after: dict[int, int], nan: int = -1, bomb: int = -1) -> None:
        self._inner = after
        self._nan = nan
        self._bomb = bomb
        self.steps: list[int] = []

    def new_cache(self, slots: int, context: int) -> Any:
        return LlamaModel.new_cache(self._shape(), slots, context)  # type: ignore[arg-type]

    def prefill(self, tokens: list[int], cache: Any, slot: int, start: int) -> torch.Tensor:
        return self._read(tokens)

    def decode(self, tokens: list[int], positions: list[int], cache: Any, first_slot: int = 0) -> torch.Tensor:
        self.steps.append(len(tokens))
        return self._read(tokens)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = torch.full((len(hidden), self.vocabulary), -9.0)
        for row, token in enumerate(hidden[:, 0].int().tolist()):
            logits[row, self._inner.get(token, 1)] = 9.0
            if token == self._nan:
                logits[row] = float("nan")
        return logits

    def _read(self, tokens: list[int]) -> torch.Tensor:
        if self._bomb in tokens:
            raise RuntimeError("boom")
        return torch.tensor(tokens, dtype=torch.float32)[:, None]

    @staticmethod
    def _shape() -> Any:
        class Shape:
            config = LlamaConfig.read(
                {"vocab_size": 9, "hidden_size": 2, "intermediate_size": 1, "num_hidden_layers": 1, "num_attention_heads": 1},
                "x",
            )  # fmt: skip
            device = torch.device("cpu")
            dtype = torch.float32

        return Shape


def chain_of(tokenizer: Tokenizer, text: str) -> tuple[dict[int, int], list[int]]:
    """The chain that says `text` and then ends, letter by letter, and its tokens; no letter may repeat."""
    tokens = [tokenizer.encode(letter) for letter in text]
    flat = [token for each in tokens for token in each]
    assert len(set(flat)) == len(flat)
    return dict(zip(flat, [*flat[1:], 1], strict=True)), flat


def test_events_joined_are_the_whole_text(llama: Manifest) -> None:
    """Characters of several tokens and stop strings over token borders come out whole, and the stop string is cut off."""
    tokenizer = Tokenizer.load(llama)
    after, tokens = chain_of(tokenizer, "xé猫yzSTP!")
    engine = Engine(Chain(after), tokenizer, 2, 64)
    engine.add("all", tokens[:1], request(40))
    engine.add("stopped", tokens[:1], request(40, stop=["nowhere", "STP"]))
    events = drain(engine)
    assert outcome(events, "all") == ("é猫yzSTP!", "stop")
    assert outcome(events, "stopped") == ("é猫yz", "stop")
    assert sum(event.tokens for event in events if event.key == "all") == len(tokens) - 1
    assert sum(event.tokens for event in events if event.key == "stopped") == len(tokens) - 2
    assert not any("\ufffd" in event.text for event in events)


def test_text_held_back_comes_out_at_the_end(llama: Manifest) -> None:
    """The beginning of a stop string that never ends, and half a character, are told when the length is reached."""
    tokenizer = Tokenizer.load(llama)
    after, tokens = chain_of(tokenizer, "xySTP")
    engine = Engine(Chain(after), tokenizer, 1, 64)
    engine.add("x", tokens[:1], request(3, stop=["STP"]))
    assert outcome(drain(engine), "x") == ("yST", "length")
    after, tokens = chain_of(tokenizer, "x猫")
    engine = Engine(Chain(after), tokenizer, 1, 64)
    engine.add("x", tokens[:1], request(2))
    assert outcome(drain(engine), "x")[0] == tokenizer.decode(tokens[1:3])


def test_text_held_back_comes_out_at_an_end_token(llama: Manifest) -> None:
    """The same where the model ends the text by itself: what looked like a stop string, or half a character, is text."""
    tokenizer = Tokenizer.load(llama)
    after, tokens = chain_of(tokenizer, "xyST")
    engine = Engine(Chain(after), tokenizer, 1, 64)
    engine.add("x", tokens[:1], request(stop=["STP"]))
    assert outcome(drain(engine), "x") == ("yST", "stop")
    after, tokens = chain_of(tokenizer, "x猫")
    del after[tokens[2]]
    engine = Engine(Chain(after), tokenizer, 1, 64)
    engine.add("x", tokens[:1], request())
    assert outcome(drain(engine), "x") == (tokenizer.decode(tokens[1:3]), "stop")


def test_one_that_ends_at_once_tells_so(llama: Manifest) -> None:
    """An end token as the first gives one event without text or tokens."""
    engine = Engine(Chain({}), Tokenizer.load(llama), 1, 64)
    engine.add("x", [7], request())
    assert drain(engine) == [Event("x", "", 0, 0, "stop")]


def test_logits_that_are_not_finite_end_one_sequence(llama: Manifest) -> None:
    """A sequence whose logits become NaN ends with an error after what it had said; its neighbours end as they should."""
    tokenizer = Tokenizer.load(llama)
    after, tokens = chain_of(tokenizer, "abcdefgh")
    model = Chain(after, nan=tokens[5])
    engine = Engine(model, tokenizer, 3, 64)
    engine.add("bad", tokens[:1], request())
    engine.add("fine", tokens[:1], request(3))
    engine.add("bad at once", [tokens[5]], request())
    events = drain(engine)
    errors = {event.key: event.error for event in events if event.error}
    assert sorted(map(str, errors)) == ["bad", "bad at once"]
    assert "not finite" in str(errors["bad"])
    assert "".join(event.text for event in events if event.key == "bad") == "bcdef"
    assert outcome(events, "fine") == ("bcd", "length")


def test_a_step_that_raises_is_repeated_one_by_one(llama: Manifest) -> None:
    """A sequence that makes the common step raise ends with an error; the others lose no token and go on together."""
    tokenizer = Tokenizer.load(llama)
    after, tokens = chain_of(tokenizer, "abcdefgh")
    model = Chain(after, bomb=tokens[4])
    engine = Engine(model, tokenizer, 3, 64)
    engine.add("first", [tokens[5]], request())
    engine.add("bomb", [tokens[2]], request())
    engine.add("last", [tokens[0]], request(3))
    events = drain(engine)
    assert [event.error for event in events if event.key == "bomb"][-1] == "RuntimeError: boom"
    assert outcome(events, "first") == ("gh", "stop")
    assert outcome(events, "last") == ("bcd", "length")
    assert model.steps[:4] == [3, 3, 1, 1]


def test_a_prompt_that_raises_ends_its_own_sequence(llama: Manifest) -> None:
    """An exception while a prompt is read fails that sequence alone."""
    tokenizer = Tokenizer.load(llama)
    after, tokens = chain_of(tokenizer, "abcdefgh")
    engine = Engine(Chain(after, bomb=tokens[7]), tokenizer, 3, 64)
    engine.add("bomb", [tokens[7]], request())
    engine.add("fine", [tokens[5]], request(1))
    assert drain(engine) == [Event("bomb", "", 0, 0, "", "RuntimeError: boom"), Event("fine", "g", 1, 0, "length")]


def test_nan_in_a_slot_does_not_outlive_its_sequence(make_llama: Any) -> None:
    """After a sequence failed with NaN in its keys and values, a shorter one in the same slot generates as if alone."""
    manifest = make_llama("poisoned", vocab_size=321)
    engine = engine_of(manifest, slots=2)
    embedding = engine._model._embedding  # type: ignore[attr-defined]
    embedding[300] = float("nan")
    engine.add("bad", [5, 6, 7, 300, 300, 300], request())
    assert [event.error for event in engine.step()] == ["ArithmeticError: the model's logits are not finite"]
    engine.add("short", [8], request(20))
    engine.add("long", [9] * 12, request(20))
    events = drain(engine)
    assert not [event.error for event in events if event.error]
    assert outcome(events, "short") == alone(manifest, [8], request(20))


def test_nan_in_the_middle_of_a_prompt_is_found_at_once(make_llama: Any) -> None:
    """A prompt that is read in pieces fails at the piece that is not finite, and does not go on with NaN in its slot."""
    engine = engine_of(make_llama("poisoned", vocab_size=321), slots=2, prefill_tokens=2)
    engine._model._embedding[300] = float("nan")  # type: ignore[attr-defined]
    engine.add("bad", [5, 300, 6, 7, 8], request())
    assert [event.error for event in engine.step()] == ["ArithmeticError: the model's hidden states are not finite"]
    assert bool(torch.isfinite(engine.cache.keys).all())


def test_loading_gives_an_engine_that_knows_its_name(llama: Manifest) -> None:
    """What `loading` opens is an engine with the slots that were asked for and the model's whole context."""
    opened = open_model(llama, open_device("cpu:0/1"), Sizes(slots=5))
    assert isinstance(opened, Engine)
    assert (opened.slots, opened.context, opened.cache.slots) == (5, 96, 5)
    with pytest.raises(TooLong, match="'llama'"):
        opened.add("x", [5] * 96, request(1))
