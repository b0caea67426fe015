"""Validators' messages in words."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta
from pydantic import BaseModel, Field, ValidationError

from llmos.infra.wording import in_words


class Of(msgspec.Struct, forbid_unknown_fields=True):
    """What is read."""

    count: Annotated[int, Meta(ge=1, le=9)] = 1
    share: Annotated[float, Meta(gt=0)] = 1.0
    name: Annotated[str, Meta(max_length=3, pattern="^[a-z]*$")] = ""
    key: bytes = b""
    lane: Literal["a", "b"] = "a"
    inner: list[Of] = []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"count": 0}', "count must be at least 1"),
        ('{"count": 10}', "count must be at most 9"),
        ('{"count": "x"}', "count must be a whole number and is text"),
        ('{"share": 0}', "share must be above 0"),
        ('{"name": "long"}', "name must have at most 3 characters"),
        ('{"name": "A"}', "name has a character, or a form, that it may not have"),
        ('{"key": "%"}', "key must be base64"),
        ('{"lane": "c"}', "lane is 'c', which it cannot be"),
        ('{"inner": [{"count": 0}]}', "inner[0].count must be at least 1"),
        ('{"more": 0}', "has a field more, which does not belong there"),
        ("{", "it ends too early"),
        ("?", "it is not JSON (at byte 0)"),
        ("[]", "must be an object and is a list"),
    ],
)
def test_of_msgspec(text: str, words: str) -> None:
    """Which field, and what it must be."""
    with pytest.raises(msgspec.DecodeError) as caught:
        msgspec.json.decode(text, type=Of)
    assert in_words(caught.value) == words


class Setting(BaseModel):
    """One of each."""

    whole: int = Field(default=1, ge=1, lt=10)
    number: float = 1.0
    truth: bool = True
    word: Literal["a", "b"] = "a"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"whole": "x"}, "it must be a whole number"),
        ({"whole": 0}, "it must be at least 1"),
        ({"whole": 10}, "it must be below 10"),
        ({"number": "x"}, "it must be a number"),
        ({"truth": "x"}, "it must be true or false"),
        ({"word": "c"}, "it must be 'a' or 'b'"),
    ],
)
def test_of_pydantic(given: dict[str, Any], words: str) -> None:
    """The same for settings."""
    with pytest.raises(ValidationError) as caught:
        Setting(**given)
    assert in_words(caught.value.errors()[0]["msg"]) == words


def test_what_is_none_of_theirs_stays() -> None:
    """Sentences of llmos, among others."""
    assert in_words("it is empty") == "it is empty"
