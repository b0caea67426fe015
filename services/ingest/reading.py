"""What a record of a requests topic says: a submission, a refusal, or nothing that can be used. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import msgspec

from llmos.infra.crypto.macs import check_mac
from llmos.infra.log.port import Record
from llmos.schemas.admitted import Admitted, Refusal
from llmos.schemas.base import JSON, MSGPACK
from llmos.schemas.catalog import Tenant
from llmos.schemas.errors import (
    Forged,
    InvalidRequest,
    Malformed,
    RefusedError,
    ReplyTopicForbidden,
    TooLarge,
    UnknownTenant,
)
from llmos.schemas.ids import job_id
from llmos.schemas.job import Events, Head, Lane, Origin, error_info
from llmos.schemas.limits import PAYLOAD_BYTES, REQUEST_BYTES
from llmos.schemas.requests import REQUESTS, Request, signed_bytes
from llmos.schemas.topics import lane_of

CONTENT_TYPE = "content-type"


class Tenants(NamedTuple):
    """Who may ask, as of now."""

    named: Callable[[str], Tenant | None]
    secret: Callable[[Tenant], bytes]


class Rules(NamedTuple):
    """The settings that steer reading."""

    clock_skew_seconds: float
    """How far a client's time stamp may lie in the future."""
    reply_prefixes: Sequence[str]
    """`reply_to` topics begin with one of these: no client writes into topics of the system."""


class _Loose(msgspec.Struct, kw_only=True):
    """A request of which only the identity is held to its bounds: enough to authenticate and answer it."""

    type: str
    request_id: str
    tenant: str
    kind: Any = ""
    model: Any = ""
    input: msgspec.Raw = msgspec.Raw()
    payload: Any = b""
    sealed: Any = False
    idempotency_key: Any = None
    priority: Any = 4
    timeout: Any = 600.0
    events: Any = None
    reply_to: Any = None
    reply_key: Any = b""
    submitted_at: Any = 0.0
    nonce: Any = b""
    mac: Any = b""
    traceparent: Any = ""


def read_request(record: Record, tenants: Tenants, now: float, rules: Rules) -> Admitted | Refusal:
    """The message for `admitted` that `record` becomes.

    Raises:
        RecordError: it cannot be read, or nobody can vouch for it; it goes to the dead letters.
    """
    content_type = _content_type(record)
    try:
        request: Request = REQUESTS.decode(record.value, content_type, REQUEST_BYTES)
    except Malformed as problem:
        if content_type == MSGPACK and (record.value or b"").lstrip()[:1] == b"{":
            raise Malformed(
                problem="it looks like JSON; say so with the header content-type: application/json"
            ) from None
        return _refuse_invalid(record, content_type, problem, tenants, now)
    tenant = _authenticate(request, record, tenants)
    head = _head(request, tenant, record, now, rules.clock_skew_seconds)
    body = bytes(request.input) or request.payload
    problem_found = _problem(request, tenant, body, rules.reply_prefixes)
    if problem_found is not None:
        if isinstance(problem_found, ReplyTopicForbidden):
            head = msgspec.structs.replace(head, reply_to=None)
        return Refusal(head=head, error=error_info(problem_found), stage="ingest")
    encoding = content_type if bytes(request.input) else MSGPACK
    return Admitted(head=head, payload=body, encoding=encoding, sealed=request.sealed, crc32c=request.crc32c)


def _content_type(record: Record) -> str:
    for name, value in record.headers:
        if name.lower() == CONTENT_TYPE:
            return JSON if value.split(b";")[0].strip().lower() == JSON.encode() else MSGPACK
    return MSGPACK


def _authenticate(request: Request | _Loose, record: Record, tenants: Tenants) -> Tenant:
    tenant = tenants.named(request.tenant)
    if tenant is None:
        raise UnknownTenant(tenant=request.tenant[:64])
    if request.mac or tenant.mac == "required":
        said = request.mac if isinstance(request.mac, bytes) else b""
        try:
            signed = signed_bytes(cast("Request", request), lane_of(record.place.topic))
        except (OverflowError, RecursionError):
            # What cannot be written in MessagePack (an integer of 70 bits, a value nested too deep) nobody signed.
            raise Forged() from None
        if not check_mac(tenants.secret(tenant), signed, said):
            raise Forged()
    return tenant


def _problem(request: Request, tenant: Tenant, body: bytes, reply_prefixes: Sequence[str]) -> RefusedError | None:
    if request.reply_to is not None and not request.reply_to.startswith(tuple(reply_prefixes)):
        return ReplyTopicForbidden(topic=request.reply_to, prefixes=", ".join(reply_prefixes))
    if bytes(request.input) and request.payload:
        return InvalidRequest(where="payload", problem="give either `input` or `payload`, not both")
    if not body:
        return InvalidRequest(where="input", problem="there is neither `input` nor `payload`")
    if len(body) > PAYLOAD_BYTES:
        return TooLarge(what="the payload", size=len(body), limit=PAYLOAD_BYTES)
    if request.timeout > tenant.longest_timeout:
        return InvalidRequest(
            where="timeout",
            problem=f"{request.timeout:g} s is above the tenant's longest, {tenant.longest_timeout:g} s",
        )
    return None


def _head(request: Request, tenant: Tenant, record: Record, now: float, clock_skew_seconds: float) -> Head:
    lane = lane_of(record.place.topic)
    said = request.submitted_at or record.timestamp
    return Head(
        job_id=job_id(tenant.name, request.idempotency_key or request.request_id),
        tenant=tenant.name,
        request_id=request.request_id,
        origin=Origin(*record.place, record.offset),
        lane=lane,
        kind=request.kind,
        model_name=request.model,
        events=request.events or _default_events(lane),
        reply_to=request.reply_to,
        reply_key=request.reply_key,
        priority=request.priority,
        timeout=request.timeout,
        size=len(bytes(request.input)) or len(request.payload),
        submitted_at=min(max(said, 0.0), now + clock_skew_seconds),
        admitted_at=now,
        traceparent=request.traceparent,
    )


def _default_events(lane: Lane) -> Events:
    return "none" if lane == "batch" else "states"


def _refuse_invalid(record: Record, content_type: str, problem: Malformed, tenants: Tenants, now: float) -> Refusal:
    """A readable, authentic request with a field out of its bounds is answered; anything less is dead."""
    decode = msgspec.json.decode if content_type == JSON else msgspec.msgpack.decode
    try:
        loose = _as_signed(decode(record.value or b"", type=_Loose), content_type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise problem from None
    if not 1 <= len(loose.request_id) <= 128:
        raise problem
    tenant = _authenticate(loose, record, tenants)
    key = loose.idempotency_key if _is_name(loose.idempotency_key) else loose.request_id
    lane = lane_of(record.place.topic)
    head = Head(
        job_id=job_id(tenant.name, key),
        tenant=tenant.name,
        request_id=loose.request_id,
        origin=Origin(*record.place, record.offset),
        lane=lane,
        kind=loose.kind if isinstance(loose.kind, str) and _NAME.fullmatch(loose.kind) else "unknown",
        model_name=loose.model[:128] if isinstance(loose.model, str) else "",
        events="none",
        submitted_at=max(record.timestamp, 0.0),
        admitted_at=now,
    )
    return Refusal(head=head, error=error_info(_reason(loose, problem)), stage="ingest")


def _as_signed(loose: _Loose, content_type: str) -> _Loose:
    """The fields as `Request` has them, since the code covers those: numbers as floats, base64 of JSON as bytes."""
    wanted: dict[str, type] = {"timeout": float, "submitted_at": float}
    if content_type == JSON:
        wanted |= {"payload": bytes, "reply_key": bytes, "nonce": bytes, "mac": bytes}
    for name, type_ in wanted.items():
        try:
            setattr(loose, name, msgspec.convert(getattr(loose, name), type_))
        except msgspec.ValidationError:
            continue  # this field is what is wrong with the request: it stays as it came
    return loose


def _reason(loose: _Loose, problem: Malformed) -> RefusedError:
    if isinstance(loose.payload, bytes | str) and len(loose.payload) > PAYLOAD_BYTES:
        return TooLarge(what="the payload", size=len(loose.payload), limit=PAYLOAD_BYTES)
    text = str(problem.values.get("problem", problem))
    where = text.rpartition("`$.")[2].partition("`")[0] if "`$." in text else "the request"
    return InvalidRequest(where=where, problem=text.partition(" - at")[0])


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= 128


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}")
