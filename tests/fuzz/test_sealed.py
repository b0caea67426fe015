"""What is sealed and signed, damaged, forged, or with rubbish inside; reply keys that are none; headers of replays that no
operator made. Each becomes an answer or a dead letter within bounds, and the next request is served."""

from __future__ import annotations

import itertools
import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.infra.crypto import hpke
from llmos.infra.crypto.crc import crc32c
from llmos.infra.crypto.envelope import MAGIC, parse
from llmos.infra.stages.replays import replay_header
from llmos.schemas.base import encode
from llmos.schemas.dead import REPLAY_HEADER, DeadLetter
from llmos.schemas.errors import EnvelopeRejected
from llmos.schemas.job import ErrorInfo, Origin
from llmos.schemas.requests import Request
from tests.fuzz.material import INPUT_FIELDS, MODEL, MSGPACK_VALUES, mp, packed_input, packed_request
from tests.fuzz.pipeline import Fate, Pipeline
from tests.kit.bench import KEYS, NOW, SECRET
from tests.kit.sealing import sealed_request, signed

pytestmark = pytest.mark.may_block  # time is virtual and nothing else runs on the loop

DETERMINISTIC = settings(derandomize=True, max_examples=200, database=None)
_nonces = itertools.count(1)


def fresh(body: object = None, **fields: object) -> Request:
    """A sealed request of the tenant that must sign and seal; with a nonce of its own."""
    own = {"tenant": "strict", "nonce": next(_nonces).to_bytes(16, "big"), "submitted_at": NOW, "kind": "echo"}
    return sealed_request({"text": "hello"} if body is None else body, **(own | fields))


def sent(pipeline: Pipeline, request: Request, headers: tuple[tuple[str, bytes], ...] = ()) -> Fate:
    """The request, signed."""
    return pipeline.request(encode(signed(request, SECRET)), headers=headers)


def with_payload(request: Request, payload: bytes) -> Request:
    """Another payload under a right checksum."""
    return msgspec.structs.replace(request, payload=payload, crc32c=crc32c(payload))


def test_what_is_usual_is_done(pipeline: Pipeline) -> None:
    """So that the others below fail for what was changed in them."""
    assert sent(pipeline, fresh()) == "done"


@pytest.mark.parametrize("kind", INPUT_FIELDS)
def test_hostile_values_inside_an_envelope(pipeline: Pipeline, kind: str) -> None:
    """Whoever can sign is answered, whatever is inside."""
    model = "" if kind == "echo" else MODEL
    for value in MSGPACK_VALUES.values():
        for body in (value, *(packed_input(kind, {field: value}) for field in INPUT_FIELDS[kind])):
            if len(body) < 900_000:
                assert sent(pipeline, fresh(body, kind=kind, model=model)) in ("done", "refused")


@given(st.data())
@DETERMINISTIC
def test_damaged_envelopes(pipeline: Pipeline, data: st.DataObject) -> None:
    """One byte changed, taken out or put in, the end cut off, the lengths absurd: refused with one word, never opened."""
    request = fresh()
    envelope = bytearray(request.payload)
    at = data.draw(st.integers(0, len(envelope) - 1))
    how = data.draw(st.sampled_from(["change", "take out", "put in", "cut", "lengths"]))
    if how == "change":
        envelope[at] ^= data.draw(st.integers(1, 255))
    elif how == "take out":
        del envelope[at]
    elif how == "put in":
        envelope.insert(at, data.draw(st.integers(0, 255)))
    elif how == "cut":
        del envelope[at:]
    else:
        envelope[at : at + 2] = b"\xff\xff"
    if bytes(envelope) != request.payload:
        assert sent(pipeline, with_payload(request, bytes(envelope))) == "refused"


ABSURD = (
    MAGIC,
    MAGIC + b"\x01\x01",
    MAGIC + b"\x01\x01\x00",
    MAGIC + b"\x01\x01\xff" + b"\x00" * 200,
    MAGIC + b"\x01\x01\x04" + b"\xff" * 1000,
    MAGIC + b"\x01\x01\x04" + b"\x00\x00\x00" * 4 + b"\x00" * 92,
    MAGIC + b"\x01\x01\x01\x01\xff\xff\xff" + b"x" * 65_535 + b"\x00" * 91,
    MAGIC + b"\x01\x01\x01\x10" + b"\xff" * 16 + struct.pack(">H", 48) + b"\x00" * 300,
    MAGIC + b"\x01\x01" + b"\xff" * 900_000,
    MAGIC + b"\x63\x01\x01" + b"\x00" * 500,
    b"",
    b"\xc1",
    b"\x00" * 900_000,
)


@pytest.mark.parametrize("envelope", ABSURD, ids=range(len(ABSURD)))
def test_absurd_envelopes(pipeline: Pipeline, envelope: bytes) -> None:
    """They are refused, of the tenant that must seal as of one that may."""
    assert sent(pipeline, with_payload(fresh(), envelope)) == "refused"
    fields = {"sealed": mp(True), "payload": mp(envelope)}
    assert pipeline.request(packed_request("echo", fields, without="input")) == "refused"


@given(st.binary(max_size=400))
@settings(DETERMINISTIC, max_examples=500)
def test_envelopes_are_taken_apart_or_rejected(data: bytes) -> None:
    """Nothing else is ever raised."""
    for envelope in (data, MAGIC + data, MAGIC + b"\x01\x01" + data):
        try:
            parse(envelope)
        except EnvelopeRejected:
            continue


@given(st.data())
@DETERMINISTIC
def test_forged_requests(pipeline: Pipeline, data: st.DataObject) -> None:
    """A wrong code, a field changed after it was signed, another tenant's name: dead, not answered."""
    request = signed(fresh(), SECRET)
    changes = {
        "mac": data.draw(st.binary(max_size=32)),
        "priority": 9,
        "timeout": 1.0,
        "idempotency_key": "other",
        "reply_to": "reply.strict.x",
        "reply_key": b"k",
        "submitted_at": NOW + 1,
        "nonce": b"n" * 16,
        "payload": b"other",
        "kind": "embed",
        "sealed": False,
    }
    name = data.draw(st.sampled_from(sorted(changes)))
    assert pipeline.request(encode(msgspec.structs.replace(request, **{name: changes[name]}))) == "dead"


@pytest.mark.parametrize("seconds", [-1e9, -901.0, 901.0, 1e11])
def test_old_and_early_requests(pipeline: Pipeline, seconds: float) -> None:
    """Signed long before or after the log took them."""
    assert sent(pipeline, fresh(submitted_at=NOW + seconds)) == "dead"


def test_a_request_that_was_taken(pipeline: Pipeline) -> None:
    """The same bytes again are no second request."""
    request = fresh()
    assert [sent(pipeline, request), sent(pipeline, request)] == ["done", "dead"]


@pytest.mark.parametrize("nonce", [b"", b"n" * 15, b"n" * 32])
def test_nonces(pipeline: Pipeline, nonce: bytes) -> None:
    """One that is too short protects nothing, so it is refused."""
    assert sent(pipeline, fresh(nonce=nonce)) == ("done" if len(nonce) == 32 else "refused")


KEYS_THAT_ARE_NONE = (
    b"\x00",
    b"\x01",
    b"\x01" + b"\x00" * 32,  # a point of low order
    b"\x01" + b"\xff" * 31,
    b"\x01" + b"\x01" + b"\x00" * 31,
    b"\x02" + b"\xff" * 32,
    b"\x02" + b"\xff" * 1216,
    b"\x02" + b"\x00" * 1216,
    b"\x03" + b"k" * 32,
    b"k" * 4096,
)


@pytest.mark.parametrize("key", KEYS_THAT_ARE_NONE, ids=range(len(KEYS_THAT_ARE_NONE)))
def test_reply_keys_that_are_none(pipeline: Pipeline, key: bytes) -> None:
    """They are refused before anybody works for an answer that could not be sealed."""
    assert pipeline.request(packed_request("echo", {"reply_key": mp(key)})) == "refused"
    assert sent(pipeline, fresh(reply_key=key)) == "refused"


@given(st.binary(min_size=1, max_size=64), st.sampled_from([1, 2]))
@settings(DETERMINISTIC, max_examples=100)
def test_any_reply_key_is_usable_or_refused(pipeline: Pipeline, raw: bytes, code: int) -> None:
    """What passes can be sealed to."""
    size = hpke.PUBLIC_BYTES["x25519" if code == 1 else "mlkem768-x25519"] - 1
    key = bytes([code]) + (raw * (size // len(raw) + 1))[:size]
    if pipeline.request(packed_request("echo", {"reply_key": mp(key)})) == "done":
        assert hpke.wrap_for(key, b"secret", b"context")


WORD = replay_header(
    KEYS,
    DeadLetter(origin=Origin("requests", 0, 1), stage="ingest", error=ErrorInfo(code="stale", message="old"), at=NOW),
    b"another value",
    NOW,
    NOW,
)[1]


@given(st.one_of(st.binary(max_size=200), st.just(WORD), st.sampled_from(sorted(MSGPACK_VALUES.values()))))
@settings(DETERMINISTIC, max_examples=50)
def test_headers_of_replays_that_no_operator_made(pipeline: Pipeline, word: bytes) -> None:
    """As if they were not there: a right request is done, a forged one is dead."""
    headers = ((REPLAY_HEADER, word), (REPLAY_HEADER, b"again"))
    assert sent(pipeline, fresh(), headers) == "done"
    assert sent(pipeline, fresh(submitted_at=NOW - 5000.0), headers) == "dead"
    assert pipeline.request(packed_request(), headers=headers) == "done"
