"""What is read from a command line: overrides, texts, inputs, where settings came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from llmos.cli.inputs import in_words_of_flags, input_of, messages_of, texts_of
from llmos.cli.origins import rows
from llmos.cli.overrides import parse_overrides
from llmos.infra.settings import load
from llmos.pipelines.kinds import KINDS
from llmos.schemas.errors import BadSetting, InvalidRequest
from llmos.schemas.tasks import INPUTS, OUTPUTS, ChatMessage, EchoInput, EmbedInput, GenerateInput, KindName


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ([], {}),
        (["worker.slots=3"], {"worker": {"slots": "3"}}),
        (["a.b=1", "a.c=2", "d=x=y"], {"a": {"b": "1", "c": "2"}, "d": "x=y"}),
        (['node.models_directories=["/m"]'], {"node": {"models_directories": ["/m"]}}),
        (["kafka.bootstrap="], {"kafka": {"bootstrap": ""}}),
    ],
)
def test_settings_are_nested_by_their_dots(texts: list[str], found: dict[str, Any]) -> None:
    """Values stay text, which the tree reads; lists are JSON."""
    assert parse_overrides(texts) == found


@pytest.mark.parametrize("texts", [["worker.slots"], ["=3"], ["a=1", "a.b=2"], ["a=[1"]])
def test_what_sets_nothing_is_refused(texts: list[str]) -> None:
    """A slip is told with its text."""
    with pytest.raises(BadSetting):
        parse_overrides(texts)


def test_each_setting_says_where_it_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags win over the environment, the environment over the file, the file over the default."""
    file = tmp_path / "llmos.toml"
    file.write_text("[worker]\nslots = 5\nembed_batch = 6\n[kafka]\npartitions = 4\n")
    environment = {
        "LLMOS_CONFIG": str(file),
        "LLMOS_WORKER__SLOTS": "7",
        "LLMOS_KAFKA__PARTITIONS": "16",
        "LLMOS_REDIS": '{"prefix": "x:"}',
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    overrides = parse_overrides(["kafka.partitions=2"])
    found = {row.name: (row.value, row.origin) for row in rows(load(**overrides), overrides, environment, file)}
    assert found["kafka.partitions"] == (2, "flag")
    assert found["worker.slots"] == (7, "environment LLMOS_WORKER__SLOTS")
    assert found["redis.prefix"] == ("x:", "environment LLMOS_REDIS")
    assert found["worker.embed_batch"] == (6, f"file {file}")
    assert found["redis.url"] == ("", "default")


@pytest.mark.parametrize(
    ("words", "lines", "texts"),
    [
        (["a", "b"], [b"never read"], ["a", "b"]),
        (["-"], [b"one\n", b"\n", b" two \r\n", "drei ü".encode()], ["one", "", " two ", "drei ü"]),
        (["first", "-"], [b"x\n"], ["first", "x"]),
    ],
)
def test_a_dash_stands_for_the_lines_of_standard_input(words: list[str], lines: list[bytes], texts: list[str]) -> None:
    """Each line is one text, as it is, so that outputs match lines; also where it is empty."""
    assert texts_of(words, lines) == texts


@pytest.mark.parametrize(
    ("words", "lines", "problem"),
    [
        (["-"], [], "there is no text"),
        (["-"], [b"good\n", b"b\xe4d\n"], "line 2 of standard input: it is not UTF-8"),
        (["b\udce4d"], [], "TEXT: it is not UTF-8"),
    ],
)
def test_what_is_no_text_is_refused(words: list[str], lines: list[bytes], problem: str) -> None:
    """An empty standard input makes no job, and bytes that are no text are told with their place."""
    with pytest.raises(InvalidRequest, match=problem):
        texts_of(words, lines)


OPTIONS = {"max_tokens": 5, "temperature": 0.5, "seed": 1, "stop": None}


@pytest.mark.parametrize(
    ("kind", "texts", "more", "found"),
    [
        ("generate", ["a"], [], GenerateInput(prompt="a", max_tokens=5, temperature=0.5, seed=1)),
        (
            "generate",
            ["a"],
            ["top_k=3", 'stop=["."]'],
            GenerateInput(prompt="a", max_tokens=5, temperature=0.5, seed=1, top_k=3, stop=["."]),
        ),
        ("embed", ["a", "b"], [], EmbedInput(text=["a", "b"])),
        ("echo", ["a"], [], EchoInput(text="a")),
        ("echo", ["a"], ["text=b"], EchoInput(text="b")),
    ],
)
def test_one_text_is_a_text_and_several_are_a_list(kind: str, texts: list[str], more: list[str], found: Any) -> None:
    """The input is that of the kind, with the flags that it knows."""
    assert input_of(kind, texts, OPTIONS, more) == found


def test_a_conversation_takes_the_place_of_a_text() -> None:
    """Turns are the user's unless they name a role; what is no role belongs to the text."""
    messages = messages_of("be brief", ["hi", "assistant:yes?", "user:user: x", "note: y"])
    assert input_of("generate", [], {**OPTIONS, "messages": messages, "n": 2}) == GenerateInput(
        messages=[
            ChatMessage(role="system", content="be brief"),
            ChatMessage(role="user", content="hi"),
            ChatMessage(role="assistant", content="yes?"),
            ChatMessage(role="user", content="user: x"),
            ChatMessage(role="user", content="note: y"),
        ],
        max_tokens=5, temperature=0.5, seed=1, n=2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "texts", "problem"), [("embed", [], "no conversation"), ("generate", ["a"], "a text")]
)
def test_a_conversation_is_for_generate_and_alone(kind: str, texts: list[str], problem: str) -> None:
    """The flag is named where it does not fit."""
    with pytest.raises(InvalidRequest, match=problem):
        input_of(kind, texts, {"messages": messages_of(None, ["hi"])})


def test_a_new_kind_needs_no_change_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The texts go to its field `text` or `prompt`, else to its first one; the rest is set by name."""
    for name in ("text", "question"):
        kind = msgspec.defstruct("New", [*([("before", int, 0)] if name == "text" else []), (name, str), ("k", int, 1)],
                                 kw_only=True)  # fmt: skip
        monkeypatch.setitem(INPUTS, "new", kind)
        assert msgspec.structs.asdict(input_of("new", ["a"], OPTIONS, ["k=7"])).items() >= {name: "a", "k": 7}.items()


@pytest.mark.parametrize(
    ("options", "more", "problem"),
    [
        ({"max_tokens": 0}, [], "--max-tokens: must be at least 1"),
        ({}, ["top_k=x"], "--top-k: must be a whole number and is text"),
        ({}, ["nothing=1"], "generate has prompt, messages, max_tokens"),
        ({}, ["top_k"], "name=value"),
    ],
)
def test_what_the_kind_does_not_take_is_told_with_its_flag(options: Any, more: list[str], problem: str) -> None:
    """Not with a path into a message."""
    with pytest.raises(InvalidRequest) as caught:
        input_of("generate", ["a"], options, more)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (
            "Expected `str` of length <= 64 - at `$.idempotency_key`",
            "at --idempotency-key: must have at most 64 characters.",
        ),
        ("it is empty", "at the request: it is empty."),
    ],
)
def test_a_refused_field_is_told_with_its_flag(problem: str, text: str) -> None:
    """A problem of the request as a whole stays as it is."""
    assert text in str(in_words_of_flags(InvalidRequest(where="the request", problem=problem)))


def test_kinds_are_the_same_everywhere() -> None:
    """A kind has a name, an input, an output and a place in the registry, or is none."""
    assert set(get_args(KindName)) == set(INPUTS) == set(OUTPUTS) == set(KINDS)
