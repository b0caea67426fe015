"""What a codec says to a record that is not one of its messages: a typed error, quickly, whatever the bytes."""

from __future__ import annotations

import json
import tracemalloc

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.pipelines.kinds.base import read_input
from llmos.schemas.base import JSON, MSGPACK, Codec
from llmos.schemas.errors import InvalidRequest, Malformed, Oversized, RecordError, UnknownVersion
from llmos.schemas.limits import RECORD_BYTES
from llmos.schemas.requests import REQUESTS, Request
from llmos.schemas.results import RESULTS
from llmos.schemas.tasks import INPUTS
from tests.unit.schemas import golden
from tests.unit.schemas.catalogue import codecs, tag

CODECS = codecs()
RECORDED = golden.recorded()
PLAIN = {"type": "request/1", "request_id": "r", "tenant": "t", "kind": "echo"}
HUGE = {
    "array": b"\xdd\xff\xff\xff\xff",
    "map": b"\xdf\xff\xff\xff\xff",
    "text": b"\xdb\xff\xff\xff\xff",
    "bytes": b"\xc6\xff\xff\xff\xff",
    "extension": b"\xc9\xff\xff\xff\xff\x01",
}
"""The heads of MessagePack values that say they have 2**32 - 1 elements or bytes."""


def pairs(**fields: bytes) -> bytes:
    """A MessagePack map of fields that are bytes already."""
    return bytes([0x80 | len(fields)]) + b"".join(msgpack.packb(name) + value for name, value in fields.items())


def started(**more: bytes) -> bytes:
    """A request, well-formed up to the fields of `more`."""
    return pairs(**{name: msgpack.packb(value) for name, value in PLAIN.items()}, **more)


def decode_or_refuse(codec: Codec, data: bytes, content_type: str = MSGPACK) -> None:
    """Decodes; a record error is an answer too, anything else fails the test."""
    try:
        result = codec.decode(data, content_type)
    except RecordError as refused:
        result = refused
    assert isinstance(result, codec.types) or len(str(result)) < 1000


def test_json_requests_are_requests() -> None:
    """JSON says the same as MessagePack; bytes are base64, and the input stays as it was written."""
    text = json.dumps({**PLAIN, "payload": "AP8=", "crc32c": 7, "timeout": 60, "input": {"text": "né"}, "news": [1]})
    found = REQUESTS.decode(text.encode(), JSON)
    assert isinstance(found, Request)
    assert (found.payload, found.crc32c, found.timeout) == (b"\x00\xff", 7, 60.0)
    assert json.loads(bytes(found.input)) == {"text": "né"}


def test_whole_numbers_stand_for_floats() -> None:
    """A bare client that writes `timeout: 60` as an integer means 60.0."""
    assert REQUESTS.decode(msgpack.packb({**PLAIN, "timeout": 60})).timeout == 60.0


@pytest.mark.parametrize("name", CODECS)
def test_another_type_or_major_version_is_said_to_be_unknown(name: str) -> None:
    """The error names what came and what is known here."""
    codec = CODECS[name]
    known = ", ".join(tag(kind) for kind in codec.types)
    for strange in ("request/2", "nonsense", "", f"{tag(codec.types[0])}0", "x" * 1000, "answer"):
        for data, content_type in (
            (msgpack.packb({"type": strange, "s": 1}), MSGPACK),
            (json.dumps({"s": 1, "type": strange}).encode(), JSON),
        ):
            with pytest.raises(UnknownVersion) as caught:
                codec.decode(data, content_type)
            assert caught.value.values == {"type": strange[:64], "known": known}


def test_the_message_of_another_topic_is_unknown_here() -> None:
    """Each codec accepts the golden records of its own types and no others."""
    for codec in CODECS.values():
        for name, value in golden.VALUES.items():
            if type(value) in codec.types:
                assert codec.decode(RECORDED[name]) == value
            else:
                with pytest.raises(UnknownVersion):
                    codec.decode(RECORDED[name])


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"\xc1", "malformed"),
        (b"\x90", "got `array`"),
        (b"\x07", "got `int`"),
        (msgpack.packb({**PLAIN, "type": 5}), r"`\$\.type`"),
        (msgpack.packb({}), "missing required field"),
        (msgpack.packb(PLAIN) + b"\xc0", "trailing"),
        (msgpack.packb(PLAIN)[:-1], "truncated"),
        (msgpack.packb({**PLAIN, "request_id": "\ud800"}, unicode_errors="surrogatepass"), "utf-8"),
        (msgpack.packb({1: 2, **PLAIN}), "str"),
    ],
)
def test_what_is_no_message_is_malformed(data: bytes | None, problem: str) -> None:
    """Nothing, garbage, another shape, a cut or padded record: one error, and it says what was found."""
    with pytest.raises(Malformed, match=problem):
        REQUESTS.decode(data)


def test_json_is_held_to_utf_8_and_to_whole_characters() -> None:
    """Half a surrogate pair would be text that nobody can encode again."""
    for text in (b'"\\ud800"', b'"\xff"', b'"\\u00"', b"NaN", b"1e400", b"9" * 5000):
        with pytest.raises(Malformed):
            REQUESTS.decode(json.dumps(PLAIN).encode()[:-1] + b', "idempotency_key": ' + text + b"}", JSON)


def test_a_record_longer_than_the_limit_is_not_looked_at() -> None:
    """The length is checked before the bytes."""
    with pytest.raises(Oversized, match=f"{RECORD_BYTES + 1} bytes.*{RECORD_BYTES}"):
        RESULTS.decode(bytes(RECORD_BYTES + 1))
    with pytest.raises(Oversized):
        REQUESTS.decode(msgpack.packb(PLAIN), limit=10)


@pytest.mark.parametrize("head", HUGE.values(), ids=HUGE)
def test_declared_lengths_reserve_no_memory(head: bytes) -> None:
    """A few bytes that claim four billion elements are refused at the price of a few bytes."""
    bombs = [head, started(input=head), started(unknown=head), started(payload=head), started(events=head)]
    bombs += [pairs(type=msgpack.packb(tag(kind)), **{kind.__struct_fields__[-1]: head}) for kind in golden_kinds()]
    tracemalloc.start()
    try:
        for bomb in bombs:
            for codec in CODECS.values():
                with pytest.raises(RecordError):
                    codec.decode(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    finally:
        tracemalloc.stop()


def golden_kinds() -> list:  # type: ignore[type-arg]
    """Every message class."""
    return [type(value) for value in golden.VALUES.values()]


@pytest.mark.parametrize("depth", [100_000, 1_000_000])
def test_deep_nesting_is_malformed(depth: int) -> None:
    """Values inside of values, in a field that we know or do not, end in an error and not in the stack's end."""
    arrays = b"\x91" * depth + b"\xc0"
    maps = b"\x81\xa1x" * depth + b"\xc0"
    for deep in (arrays, maps):
        for data in (started(input=deep), started(unknown=deep), pairs(type=deep), pairs(x=deep)):
            with pytest.raises(Malformed):
                REQUESTS.decode(data)
    text = json.dumps(PLAIN).encode()[:-1] + b', "input": ' + b"[" * depth + b"]" * depth + b"}"
    with pytest.raises(Malformed):
        REQUESTS.decode(text, JSON)
    for kind in INPUTS.values():
        with pytest.raises(InvalidRequest):
            read_input(kind, b"\x81\xa1x" + arrays, MSGPACK)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(sorted(CODECS)), st.sampled_from([MSGPACK, JSON, "text/plain"]))
def test_any_bytes_are_a_message_or_a_record_error(data: bytes, name: str, content_type: str) -> None:
    """Nothing but the tree's record errors comes out of a codec."""
    decode_or_refuse(CODECS[name], data, content_type)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_records_are_a_message_or_a_record_error(data: st.DataObject) -> None:
    """So too for a true record of which a piece was overwritten, cut out or put in."""
    name = data.draw(st.sampled_from(sorted(RECORDED)))
    record = RECORDED[name]
    at = data.draw(st.integers(0, len(record)))
    cut = data.draw(st.integers(0, 8))
    put = data.draw(st.binary(max_size=8) | st.sampled_from(list(HUGE.values())))
    damaged = record[:at] + put + record[at + cut :]
    for codec in CODECS.values():
        if type(golden.VALUES[name]) in codec.types:
            decode_or_refuse(codec, damaged)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(sorted(INPUTS)), st.sampled_from([MSGPACK, JSON]))
def test_any_payload_is_an_input_or_an_invalid_request(body: bytes, kind: str, content_type: str) -> None:
    """A payload that is no input is refused in the client's words."""
    try:
        result = read_input(INPUTS[kind], body, content_type)
    except InvalidRequest as refused:
        result = refused.values["where"]
    assert isinstance(result, INPUTS[kind]) or result.startswith("input")
