"""The wire stays readable: golden bytes of every message, and what a bare `msgpack` package makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest

from llmos.schemas.base import Codec, Message, encode
from llmos.schemas.requests import Metadata
from tests.unit.schemas import golden
from tests.unit.schemas.catalogue import codecs, messages, tag, values

RECORDED = golden.recorded()
FREE_KEYS = {"input", "body", "lanes", "tenants", "waiting", "held"}
"""Fields whose maps have keys of the sender's choice."""


def codec_for(message: Message) -> Codec:
    """Some codec that knows this message."""
    return next(codec for codec in codecs().values() if type(message) in codec.types)


def test_every_message_has_a_golden_record() -> None:
    """No message class is without one, no record is without its value, and each is under its own `type`."""
    assert {type(value) for value in golden.VALUES.values()} == set(messages())
    assert set(golden.VALUES) == set(RECORDED)
    for name, value in golden.VALUES.items():
        assert name.split(" ")[0] == tag(type(value))


def test_golden_records_show_every_field() -> None:
    """Each field of each message and value is written at least once with something else than its default."""
    shown: set[tuple[type, str]] = set()

    def visit(value: Any) -> None:
        if isinstance(value, msgspec.Struct):
            for field in msgspec.structs.fields(value):
                found = getattr(value, field.name)
                if found != _default(field):
                    shown.add((type(value), field.name))
                visit(found)
        elif isinstance(value, list | tuple):
            for item in value:
                visit(item)

    for value in golden.VALUES.values():
        visit(value)
    apart = ("llmos.schemas.tasks", "llmos.schemas.dead")
    inside = [kind for kind in values() if kind.__module__ not in apart and kind is not Metadata]  # it travels as bytes
    wanted = {(kind, field) for kind in [*messages(), *inside] for field in kind.__struct_fields__}
    assert wanted - shown == set()


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


@pytest.mark.parametrize("name", golden.VALUES)
def test_golden_bytes_are_read_and_written_the_same(name: str) -> None:
    """The recorded bytes become the expected value, and the value the recorded map, its fields in the same order.

    Not the very bytes: msgspec makes a map's header as long as all fields of the struct need, so a field that is added
    later may lengthen it.
    """
    value = golden.VALUES[name]
    assert codec_for(value).decode(RECORDED[name]) == value
    assert list(msgpack.unpackb(encode(value)).items()) == list(msgpack.unpackb(RECORDED[name]).items())


@pytest.mark.parametrize("name", golden.VALUES)
def test_a_bare_msgpack_client_reads_and_writes_every_message(name: str) -> None:
    """Without our code a record is a plain map with `type`; what such a client writes is the same message to us."""
    value = golden.VALUES[name]
    plain = msgpack.unpackb(RECORDED[name])
    assert plain["type"] == tag(type(value))
    assert plain.keys() - {"type"} <= set(type(value).__struct_fields__)
    backwards = dict(reversed(plain.items()))
    assert codec_for(value).decode(msgpack.packb(backwards)) == value


@pytest.mark.parametrize("name", golden.VALUES)
def test_fields_of_a_newer_minor_version_are_passed_over(name: str) -> None:
    """A field we do not know, in the message or in any value inside of it, changes nothing for us."""
    value = golden.VALUES[name]
    newer = _with_news(msgpack.unpackb(RECORDED[name]))
    assert newer["a_new_field"] == {"deep": [1, None]}
    assert codec_for(value).decode(msgpack.packb(newer)) == value


def _with_news(plain: Any) -> Any:
    if isinstance(plain, dict):
        kept = {key: item if key in FREE_KEYS else _with_news(item) for key, item in plain.items()}
        return kept | {"a_new_field": {"deep": [1, None]}}
    if isinstance(plain, list):
        return [_with_news(item) for item in plain]
    return plain


@pytest.mark.parametrize("name", ["work/1", "outcome/1", "answer/1"])
def test_values_written_as_arrays_may_grow_at_their_end(name: str) -> None:
    """An origin or a task with one more element is read as it was."""
    value = golden.VALUES[name]
    plain = msgpack.unpackb(RECORDED[name])
    for field in ("task", "origin", "original"):
        if field in plain:
            plain[field].append("new")
    assert codec_for(value).decode(msgpack.packb(plain)) == value


def test_the_script_adds_and_never_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run again, bytes that are there stay, also where today's code would write others; missing ones are added."""
    file = tmp_path / "golden.json"
    monkeypatch.setattr(golden, "FILE", file)
    file.write_text('{"request/1": "00"}')
    golden.main()
    written = {name: encode(value) for name, value in golden.VALUES.items()}
    assert golden.recorded() == written | {"request/1": b"\x00"}
