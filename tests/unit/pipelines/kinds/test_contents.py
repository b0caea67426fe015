"""What an input asks for beside the defaults: all of it for the digest, its numbers for the receipt."""

from __future__ import annotations

import msgspec
import pytest

from llmos.pipelines.kinds.contents import content_of, options_of
from llmos.schemas.job import Option
from llmos.schemas.tasks import INPUTS, ChatMessage, EchoInput, EmbedInput, GenerateInput


def test_content_is_what_differs_from_the_defaults() -> None:
    """Whether a default was written out or not."""
    request = GenerateInput(prompt="a", temperature=0.0, max_tokens=64, stop=[], seed=3)
    assert content_of(request) == {"prompt": "a", "seed": 3}
    assert content_of(EchoInput(text=["a"])) == {"text": ["a"]}


@pytest.mark.parametrize(
    ("request_", "options"),
    [
        (GenerateInput(prompt="a"), {}),
        (GenerateInput(prompt="a", max_tokens=64, temperature=0.0), {}),
        (GenerateInput(prompt="a", max_tokens=9, temperature=0.5, n=2), {"max_tokens": 9, "temperature": 0.5, "n": 2}),
        (GenerateInput(prompt="a", logprobs=0), {"logprobs": 0}),
        (GenerateInput(prompt="a", seed=2**63 - 1), {"seed": 2.0**63}),
        (GenerateInput(prompt=["a"], stop=["secret"]), {}),
        (GenerateInput(messages=[ChatMessage(role="user", content="secret")]), {}),
        (EchoInput(text="7"), {}),
        (EmbedInput(text=["7"]), {}),
    ],
)  # fmt: skip
def test_options_are_numbers_alone(request_: msgspec.Struct, options: dict[str, float]) -> None:
    """As floats; what was not asked for is not told, and no text ever is."""
    assert {option.name: option.value for option in options_of(request_)} == options
    assert all(type(option.value) is float for option in options_of(request_))


def test_every_option_fits_its_field() -> None:
    """All numbers of all kinds at once, written and read again."""
    for kind in INPUTS.values():
        names = [field.name for field in msgspec.structs.fields(kind)]
        written = msgspec.msgpack.encode([Option(name, 1.0) for name in names])
        assert [option.name for option in msgspec.msgpack.decode(written, type=list[Option])] == names
