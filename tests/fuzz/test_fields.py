"""Every field of a request and of every input, with every hostile value, in MessagePack and in JSON: each becomes an answer or
a dead letter within bounds, and the next request is served."""

from __future__ import annotations

import pytest

from llmos.schemas.base import JSON
from llmos.schemas.limits import REQUEST_BYTES, STOP_STRINGS
from llmos.schemas.requests import Request
from llmos.schemas.tasks import INPUTS as INPUT_TYPES
from tests.fuzz.material import (
    INPUT_FIELDS,
    JSON_VALUES,
    MANY,
    MSGPACK_VALUES,
    REQUEST_FIELDS,
    mp,
    packed_input,
    packed_request,
    written_input,
    written_request,
)
from tests.fuzz.pipeline import Pipeline

pytestmark = pytest.mark.may_block  # time is virtual and nothing else runs on the loop

INPUTS = [(kind, field) for kind, fields in INPUT_FIELDS.items() for field in fields]


def test_no_field_is_left_out() -> None:
    """A new field joins the lists above by itself or fails here."""
    assert {*Request.__struct_fields__, "type", "unknown"} == set(REQUEST_FIELDS)
    assert INPUT_FIELDS.keys() == INPUT_TYPES.keys()
    for kind, fields in INPUT_FIELDS.items():
        assert {*INPUT_TYPES[kind].__struct_fields__, "unknown"} == set(fields)


@pytest.mark.parametrize("kind", INPUT_TYPES)
def test_what_is_usual_is_done(pipeline: Pipeline, kind: str) -> None:
    """So that the others below fail for what was changed in them."""
    assert pipeline.request(packed_request(kind)) == "done"
    assert pipeline.request(written_request(kind), JSON) == "done"
    assert pipeline.request(packed_request(kind, {"payload": mp(packed_input(kind, {}))}, without="input")) == "done"


@pytest.mark.parametrize("field", REQUEST_FIELDS)
def test_fields_of_a_request(pipeline: Pipeline, field: str) -> None:
    """In MessagePack and JSON."""
    fates = [pipeline.request(packed_request("echo", {field: value})) for value in MSGPACK_VALUES.values()]
    fates += [pipeline.request(written_request("echo", {field: value}), JSON) for value in JSON_VALUES.values()]
    assert "dead" in fates


@pytest.mark.parametrize(("kind", "field"), INPUTS)
def test_fields_of_an_input(pipeline: Pipeline, kind: str, field: str) -> None:
    """Inline in MessagePack and JSON, and as a payload."""
    for value in MSGPACK_VALUES.values():
        body = packed_input(kind, {field: value})
        pipeline.request(packed_request(kind, {"input": body}))
        # As a payload nothing of it is looked at before verify, so that it is always answered.
        assert pipeline.request(packed_request(kind, {"payload": mp(body)}, without="input")) != "dead"
    for value in JSON_VALUES.values():
        pipeline.request(written_request(kind, {"input": written_input(kind, {field: value})}), JSON)


@pytest.mark.parametrize("kind", ["echo", "embed"])
def test_whole_inputs(pipeline: Pipeline, kind: str) -> None:
    """What is no input at all. (To `generate` any map is one: its prompt is empty.)"""
    for value in MSGPACK_VALUES.values():
        assert pipeline.request(packed_request(kind, {"input": value})) != "done"
        assert pipeline.request(packed_request(kind, {"payload": mp(value)}, without="input")) != "done"
    for value in JSON_VALUES.values():
        assert pipeline.request(written_request(kind, {"input": value}), JSON) != "done"


def test_whole_records(pipeline: Pipeline) -> None:
    """What is no request at all, in either content type, the other's too, and none."""
    for value in (*MSGPACK_VALUES.values(), *JSON_VALUES.values(), None, written_request()):
        assert pipeline.request(value) != "done"
    for value in (*JSON_VALUES.values(), *MSGPACK_VALUES.values(), None, packed_request()):
        assert pipeline.request(value, JSON) != "done"


@pytest.mark.parametrize(
    "size", [REQUEST_BYTES - 200, REQUEST_BYTES + 1, 8 * 1024 * 1024], ids=["just too large", "too large", "huge"]
)
def test_large_records(pipeline: Pipeline, size: int) -> None:
    """An answer where it can be read, else a letter."""
    assert pipeline.request(packed_request("echo", {"payload": mp(b"x" * (size - 200))}, without="input")) != "done"
    assert pipeline.request(b"\x91" * size) == "dead"
    assert pipeline.request(b"[" * size, JSON) == "dead"


@pytest.mark.parametrize("count", [STOP_STRINGS + 1, MANY])
def test_too_many_stop_strings(pipeline: Pipeline, count: int) -> None:
    """Refused by their number."""
    body = packed_input("generate", {"stop": mp(["s"] * count)})
    assert pipeline.request(packed_request("generate", {"input": body})) == "refused"


@pytest.mark.parametrize("submitted_at", [0.0, 1e-300, 1.0, 1e12, 4e9])
@pytest.mark.parametrize("timeout", [1e-300, 1e-9, 86_400.0])
def test_times_of_the_past_and_of_the_far_future(pipeline: Pipeline, submitted_at: float, timeout: float) -> None:
    """A time-out that is over before it began is taken as any other: the scheduler lets it expire."""
    fields = {"submitted_at": mp(submitted_at), "timeout": mp(timeout)}
    assert pipeline.request(packed_request("echo", fields)) == "done"


def test_many_headers(pipeline: Pipeline) -> None:
    """Content types of all sorts, by the thousand."""
    for headers in (
        (("content-type", b"\xff" * 10_000),),
        (("content-type", b"application/json" * 1000),),
        (("Content-Type", b"APPLICATION/JSON;charset=utf-8"),),
        (("content-type", b""),) * 1000,
        tuple((f"h{i}", b"x" * 100) for i in range(10_000)),
    ):
        pipeline.request(packed_request(), headers=headers)
        pipeline.request(b"\xc1", headers=headers)
