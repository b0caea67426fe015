"""`results` (and `reply_to` topics): one answer per submission; `usage`: its receipt; by the aggregator, in one transaction."""

from __future__ import annotations

from typing import Literal

import msgspec

from llmos.schemas.base import Codec, Message, Value
from llmos.schemas.job import ErrorInfo, Item, Lane, Option, Origin, Usage
from llmos.schemas.limits import (
    Count,
    Digest,
    Epoch,
    JobId,
    Key,
    Name,
    Offset,
    Partition,
    RequestId,
    Seconds,
    TenantName,
)

Status = Literal["completed", "failed", "cancelled", "expired", "refused", "pointer"]


class Stages(Value, frozen=True, kw_only=True):
    """When a job passed each stage (Unix seconds); of several parts the first dispatch and the last finish."""

    submitted_at: Seconds = 0.0
    admitted_at: Seconds = 0.0
    sealed_at: Seconds = 0.0
    dispatched_at: Seconds = 0.0
    started_at: Seconds = 0.0
    first_output_at: Seconds = 0.0
    finished_at: Seconds = 0.0
    answered_at: Seconds = 0.0


class Answer(Message, frozen=True, kw_only=True, tag="answer/1"):
    """The one answer to a submission; match it by `origin`, else by `request_id`."""

    job_id: JobId
    tenant: TenantName
    request_id: RequestId
    origin: Origin
    partition: Partition
    s: Offset
    status: Status
    items: list[Item] = []
    error: ErrorInfo | None = None
    original: Origin | None = None
    """Of a pointer: the earlier submission whose answer holds."""
    original_s: Offset | None = None
    kind: str = ""
    model: str = ""
    model_name: str = ""
    epochs: list[Epoch] = []
    """The epoch of each part that counts."""
    devices: list[Name] = []
    wrapped_output_key: Key = b""
    """Not written any more: an envelope carries its wrapped keys itself."""
    usage: Usage = Usage()
    stages: Stages = Stages()


class Receipt(Message, frozen=True, kw_only=True, tag="receipt/1"):
    """What an answer used, without its payload; its presence is what finishes a job."""

    job_id: JobId
    tenant: TenantName
    partition: Partition
    s: Offset
    status: Status
    code: str = ""
    lane: Lane = "standard"
    kind: str = ""
    model: str = ""
    hold: str = ""
    origin: Origin
    content_digest: Digest = b""
    """HMAC of the request's content under the tenant's secret."""
    output_digest: Digest = b""
    """SHA-256 over the digests of the answer's items; see `llmos.infra.crypto.channels`."""
    binds: bool = False
    """The job was accepted, so that its idempotency key is bound."""
    attempts: Count = 0
    devices: list[Name] = []
    usage: Usage = Usage()
    stages: Stages = Stages()
    reply_failed: str = ""
    """Why the copy to `reply_to` was left out."""
    precision: str = ""
    """Number format of the model as it ran (`bfloat16`, …); of several parts that differ, all of them."""
    options: list[Option] = []
    """See `Head.options`."""
    part_count: Count = 0
    """Parts that were done."""
    item_count: Count = 0
    """Items of the answer."""
    signing_key: str = ""
    signature: Key = b""
    """Ed25519 over `signed_receipt`, by the system's receipt key; anyone can check it with the public half."""


def signed_receipt(record: bytes) -> bytes:
    """What a receipt's signature covers: a label, and the record's own map without `signature`, written anew.

    It is made of the record, not of the fields that this version knows: receipts of later versions can be checked too.
    """
    fields = msgspec.msgpack.decode(record)
    fields.pop("signature", None)
    return b"llmos-receipt-1\0" + msgspec.msgpack.encode(fields)


RESULTS = Codec.of(Answer)
USAGE = Codec.of(Receipt)
