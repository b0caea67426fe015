"""What each kind reads, how it splits lists, and how large it says its answers may get."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from llmos.pipelines.kinds import KINDS, kind_named
from llmos.pipelines.kinds.base import chunks, items_of
from llmos.pipelines.kinds.generate import prompts_of
from llmos.schemas.base import JSON, MSGPACK
from llmos.schemas.errors import InvalidRequest, UnknownKind
from llmos.schemas.limits import ANSWER_BYTES, ITEMS, PAYLOAD_BYTES
from llmos.schemas.tasks import (
    INPUTS,
    ChatMessage,
    EchoInput,
    EchoOutput,
    EmbedInput,
    EmbedOutput,
    GenerateInput,
    GenerateOutput,
    Prompt,
    TokenLogprob,
    TopToken,
)


def words(prompts: Sequence[Prompt]) -> list[int]:
    """One token a word, and one a turn."""
    return [
        len(prompt.split()) if isinstance(prompt, str) else sum(len(message.content.split()) + 1 for message in prompt)
        for prompt in prompts
    ]


@pytest.mark.parametrize("encoding", [JSON, MSGPACK])
@pytest.mark.parametrize(
    ("kind", "body", "read"),
    [
        ("echo", {"text": "a"}, EchoInput(text="a")),
        ("echo", {"text": ["a", "b"]}, EchoInput(text=["a", "b"])),
        ("embed", {"text": "ä"}, EmbedInput(text="ä")),
        ("generate", {"prompt": "a"}, GenerateInput(prompt="a")),
        ("generate", {"prompt": ["a"], "max_tokens": 3, "temperature": 1}, GenerateInput(prompt=["a"], max_tokens=3, temperature=1.0)),
        ("generate", {"prompt": "", "stop": ["\n"], "of tomorrow": 1}, GenerateInput(prompt="", stop=["\n"])),
    ],
)  # fmt: skip
def test_read(kind: str, body: Any, read: msgspec.Struct, encoding: str) -> None:
    """Either encoding gives the same input; fields of tomorrow are ignored."""
    data = json.dumps(body).encode() if encoding == JSON else msgspec.msgpack.encode(body)
    assert kind_named(kind).read(data, encoding) == read


@pytest.mark.parametrize(
    ("kind", "body", "where"),
    [
        ("echo", {}, "input"),
        ("echo", {"text": 1}, "input.text"),
        ("echo", {"text": []}, "input.text"),
        ("echo", {"text": ["a"] * (ITEMS + 1)}, "input.text"),
        ("embed", {"text": ["a", None]}, "input.text[1]"),
        ("embed", ["a"], "input"),
        ("generate", {"prompt": 7}, "input.prompt"),
        ("generate", {"prompt": "a", "max_tokens": 0}, "input.max_tokens"),
        ("generate", {"prompt": "a", "max_tokens": 8193}, "input.max_tokens"),
        ("generate", {"prompt": "a", "temperature": -0.1}, "input.temperature"),
        ("generate", {"prompt": "a", "top_p": 0}, "input.top_p"),
        ("generate", {"prompt": "a", "seed": -1}, "input.seed"),
        ("generate", {"prompt": "a", "stop": [""]}, "input.stop[0]"),
        ("generate", {"prompt": "a", "stop": ["x"] * 17}, "input.stop"),
    ],
)
def test_what_is_wrong_is_named(kind: str, body: Any, where: str) -> None:
    """A refusal says which field is wrong, so that the client knows what to change."""
    with pytest.raises(InvalidRequest) as refused:
        kind_named(kind).read(msgspec.msgpack.encode(body), MSGPACK)
    assert refused.value.values["where"] == where


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", [b"", b"\xc1", b'{"text": ', b"\xff\xfe", b"[" * 5000], ids=range(5))
@pytest.mark.parametrize("encoding", [JSON, MSGPACK])
def test_rubbish_is_refused_not_raised(kind: str, body: bytes, encoding: str) -> None:
    """Whatever the bytes are, nothing but a refusal comes out, short enough to travel."""
    with pytest.raises(InvalidRequest) as refused:
        kind_named(kind).read(body, encoding)
    assert len(str(refused.value)) < 2048


def refusal(kind: str, data: bytes, encoding: str) -> InvalidRequest | None:
    """What is said of this input; nothing where it is taken."""
    try:
        kind_named(kind).read(data, encoding)
    except InvalidRequest as problem:
        return problem
    return None


CANARY = "canary' `$.x` \" - at `$.y`"
WRONG: list[Any] = [
    CANARY, [CANARY], [CANARY, 1], {CANARY: CANARY}, {CANARY: {CANARY: 1}}, [{"role": CANARY, "content": CANARY}],
    [{"role": "user", "content": [CANARY]}], [{CANARY: CANARY}], [CANARY] * 2000, [[CANARY]], 1.5, -1, None, True, CANARY * 50,
]  # fmt: skip


@pytest.mark.parametrize("encoding", [JSON, MSGPACK])
@pytest.mark.parametrize(
    ("kind", "field"), [(kind, field) for kind, type_ in INPUTS.items() for field in type_.__struct_fields__]
)
def test_what_is_wrong_is_never_quoted(kind: str, field: str, encoding: str) -> None:
    """Whatever stands in whichever field of whichever kind: the refusal says where, and nothing of what was there."""
    encode = json.dumps if encoding == JSON else msgspec.msgpack.encode
    found = []
    for value in [*WRONG, {field: CANARY}]:
        for body in ({field: value}, {field: value, "text": CANARY, "prompt": CANARY}, {CANARY: 1, field: value}):
            data = encode(body)
            found.append(refusal(kind, data.encode() if isinstance(data, str) else data, encoding))
    refused = [problem for problem in found if problem is not None]
    assert len(refused) > len(WRONG)
    assert "canary" not in "".join(map(str, refused))
    assert all(str(problem.values["where"]).startswith("input") for problem in refused)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoding", [JSON, MSGPACK])
def test_a_cut_or_garbled_input_is_never_quoted(kind: str, encoding: str) -> None:
    """Cut anywhere, or with any byte replaced by one that no UTF-8 has."""
    body = {"text": ["canary", "canary"], "prompt": ["canary"], "stop": ["canary"]}
    data = json.dumps(body).encode() if encoding == JSON else msgspec.msgpack.encode(body)
    found = [
        refusal(kind, broken, encoding)
        for at in range(len(data))
        for broken in (data[:at], data[:at] + b"\xff" + data[at + 1 :])
    ]
    assert sum(problem is not None for problem in found) > len(data)
    assert "canary" not in "".join(map(str, found))


def test_an_unknown_kind_is_told_the_known_ones() -> None:
    """All kinds of the schema are here, and the refusal lists them."""
    assert set(KINDS) == set(INPUTS)
    with pytest.raises(UnknownKind, match=r"'dance'.*echo, embed, generate"):
        kind_named("dance")


@pytest.mark.parametrize("kind", ["echo", "embed"])
@pytest.mark.parametrize(
    ("count", "size", "pieces"),
    [(1, 3, [(0, 1)]), (3, 3, [(0, 3)]), (4, 3, [(0, 3), (3, 1)]), (7, 2, [(0, 2), (2, 2), (4, 2), (6, 1)])],
)
def test_lists_are_split_in_pieces(kind: str, count: int, size: int, pieces: list[tuple[int, int]]) -> None:
    """Pieces of at most so many items, in order, each with its own texts and tokens."""
    texts = [f"w {'x ' * i}" for i in range(count)]
    plans = kind_named(kind).plan(INPUTS[kind](text=texts), words, size)
    assert [(plan.first_item, plan.items) for plan in plans] == pieces
    bodies = [msgspec.msgpack.decode(plan.body, type=INPUTS[kind]).text for plan in plans]  # type: ignore[attr-defined]
    assert [text for body in bodies for text in body] == texts
    tokens = [sum(words(body)) if kind == "embed" else 0 for body in bodies]
    assert [plan.input_tokens for plan in plans] == tokens


def test_every_prompt_is_a_part() -> None:
    """Prompts spread over devices; each part keeps the settings, and says what its longest item needs."""
    request = GenerateInput(prompt=["a b", "", "c d e"], max_tokens=10, temperature=0.5, seed=7, stop=["."])
    plans = KINDS["generate"].plan(request, words, 99)
    assert [(p.first_item, p.items, p.input_tokens, p.max_output_tokens) for p in plans] == [
        (0, 1, 2, 10),
        (1, 1, 0, 10),
        (2, 1, 3, 10),
    ]
    assert [p.longest_item_tokens for p in plans] == [12, 11, 13], "an empty prompt becomes one token"
    bodies = [msgspec.msgpack.decode(p.body, type=GenerateInput) for p in plans]
    assert bodies == [msgspec.structs.replace(request, prompt=[prompt]) for prompt in ("a b", "", "c d e")]


def test_outputs_of_a_prompt_are_items_of_its_part() -> None:
    """Those of one prompt follow one another, so that item i·n + k is the k-th of prompt i."""
    request = GenerateInput(prompt=["a b", "c"], max_tokens=10, n=3)
    plans = KINDS["generate"].plan(request, words, 99)
    assert [(p.first_item, p.items, p.max_output_tokens, p.longest_item_tokens) for p in plans] == [
        (0, 3, 30, 12),
        (3, 3, 30, 11),
    ]
    assert [prompts_of(msgspec.msgpack.decode(p.body, type=GenerateInput)) for p in plans] == [["a b"], ["c"]]


def test_a_conversation_is_one_prompt() -> None:
    """It is counted as a whole, and travels as it came."""
    turns = [ChatMessage(role="system", content="be brief"), ChatMessage(role="user", content="what is it")]
    request = GenerateInput(messages=turns, max_tokens=5, n=2)
    (plan,) = KINDS["generate"].plan(request, words, 99)
    assert (plan.items, plan.input_tokens, plan.longest_item_tokens) == (2, 7, 12)
    assert prompts_of(msgspec.msgpack.decode(plan.body, type=GenerateInput)) == [turns]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "input.messages"),
        ({"prompt": ["a"], "messages": [{"role": "user", "content": "b"}]}, "input.messages"),
        ({"messages": [{"role": "nobody", "content": "b"}]}, "input.messages[0].role"),
        ({"messages": [{"role": "user"}]}, "input.messages[0]"),
        ({"prompt": ["a"] * 9, "n": 128}, "input.n"),
        ({"prompt": "a", "n": 0}, "input.n"),
        ({"prompt": "a", "min_p": 2}, "input.min_p"),
        ({"prompt": "a", "repetition_penalty": 0}, "input.repetition_penalty"),
        ({"prompt": "a", "logprobs": 21}, "input.logprobs"),
    ],
)
def test_what_is_wrong_with_a_generation_is_named(body: dict[str, Any], where: str) -> None:
    """A prompt and a conversation are one too many; more outputs than a list may have items are, too."""
    with pytest.raises(InvalidRequest) as refused:
        KINDS["generate"].read(msgspec.msgpack.encode(body), MSGPACK)
    assert refused.value.values["where"] == where


def test_nothing_at_all_is_an_empty_prompt() -> None:
    """Which begins from the model's own first token."""
    request = KINDS["generate"].read(msgspec.msgpack.encode({}), MSGPACK)
    assert prompts_of(request) == [""]


@pytest.mark.parametrize(
    ("kind", "request_", "width", "output"),
    [
        ("echo", EchoInput(text=["ä" * 50, ""]), 0, [EchoOutput(text="ä" * 50), EchoOutput(text="")]),
        ("embed", EmbedInput(text=["a", "b"]), 384, [EmbedOutput(embedding=[0.1] * 384)] * 2),
        ("embed", EmbedInput(text="a"), 0, [EmbedOutput(embedding=[0.1] * 4096)]),
        (
            "generate", GenerateInput(prompt=["a", "b"], max_tokens=50), 0,
            [GenerateOutput(text="😀" * 50, finish="length", tokens=50)] * 2,
        ),
        (
            "generate", GenerateInput(prompt="a", max_tokens=50, n=3, logprobs=5), 0,
            [GenerateOutput(text="😀" * 50, finish="length", tokens=50, logprobs=[
                TokenLogprob(token=200_000, text=" pneumonia", logprob=-1.5, top=[TopToken(200_000, " pneumonia", -1.5)] * 5)
            ] * 50)] * 3,
        ),
    ],
)  # fmt: skip
def test_answers_are_never_larger_than_was_said(
    kind: str, request_: Any, width: int, output: list[msgspec.Struct]
) -> None:
    """The estimate is an upper one: true outputs of full length fit in it."""
    plans = KINDS[kind].plan(request_, words, 32)
    said = KINDS[kind].answer_bytes(request_, plans, width)
    assert sum(len(msgspec.msgpack.encode(item)) for item in output) <= said <= ANSWER_BYTES


def test_what_cannot_fit_an_answer_is_seen_before_it_runs() -> None:
    """A full list of wide embeddings or of the longest continuations is larger than an answer; an echo never is."""
    everything = ["x"] * ITEMS
    embed = EmbedInput(text=everything)
    assert KINDS["embed"].answer_bytes(embed, KINDS["embed"].plan(embed, words, 32), 1024) > ANSWER_BYTES
    generate = GenerateInput(prompt=everything, max_tokens=8192)
    assert KINDS["generate"].answer_bytes(generate, KINDS["generate"].plan(generate, words, 1), 0) > ANSWER_BYTES
    echo = EchoInput(text=["x" * (PAYLOAD_BYTES // ITEMS)] * ITEMS)
    assert KINDS["echo"].answer_bytes(echo, KINDS["echo"].plan(echo, words, 64), 0) < ANSWER_BYTES


def test_one_text_or_many() -> None:
    """A single text is a list of one, and a list is itself; pieces of nothing are no pieces."""
    assert (items_of("ab"), items_of(["a", "b"])) == (["ab"], ["a", "b"])
    assert (chunks(0, 3), chunks(2, 3)) == ([], [(0, 2)])
