"""Records put together at random of hostile values, and good records with bytes changed: an answer or a dead letter each."""

from __future__ import annotations

import json

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.schemas.base import JSON, MSGPACK
from tests.fuzz.material import (
    INPUT_FIELDS,
    JSON_VALUES,
    MSGPACK_VALUES,
    REQUEST_FIELDS,
    Fields,
    packed,
    packed_input,
    packed_request,
    written,
    written_input,
    written_request,
)
from tests.fuzz.pipeline import Pipeline

pytestmark = pytest.mark.may_block  # time is virtual and nothing else runs on the loop

DETERMINISTIC = settings(derandomize=True, max_examples=300, database=None)

kinds = st.sampled_from(sorted(INPUT_FIELDS))
small = [value for value in MSGPACK_VALUES.values() if len(value) < 5000]
small_json = [value for value in JSON_VALUES.values() if len(value) < 5000]


def some(names: tuple[str, ...], values: list[bytes]) -> st.SearchStrategy[Fields]:
    """A few of these fields with any of these values."""
    return st.dictionaries(st.sampled_from(names), st.sampled_from(values), max_size=4)


@given(
    some(REQUEST_FIELDS, small), kinds.flatmap(lambda kind: st.tuples(st.just(kind), some(INPUT_FIELDS[kind], small)))
)
@DETERMINISTIC
def test_several_hostile_values(pipeline: Pipeline, fields: Fields, body: tuple[str, Fields]) -> None:
    """In MessagePack."""
    kind, values = body
    pipeline.request(packed_request(kind, {"input": packed_input(kind, values), **fields}))


@given(
    some(REQUEST_FIELDS, small_json),
    kinds.flatmap(lambda kind: st.tuples(st.just(kind), some(INPUT_FIELDS[kind], small_json))),
)
@DETERMINISTIC
def test_several_hostile_values_in_json(pipeline: Pipeline, fields: Fields, body: tuple[str, Fields]) -> None:
    """In JSON."""
    kind, values = body
    pipeline.request(written_request(kind, {"input": written_input(kind, values), **fields}), JSON)


@given(some(REQUEST_FIELDS, small), some(REQUEST_FIELDS, small_json))
@DETERMINISTIC
def test_fields_alone(pipeline: Pipeline, fields: Fields, in_json: Fields) -> None:
    """Without what a request must have."""
    pipeline.request(packed(fields))
    pipeline.request(written(in_json), JSON)


@given(st.data(), kinds, st.sampled_from([MSGPACK, JSON]))
@DETERMINISTIC
def test_changed_bytes(pipeline: Pipeline, data: st.DataObject, kind: str, content_type: str) -> None:
    """A good record with some bytes replaced by others."""
    value = bytearray(packed_request(kind) if content_type == MSGPACK else written_request(kind))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(value)))
        value[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    pipeline.request(bytes(value), content_type)


@given(st.binary(max_size=200), st.sampled_from([MSGPACK, JSON]))
@DETERMINISTIC
def test_any_bytes(pipeline: Pipeline, value: bytes, content_type: str) -> None:
    """Nobody's record."""
    assert pipeline.request(value, content_type) != "done"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)


@given(st.sampled_from(REQUEST_FIELDS), json_values)
@DETERMINISTIC
def test_any_value_of_any_field(pipeline: Pipeline, field: str, value: object) -> None:
    """As an ordinary encoder writes it."""
    text = json.dumps(value).encode()
    pipeline.request(written_request("echo", {field: text}), JSON)
    try:
        packed_value = msgpack.packb(value, unicode_errors="surrogatepass")
    except OverflowError:
        return  # an integer that MessagePack has no room for
    pipeline.request(packed_request("echo", {field: packed_value}))
