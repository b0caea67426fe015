"""What a record of a requests topic says: a submission, a refusal, or nothing that can be used. Pure.

The order is: whose it is, whether that is proved, whether it is fresh, what its tenant may do, whether it is whole. After that
come its nonce, which ends it where it was seen before, then quotas and credits (see `handler`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from llmos.infra.log.port import Record
from llmos.schemas.admitted import Admitted, Refusal
from llmos.schemas.base import JSON, MSGPACK
from llmos.schemas.catalog import Tenant
from llmos.schemas.dead import Replay
from llmos.schemas.errors import InvalidRequest, Malformed, RefusedError, TooLarge
from llmos.schemas.ids import job_id
from llmos.schemas.job import Head, Origin, default_events, error_info
from llmos.schemas.limits import PAYLOAD_BYTES, REQUEST_BYTES
from llmos.schemas.requests import REQUESTS, Request, body_of, metadata_bytes
from llmos.schemas.topics import lane_of
from llmos.services.ingest.authenticating import Proved, Tenants, authenticate
from llmos.services.ingest.freshness import NONCE_BYTES, once
from llmos.services.ingest.loose import Loose, read_loosely, reason
from llmos.services.ingest.rights import is_forbidden, may_reply_to, may_use, reply_key_of

CONTENT_TYPE = "content-type"


class Rules(NamedTuple):
    """What steers reading, beside the tenants."""

    clock_skew_seconds: float
    """How far a client's time stamp may lie in the future."""
    reply_prefixes: Sequence[str]
    """`reply_to` topics begin with one of these: no client writes into topics of the system."""
    freshness_seconds: float
    """How far the time in a signed request may lie from the log's."""
    replay_of: Callable[[Record], Replay | None]
    """An operator's word that a record was on the log before."""


class Reading(NamedTuple):
    """What a record says."""

    message: Admitted | Refusal
    """What it becomes on `admitted`, unless it was taken before."""
    once: bytes
    """Under this name its tenant's request may be taken once, at one origin; empty: it is not signed, or is refused for its
    nonce."""


def read_request(record: Record, tenants: Tenants, now: float, rules: Rules) -> Reading:
    """What `record` says.

    Raises:
        RecordError: it cannot be read, nobody can vouch for it, or it is an old one; it goes to the dead letters.
    """
    content_type = _content_type(record)
    data = record.value or b""
    try:
        request: Request = REQUESTS.decode(data, content_type, REQUEST_BYTES)
    except Malformed as problem:
        if content_type == MSGPACK and data.lstrip()[:1] == b"{":
            raise Malformed(
                problem="it looks like JSON; say so with the header content-type: application/json"
            ) from None
        loose = read_loosely(data, content_type, problem)
        proved, name = _vouched(loose, content_type, record, tenants, rules)
        return Reading(_refuse_invalid(loose, problem, proved.tenant, record, now), name)
    proved, name = _vouched(request, content_type, record, tenants, rules)
    return Reading(_admit(request, proved, content_type, record, now, rules), name)


def _vouched(
    request: Request | Loose, content_type: str, record: Record, tenants: Tenants, rules: Rules
) -> tuple[Proved, bytes]:
    proved = authenticate(request, content_type, record, tenants)
    name = once(request, record, rules.replay_of(record), rules.freshness_seconds) if proved.signed_with else b""
    return proved, name


def _admit(
    request: Request, proved: Proved, content_type: str, record: Record, now: float, rules: Rules
) -> Admitted | Refusal:
    tenant, lane = proved.tenant, lane_of(record.place.topic)
    body = body_of(request)
    head = _head(request, tenant, record, now, rules)
    try:
        problem = is_forbidden(request, tenant, lane, rules.reply_prefixes) or _is_broken(request, proved, body)
        head = msgspec.structs.replace(head, reply_key=reply_key_of(request, tenant)) if problem is None else head
    except InvalidRequest as found:
        problem = found
    if problem is not None:
        return Refusal(head=head, error=error_info(problem), stage="ingest")
    return Admitted(
        head=head,
        payload=body,
        encoding=content_type if bytes(request.input) else MSGPACK,
        sealed=request.sealed,
        crc32c=request.crc32c,
        metadata=(proved.metadata or metadata_bytes(request, lane)) if request.sealed else b"",
        signed_with=proved.signed_with,
    )


def _is_broken(request: Request, proved: Proved, body: bytes) -> RefusedError | None:
    """What is wrong with an otherwise allowed request; None: nothing."""
    if bytes(request.input) and request.payload:
        return InvalidRequest(where="payload", problem="give either `input` or `payload`, not both")
    if not body:
        return InvalidRequest(where="input", problem="there is neither `input` nor `payload`")
    if request.sealed and not request.payload:
        return InvalidRequest(where="input", problem="what is sealed goes into `payload`")
    if len(body) > PAYLOAD_BYTES:
        return TooLarge(what="the payload", size=len(body), limit=PAYLOAD_BYTES)
    if proved.signed_with and len(request.nonce) < NONCE_BYTES:
        return InvalidRequest(where="nonce", problem=f"a signed request needs {NONCE_BYTES} random bytes at least")
    longest = proved.tenant.longest_timeout
    if request.timeout is not None and request.timeout > longest:
        return InvalidRequest(
            where="timeout", problem=f"{request.timeout:g} s is above the tenant's longest, {longest:g} s"
        )
    return None


def _head(request: Request, tenant: Tenant, record: Record, now: float, rules: Rules) -> Head:
    lane = lane_of(record.place.topic)
    said = request.submitted_at or record.timestamp
    reply_to = request.reply_to
    if reply_to is not None and not may_reply_to(tenant, reply_to, rules.reply_prefixes):
        reply_to = None  # not even a refusal goes there
    return Head(
        job_id=job_id(tenant.name, request.idempotency_key or request.request_id),
        tenant=tenant.name,
        request_id=request.request_id,
        origin=Origin(*record.place, record.offset),
        lane=lane,
        kind=request.kind,
        model_name=request.model,
        events=request.events or default_events(lane),
        reply_to=reply_to,
        priority=request.priority,
        timeout=request.timeout or tenant.usual_timeout,
        size=len(bytes(request.input)) or len(request.payload),
        submitted_at=min(max(said, 0.0), now + rules.clock_skew_seconds),
        admitted_at=now,
        traceparent=request.traceparent,
        sealed=request.sealed,
    )


def _refuse_invalid(loose: Loose, problem: Malformed, tenant: Tenant, record: Record, now: float) -> Refusal:
    """A readable, authentic request with a field out of its bounds is answered; anything less is dead."""
    lane = lane_of(record.place.topic)
    head = Head(
        job_id=job_id(tenant.name, loose.key),
        tenant=tenant.name,
        request_id=loose.request_id,
        origin=Origin(*record.place, record.offset),
        lane=lane,
        kind=loose.named_kind or "unknown",
        model_name=loose.model[:128] if isinstance(loose.model, str) else "",
        events="none",
        submitted_at=max(record.timestamp, 0.0),
        admitted_at=now,
    )
    forbidden = may_use(tenant, lane, loose.named_kind) if loose.named_kind else None
    return Refusal(head=head, error=error_info(forbidden or reason(loose, problem)), stage="ingest")


def _content_type(record: Record) -> str:
    for name, value in record.headers:
        if name.lower() == CONTENT_TYPE:
            return JSON if value.split(b";")[0].strip().lower() == JSON.encode() else MSGPACK
    return MSGPACK
