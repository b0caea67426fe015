"""What is read from a command line: overrides, texts, inputs, where settings came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmos.cli.inputs import KindChoice, input_of, texts_of
from llmos.cli.origins import rows
from llmos.cli.overrides import parse_overrides
from llmos.infra.settings import load
from llmos.schemas.errors import BadSetting, InvalidRequest
from llmos.schemas.tasks import EchoInput, EmbedInput, GenerateInput


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
        (["a", "b"], ["never read"], ["a", "b"]),
        (["-"], ["one\n", "\n", " two \n", "three"], ["one", " two ", "three"]),
        (["first", "-"], ["x\n"], ["first", "x"]),
    ],
)
def test_a_dash_stands_for_the_lines_of_standard_input(words: list[str], lines: list[str], texts: list[str]) -> None:
    """Empty lines are left out, others are taken as they are."""
    assert texts_of(words, lines) == texts


def test_no_text_is_refused() -> None:
    """An empty standard input makes no job."""
    with pytest.raises(InvalidRequest):
        texts_of(["-"], ["\n"])


@pytest.mark.parametrize(
    ("kind", "texts", "found"),
    [
        (KindChoice.GENERATE, ["a"], GenerateInput(prompt="a", max_tokens=5, temperature=0.5, seed=1, stop=["."])),
        (KindChoice.EMBED, ["a", "b"], EmbedInput(text=["a", "b"])),
        (KindChoice.ECHO, ["a"], EchoInput(text="a")),
    ],
)
def test_one_text_is_a_text_and_several_are_a_list(kind: KindChoice, texts: list[str], found: Any) -> None:
    """The input is that of the kind."""
    assert input_of(kind, texts, max_tokens=5, temperature=0.5, seed=1, stop=["."]) == found
