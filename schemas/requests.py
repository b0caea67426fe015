"""`requests.*`: what clients send; MessagePack, or JSON with the header `content-type: application/json`."""

from __future__ import annotations

import msgspec

from llmos.schemas.base import Codec, Message
from llmos.schemas.job import Events
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
    """The payload is an envelope made by the client."""
    idempotency_key: RequestId | None = None
    """Names the work; by default the request id does."""
    priority: Priority = 4
    timeout: Timeout = 600.0
    events: Events | None = None
    """How much to hear on the stream; by default `states`, and `none` on the batch lane."""
    reply_to: TopicName | None = None
    reply_key: Key = b""
    crc32c: Crc32c | None = None
    """CRC32C of `payload`."""
    submitted_at: Seconds = 0.0
    mac: Digest = b""
    """HMAC-SHA-256 over `signed_bytes` under the tenant's secret."""
    traceparent: Traceparent = ""


REQUESTS = Codec.of(Request)


def signed_bytes(request: Request, lane: str) -> bytes:
    """What the MAC covers: all metadata that steers the work, and the payload, in one canonical order."""
    body = bytes(request.input) if not request.payload else request.payload
    return msgspec.msgpack.encode(
        [
            "llmos-request-1", request.tenant, request.request_id, request.idempotency_key, lane, request.kind,
            request.model, request.sealed, request.priority, request.timeout, request.events, request.reply_to,
            request.reply_key, request.submitted_at, body,
        ]
    )  # fmt: skip
