"""Many sequences generate together, and each gets what it would get alone, whatever joins or leaves beside it."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from transformers import LlamaForCausalLM

from llmos.pipelines.engine.decoder import Engine
from llmos.pipelines.engine.device import open_device
from llmos.pipelines.engine.loading import Sizes, open_model
from llmos.pipelines.engine.sequences import Event
from llmos.pipelines.models.manifest import Manifest
from llmos.pipelines.models.tokenizer import Tokenizer
from llmos.schemas.errors import InvalidRequest, TooLong
from tests.unit.pipelines.engine.chains import Chain, alone, chain_engine, chain_of, drain, engine_of, outcome, request

PROMPTS = ["the a of the q", "be", "to be in it and the r of it", "and", "the h of the z and to be in", "in"]


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


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.9, "top_p": 0.95, "seed": 11}], ids=["greedy", "drawn"])
def test_alone_the_same_request_gives_the_same_tokens(llama: Manifest, fields: dict[str, float]) -> None:
    """On one device, to the last bit: also when the engine has run others before, and its cache has another shape."""
    asked = request(40, logprobs=4, **fields)
    used, told = engine_of(llama, slots=4, prefill_tokens=16), []
    for turn in range(3):
        used.add("x", PROMPTS[4], asked)
        told.append([one for event in drain(used) for one in event.logprobs])
        for key in range(turn + 1):
            used.add(key, PROMPTS[key], request(9, temperature=1.0))
        drain(used)
    fresh = engine_of(llama, slots=2, prefill_tokens=16)
    fresh.add("x", PROMPTS[4], asked)
    told.append([one for event in drain(fresh) for one in event.logprobs])
    assert told[0] == told[1] == told[2] == told[3]
    assert told[0]


def test_a_step_reads_a_bounded_piece_of_the_prompts(llama: Manifest) -> None:
    """A long prompt is read over several steps, in which a sequence that decodes gets a token each."""
    engine = engine_of(llama, slots=3, prefill_tokens=8)
    engine.add("quick", [5], request(10, temperature=1.0, seed=1))
    engine.step()
    engine.add("long", list(range(10, 30)), request(1))
    engine.add("later", [6, 7], request(1))
    told = [Counter({event.key: event.tokens for event in engine.step() if event.finish}) for _ in range(4)]
    assert [sorted(each) for each in told] == [[], [], ["long"], ["later"]]
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
    with pytest.raises(ValueError, match="no room: slots 3 of 2"):
        engine.add("z", [5], request())


def test_an_empty_prompt_begins_from_the_first_token(llama: Manifest) -> None:
    """No text at all is continued from the token that begins texts."""
    assert alone(llama, "", request(8)) == alone(llama, [0], request(8))


def test_events_joined_are_the_whole_text(llama: Manifest) -> None:
    """Characters of several tokens and stop strings over token borders come out whole, and the stop string is cut off."""
    tokenizer = Tokenizer.load(llama)
    after, tokens = chain_of(tokenizer, "xé猫yzSTP!")
    engine = chain_engine(Chain(after), tokenizer, 2)
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
    engine = chain_engine(Chain(after), tokenizer, 1)
    engine.add("x", tokens[:1], request(3, stop=["STP"]))
    assert outcome(drain(engine), "x") == ("yST", "length")
    after, tokens = chain_of(tokenizer, "x猫")
    engine = chain_engine(Chain(after), tokenizer, 1)
    engine.add("x", tokens[:1], request(2))
    assert outcome(drain(engine), "x")[0] == tokenizer.decode(tokens[1:3])


def test_text_held_back_comes_out_at_an_end_token(llama: Manifest) -> None:
    """The same where the model ends the text by itself: what looked like a stop string, or half a character, is text."""
    tokenizer = Tokenizer.load(llama)
    after, tokens = chain_of(tokenizer, "xyST")
    engine = chain_engine(Chain(after), tokenizer, 1)
    engine.add("x", tokens[:1], request(stop=["STP"]))
    assert outcome(drain(engine), "x") == ("yST", "stop")
    after, tokens = chain_of(tokenizer, "x猫")
    del after[tokens[2]]
    engine = chain_engine(Chain(after), tokenizer, 1)
    engine.add("x", tokens[:1], request())
    assert outcome(drain(engine), "x") == (tokenizer.decode(tokens[1:3]), "stop")


def test_one_that_ends_at_once_tells_so(llama: Manifest) -> None:
    """An end token as the first gives one event without text or tokens."""
    engine = chain_engine(Chain({}), Tokenizer.load(llama), 1)
    engine.add("x", [7], request())
    assert drain(engine) == [Event("x", "", 0, 0, "stop")]


def test_loading_gives_an_engine_that_knows_its_name(llama: Manifest) -> None:
    """What `loading` opens is an engine with the slots that were asked for and the model's whole context."""
    opened = open_model(llama, open_device("cpu:0/1"), Sizes(slots=5))
    assert isinstance(opened, Engine)
    assert (opened.slots, opened.context, opened.cache.most) == (5, 96, (5, 96))
    with pytest.raises(TooLong, match="'llama'"):
        opened.add("x", [5] * 96, request(1))
