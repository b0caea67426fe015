"""`requests.*`: what clients send; MessagePack, or JSON with the header `content-type: application/json`."""

from __future__ import annotations

from typing import Literal

import msgspec

from llmos.schemas.base import MSGPACK, Codec, Message, Value, without_values
from llmos.schemas.errors import Malformed
from llmos.schemas.job import Events, Lane
from llmos.schemas.limits import (
    Crc32c,
    Digest,
    Key,
    ModelRef,
    Name,
    Payload,
    Priority,
    RequestId,
    Seconds,
    TenantName,
    Timeout,
    TopicName,
    Traceparent,
)


class Request(Message, frozen=True, kw_only=True, tag="request/1"):
    """One submission. The work is in `input` (clear, inline) or in `payload` (bytes: MessagePack of the same)."""

    request_id: RequestId
    tenant: TenantName
    kind: Name
    model: ModelRef = ""
    """Name, alias or identity."""
    input: msgspec.Raw = msgspec.Raw()
    payload: Payload = b""
    sealed: bool = False
    """The payload is an envelope made by the client (see `llmos.infra.crypto.channels`)."""
    idempotency_key: RequestId | None = None
    """Names the work; by default the request id does."""
    priority: Priority = 4
    timeout: Timeout | None = None
    """In seconds; where it is left out, the tenant's default (600 of its own accord)."""
    events: Events | None = None
    """How much to hear on the stream; by default `states`, and `none` on the batch lane."""
    reply_to: TopicName | None = None
    reply_key: Key = b""
    crc32c: Crc32c | None = None
    """CRC32C of `payload`."""
    submitted_at: Seconds = 0.0
    """By the client's clock; of an authenticated request it must be near the time at which the log took it."""
    nonce: Digest = b""
    """16 random bytes or more, other ones for each submission: an authenticated request is taken once."""
    mac: Digest = b""
    """HMAC-SHA-256 over `signed_bytes` under the tenant's secret."""
    traceparent: Traceparent = ""


REQUESTS = Codec.of(Request)


class Metadata(Value, frozen=True, array_like=True, kw_only=False, forbid_unknown_fields=True):
    """All metadata that steers the work, as the client sent it, and the lane of the topic it was sent to."""

    label: Literal["llmos-metadata-2"]
    tenant: TenantName
    request_id: RequestId
    idempotency_key: RequestId | None
    lane: Lane
    kind: Name
    model: ModelRef
    sealed: bool
    priority: Priority
    timeout: Timeout | None
    events: Events | None
    reply_to: TopicName | None
    reply_key: Key
    submitted_at: Seconds
    nonce: Digest


_metadata = msgspec.msgpack.Decoder(Metadata)


def metadata_bytes(request: Request, lane: str) -> bytes:
    """`Metadata` of a request, in one canonical order (MessagePack). They need not be within their bounds."""
    return msgspec.msgpack.encode(
        [
            "llmos-metadata-2", request.tenant, request.request_id, request.idempotency_key, lane, request.kind, request.model,
            request.sealed, request.priority, request.timeout, request.events, request.reply_to, request.reply_key,
            request.submitted_at, request.nonce,
        ]
    )  # fmt: skip


def read_metadata(data: bytes) -> Metadata:
    """What `metadata_bytes` wrote. Raises `Malformed`."""
    try:
        return _metadata.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise Malformed(problem=without_values(problem)[:500]) from None


def signed_bytes(request: Request, lane: str, content_type: str = MSGPACK) -> bytes:
    """What the MAC covers, of a record of this content type: see `signed_over`."""
    return signed_over(metadata_bytes(request, lane), request, content_type)


def signed_over(metadata: bytes, request: Request, content_type: str) -> bytes:
    """What the MAC covers: a label, how the body is given, the metadata, the body as it is sent.

    How: MessagePack of the bytes of `input`, its content type (empty where there is none: what `payload` holds is always
    MessagePack) and the checksum. So no byte can be read in another way, as part of another field, or held to another
    checksum. MessagePack says where both parts end. Of a request's fields only `traceparent` is not covered: it steers nothing,
    and what lies on the way may set it.
    """
    inline = bytes(request.input)
    how = msgspec.msgpack.encode([len(inline), content_type if inline else "", request.crc32c])
    return b"".join((b"llmos-request-4\0", how, metadata, inline, request.payload))


def body_of(request: Request) -> bytes:
    """The payload, or the inline input as it stands."""
    return request.payload or bytes(request.input)
