"""`requests.*`: what clients send; MessagePack, or JSON with the header `content-type: application/json`."""

from __future__ import annotations

from typing import Any

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


def metadata_bytes(request: Request, lane: str) -> bytes:
    """All metadata that steers the work, in one canonical order (MessagePack)."""
    return msgspec.msgpack.encode(["llmos-metadata-2", *_metadata(request, lane)])


def signed_bytes(request: Request, lane: str) -> bytes:
    """What the MAC covers: the metadata and the payload, in one canonical order (MessagePack)."""
    body = bytes(request.input) if not request.payload else request.payload
    return msgspec.msgpack.encode(["llmos-request-2", *_metadata(request, lane), body])


def _metadata(request: Request, lane: str) -> list[Any]:
    return [
        request.tenant, request.request_id, request.idempotency_key, lane, request.kind, request.model, request.sealed,
        request.priority, request.timeout, request.events, request.reply_to, request.reply_key, request.submitted_at,
        request.nonce,
    ]  # fmt: skip
