"""From raw records to submissions, refusals and dead letters: everything a client may send."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from llmos.infra.crypto.crc import crc32c
from llmos.infra.crypto.macs import mac
from llmos.schemas.admitted import ADMITTED, Admitted, Refusal
from llmos.schemas.base import JSON, MSGPACK, encode
from llmos.schemas.catalog import Tenant
from llmos.schemas.errors import Corrupt, Forged, Malformed, Oversized, RecordError, UnknownTenant, UnknownVersion
from llmos.schemas.ids import job_id
from llmos.schemas.job import Origin
from llmos.schemas.limits import PAYLOAD_BYTES, REQUEST_BYTES
from llmos.schemas.requests import Request, signed_bytes
from llmos.services.ingest.authenticating import Tenants
from llmos.services.ingest.reading import Rules, read_request
from tests.kit.bench import NOW, SECRET, record, tenant

SKEW = 300.0
RULES = Rules(SKEW, ["reply."], 900.0, lambda _: None)
THEM = {
    "demo": tenant("demo"),
    "strict": tenant("strict", mac="required"),
    "brief": tenant("brief", longest_timeout=10.0),
}
TENANTS = Tenants(THEM.get, lambda *_: (SECRET,))
NONCE = bytes(range(16))
JSON_HEADER = (("content-type", b"application/json"),)
INPUT = {"text": "hello"}


def body(**fields: Any) -> dict[str, Any]:
    """A request as a bare client writes it."""
    return {"type": "request/1", "request_id": "r1", "tenant": "demo", "kind": "echo", "input": INPUT} | fields


def packed(**fields: Any) -> bytes:
    """The same, in MessagePack."""
    return msgspec.msgpack.encode(body(**fields))


def read(value: bytes | None, topic: str = "requests", **fields: Any) -> Admitted | Refusal:
    """What becomes of it; every outcome must survive the wire."""
    message = read_request(record(value, topic, partition=3, offset=7, **fields), TENANTS, NOW, RULES).message
    assert ADMITTED.decode(encode(message)) == message
    return message


def signed(tenant: str = "strict", lane: str = "standard", content_type: str = MSGPACK, **fields: Any) -> Request:
    """A request with its authentication code, made now."""
    values = {"submitted_at": NOW, "nonce": NONCE} | fields
    request = Request(request_id="r1", tenant=tenant, kind="echo", **values)
    return msgspec.structs.replace(request, mac=mac(SECRET, signed_bytes(request, lane, content_type)))


def test_a_plain_request_is_admitted() -> None:
    """Identity, origin, defaults and times are those of the request and its record."""
    message = read(packed(), at=NOW - 5)
    assert isinstance(message, Admitted)
    head = message.head
    assert (head.job_id, head.tenant, head.request_id) == (job_id("demo", "r1"), "demo", "r1")
    assert head.origin == Origin("requests", 3, 7)
    assert (head.lane, head.kind, head.events, head.priority, head.timeout) == ("standard", "echo", "states", 4, 600.0)
    assert (head.submitted_at, head.admitted_at) == (NOW - 5, NOW)
    assert (message.payload, message.encoding) == (msgspec.msgpack.encode(INPUT), MSGPACK)
    assert head.size == len(message.payload)


@pytest.mark.parametrize(
    ("header", "encoding"),
    [
        (("content-type", b"application/json"), JSON),
        (("Content-Type", b"Application/JSON; charset=utf-8"), JSON),
        (("content-type", b"application/msgpack"), MSGPACK),
        (("x-other", b"application/json"), MSGPACK),
    ],
)
def test_the_header_says_how_it_is_written(header: tuple[str, bytes], encoding: str) -> None:
    """JSON by its content type, however spelled; MessagePack otherwise; the payload keeps its encoding."""
    value = json.dumps(body()).encode() if encoding == JSON else packed()
    message = read(value, headers=(header,))
    assert isinstance(message, Admitted)
    assert message.encoding == encoding
    decode = msgspec.json.decode if encoding == JSON else msgspec.msgpack.decode
    assert decode(message.payload) == INPUT


def test_bytes_in_json_are_base64_and_stay_messagepack() -> None:
    """A `payload` is MessagePack of the input, also where the request around it is JSON."""
    payload = msgspec.msgpack.encode(INPUT)
    written = {name: value for name, value in body().items() if name != "input"}
    value = json.dumps(written | {"payload": base64.b64encode(payload).decode()})
    message = read(value.encode(), headers=JSON_HEADER)
    assert isinstance(message, Admitted)
    assert (message.payload, message.encoding) == (payload, MSGPACK)


@pytest.mark.parametrize(
    ("topic", "lane", "events"),
    [
        ("requests.interactive", "interactive", "states"),
        ("requests", "standard", "states"),
        ("requests.batch", "batch", "none"),
    ],
)
def test_the_topic_is_the_lane(topic: str, lane: str, events: str) -> None:
    """Lane and default events come from the topic; what the request asks for goes before the default."""
    head = read(packed(), topic).head
    assert (head.lane, head.events) == (lane, events)
    assert read(packed(events="tokens"), topic).head.events == "tokens"


@pytest.mark.parametrize(
    ("said", "submitted"),
    [(0.0, NOW - 1), (NOW - 9, NOW - 9), (NOW + 200, NOW + 200), (NOW + 9_999, NOW + SKEW)],
)
def test_when_it_was_submitted(said: float, submitted: float) -> None:
    """The client's word, else the record's time; never further in the future than clocks may differ."""
    assert read(packed(submitted_at=said), at=NOW - 1).head.submitted_at == submitted


def test_the_idempotency_key_names_the_job() -> None:
    """Two requests with one key are the same job; the request id stays their own."""
    head = read(packed(idempotency_key="same", request_id="r2")).head
    assert (head.job_id, head.request_id) == (job_id("demo", "same"), "r2")


REFUSED: list[Any] = [
    pytest.param(packed(payload=b"x"), "invalid_request", "payload", id="both input and payload"),
    pytest.param(
        msgspec.msgpack.encode({k: v for k, v in body().items() if k != "input"}), "invalid_request", "input",
        id="neither input nor payload",
    ),
    pytest.param(packed(input="x" * PAYLOAD_BYTES), "too_large", "1048581", id="an input that is too large"),
    pytest.param(packed(tenant="brief", timeout=11.0), "invalid_request", "timeout", id="above the tenant's time-out"),
    pytest.param(packed(timeout=0), "invalid_request", "timeout", id="no time at all"),
    pytest.param(packed(timeout=86_401), "invalid_request", "timeout", id="above any time-out"),
    pytest.param(packed(priority=10), "invalid_request", "priority", id="a priority out of range"),
    pytest.param(packed(priority="high"), "invalid_request", "priority", id="a priority of the wrong type"),
    pytest.param(packed(events="all"), "invalid_request", "events", id="unknown events"),
    pytest.param(packed(kind="no such kind"), "invalid_request", "kind", id="a kind that is no name"),
    pytest.param(packed(kind=7), "invalid_request", "kind", id="a kind that is no text"),
    pytest.param(packed(model="m" * 300), "invalid_request", "model", id="a model's name too long"),
    pytest.param(packed(model=None), "invalid_request", "model", id="no model's name"),
    pytest.param(packed(reply_to="bad topic!"), "invalid_request", "reply_to", id="a topic that cannot be"),
    pytest.param(packed(reply_to="results"), "reply_topic_forbidden", "reply.", id="a topic of the system"),
    pytest.param(packed(reply_to="reply.strict.x"), "reply_topic_forbidden", "reply.demo.", id="a topic of another tenant"),
    pytest.param(packed(idempotency_key=""), "invalid_request", "idempotency_key", id="an empty key"),
    pytest.param(packed(crc32c=-1), "invalid_request", "crc32c", id="a checksum that cannot be"),
    pytest.param(
        msgspec.msgpack.encode(body(payload=b"x" * (PAYLOAD_BYTES + 1)) | {"input": None}), "too_large", "1048577",
        id="a payload that is too large",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("value", "code", "says"), REFUSED)
def test_readable_but_wrong_is_answered(value: bytes, code: str, says: str) -> None:
    """What can be read and vouched for is refused under its own identity, and told which field is wrong."""
    message = read(value)
    assert isinstance(message, Refusal)
    assert (message.error.code, message.stage) == (code, "ingest")
    assert says in message.error.message
    assert message.head.request_id == "r1"
    assert message.head.origin == Origin("requests", 3, 7)
    assert message.head.job_id == job_id(message.head.tenant, "r1")
    assert message.head.reply_to is None, "the refusal itself goes to no topic that is forbidden"


def test_a_wrong_request_in_json_is_answered_too() -> None:
    """A field out of its bounds is told to JSON clients in the same way."""
    message = read(json.dumps(body(priority=-1, idempotency_key="same")).encode(), headers=JSON_HEADER)
    assert isinstance(message, Refusal)
    assert "priority" in message.error.message
    assert message.head.job_id == job_id("demo", "same")


DEAD: list[Any] = [
    pytest.param(None, (), Malformed, id="no value"),
    pytest.param(b"", (), Malformed, id="empty"),
    pytest.param(b"\xc1", (), Malformed, id="no MessagePack"),
    pytest.param(packed() + b"x", (), Malformed, id="more behind it"),
    pytest.param(packed()[:-1], (), Malformed, id="cut off"),
    pytest.param(json.dumps(body()).encode(), (), Malformed, id="JSON without the header"),
    pytest.param(packed(), JSON_HEADER, Malformed, id="MessagePack called JSON"),
    pytest.param(b"[" * 2000, JSON_HEADER, Malformed, id="endless nesting"),
    pytest.param(b'{"type": "request/1", "request_id": "\xff"}', JSON_HEADER, Malformed, id="no UTF-8"),
    pytest.param(packed(type="request/2"), (), UnknownVersion, id="a version of tomorrow"),
    pytest.param(msgspec.msgpack.encode({"request_id": "r1"}), (), Malformed, id="no type"),
    pytest.param(packed(request_id=""), (), Malformed, id="nobody can be answered: an empty id"),
    pytest.param(packed(request_id="r" * 129), (), Malformed, id="an id too long"),
    pytest.param(packed(request_id=1), (), Malformed, id="an id that is no text"),
    pytest.param(packed(tenant=1), (), Malformed, id="a tenant that is no text"),
    pytest.param(packed(input="x" * REQUEST_BYTES), (), Oversized, id="larger than any request"),
    pytest.param(packed(tenant="nobody"), (), UnknownTenant, id="an unknown tenant"),
    pytest.param(packed(tenant="NO TENANT", priority=99), (), UnknownTenant, id="wrong, of an unknown tenant"),
    pytest.param(packed(tenant="strict"), (), Forged, id="no code where one is required"),
    pytest.param(packed(tenant="strict", priority=99), (), Forged, id="wrong, no code where one is required"),
    pytest.param(packed(tenant="strict", mac="a word"), (), Forged, id="a code that is no bytes"),
    pytest.param(packed(mac=b"m" * 32), (), Forged, id="a forged code where none is required"),
    pytest.param(packed(mac=b"m" * 33), (), Forged, id="a code of the wrong length"),
]


@pytest.mark.parametrize(("value", "headers", "error"), DEAD)
def test_what_nobody_can_answer_or_vouch_for_is_dead(
    value: bytes | None, headers: tuple[tuple[str, bytes], ...], error: type[RecordError]
) -> None:
    """Unreadable, of nobody, or not authentic: no answer, a dead letter that says why."""
    with pytest.raises(error) as dead:
        read(value, headers=headers)
    assert type(dead.value) is error
    assert len(str(dead.value)) < 2048


@pytest.mark.parametrize("payload", [b"", b"bytes"], ids=["input", "payload"])
def test_an_authentic_request_is_admitted(payload: bytes) -> None:
    """The code covers metadata and payload, whichever of the two carries the work."""
    fields: dict[str, Any] = {"payload": payload} if payload else {"input": msgspec.Raw(msgspec.msgpack.encode(INPUT))}
    assert isinstance(read(encode(signed(**fields))), Admitted)


CHANGES: list[dict[str, Any]] = [
    {"request_id": "r2"}, {"tenant": "demo"}, {"kind": "embed"}, {"model": "m"}, {"priority": 9}, {"timeout": 1.0},
    {"events": "none"}, {"reply_to": "reply.mine"}, {"reply_key": b"k"}, {"idempotency_key": "k"}, {"submitted_at": 1.0},
    {"payload": b"other"}, {"sealed": True}, {"nonce": bytes(16)}, {"crc32c": None}, {"crc32c": 7},
    {"input": msgspec.Raw(b"\xc0")}, {"mac": b"m" * 32},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: "-".join(change))
def test_nothing_that_steers_the_work_can_be_changed(change: dict[str, Any]) -> None:
    """Each field that the code covers, changed on the way, makes the record a forgery, or shows that it was damaged."""
    with pytest.raises((Forged, Corrupt)):
        read(encode(msgspec.structs.replace(signed(payload=b"bytes", crc32c=crc32c(b"bytes")), **change)))


def test_every_field_is_covered_but_the_trace() -> None:
    """Whoever adds one says here that it cannot be changed; what names a trace may be set on the way, and steers nothing."""
    covered = {next(iter(change)) for change in CHANGES}
    assert set(Request.__struct_fields__) - covered == {"traceparent"}
    assert isinstance(read(encode(msgspec.structs.replace(signed(payload=b"bytes"), traceparent="00-1"))), Admitted)


@pytest.mark.parametrize("encoding", [MSGPACK, JSON])
def test_a_body_stays_where_it_was_and_what_it_was(encoding: str) -> None:
    """An inline input is not moved into `payload`, where it would be read as MessagePack, nor called another content type,
    nor given a second body beside it; a payload is not moved inline."""
    headers = JSON_HEADER if encoding == JSON else ()
    raw = msgspec.Raw(b"7")  # a number in JSON, another one in MessagePack
    inline = signed(input=raw, content_type=encoding)
    whole = encode_of(encoding)
    assert isinstance(read(whole(inline), headers=headers), Admitted)
    others = {name: getattr(inline, name) for name in inline.__struct_fields__ if name not in ("input", "payload")}
    moved = Request(payload=bytes(raw), **others)
    other = JSON if encoding == MSGPACK else MSGPACK
    for forged, at in ((moved, encoding), (msgspec.structs.replace(inline, payload=b"x"), encoding), (inline, other)):
        with pytest.raises(Forged):
            read(encode_of(at)(forged), headers=JSON_HEADER if at == JSON else ())
    both = signed(input=msgspec.Raw(b"77"), content_type=JSON)
    with pytest.raises(Forged):
        read(msgspec.json.encode(msgspec.structs.replace(both, input=raw, payload=b"7")), headers=JSON_HEADER)
    payload = signed(payload=b"7")
    inside = msgspec.structs.replace(payload, payload=b"", input=msgspec.Raw(b"7"))
    with pytest.raises(Forged):
        read(whole(inside), headers=headers)
    assert isinstance(read(whole(payload), headers=headers), Admitted), "the record around it may be written anew"


def test_a_request_cannot_be_moved_to_another_lane() -> None:
    """The lane is covered though it is no field: a copy onto a more urgent topic is a forgery."""
    with pytest.raises(Forged):
        read(encode(signed(payload=b"bytes")), "requests.interactive")
    assert isinstance(read(encode(signed(lane="interactive", payload=b"bytes")), "requests.interactive"), Admitted)


def test_another_tenants_code_is_worth_nothing() -> None:
    """A code made under one name does not hold for another, though the secret were the same."""
    with pytest.raises(Forged):
        read(encode(msgspec.structs.replace(signed("strict", payload=b"bytes"), tenant="demo")))


@pytest.mark.parametrize("encoding", [MSGPACK, JSON])
@pytest.mark.parametrize("carrier", ["input", "payload"])
def test_an_authentic_request_with_a_wrong_field_is_answered(carrier: str, encoding: str) -> None:
    """A client that signed a field out of its bounds learns which one, in either encoding, with either carrier."""
    raw = encode_of(encoding)(INPUT)
    fields: dict[str, Any] = {"payload": b"bytes"} if carrier == "payload" else {"input": msgspec.Raw(raw)}
    request = signed(priority=99, reply_key=b"key", content_type=encoding, **fields)
    headers = JSON_HEADER if encoding == JSON else ()
    message = read(encode_of(encoding)(request), headers=headers)
    assert isinstance(message, Refusal)
    assert message.error.code == "invalid_request"
    forged = msgspec.structs.replace(request, priority=98)
    with pytest.raises(Forged):
        read(encode_of(encoding)(forged), headers=headers)


@pytest.mark.parametrize("encoding", [MSGPACK, JSON])
def test_whole_numbers_are_signed_as_the_schema_has_them(encoding: str) -> None:
    """A time-out written as 60 is 60.0 to the code, in a right request and in a wrong one."""
    for priority, kind in ((4, Admitted), (99, Refusal)):
        request = signed(timeout=60.0, submitted_at=NOW, priority=priority, payload=b"bytes")
        written = msgspec.to_builtins(request, builtin_types=(bytes,) if encoding == MSGPACK else ())
        value = encode_of(encoding)(written | {"timeout": 60, "submitted_at": int(NOW)})
        assert isinstance(read(value, headers=JSON_HEADER if encoding == JSON else ()), kind)


def encode_of(encoding: str) -> Any:
    """The encoder of an encoding."""
    return msgspec.json.encode if encoding == JSON else msgspec.msgpack.encode


def test_a_tenant_without_a_secret_can_sign_nothing() -> None:
    """An empty secret proves nothing: no code is right under it."""
    bare: Tenant = tenant("bare", mac="required", wrapped_secret=b"")
    nobody = Tenants({"bare": bare}.get, lambda *_: (b"",))
    request = Request(request_id="r1", tenant="bare", kind="echo", payload=b"x")
    value = encode(msgspec.structs.replace(request, mac=mac(b"", signed_bytes(request, "standard"))))
    with pytest.raises(Forged):
        read_request(record(value), nobody, NOW, RULES)
    with pytest.raises(Forged):
        read_request(record(value), nobody._replace(secrets=lambda *_: ()), NOW, RULES)
