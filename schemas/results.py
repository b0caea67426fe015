"""`results` (and `reply_to` topics): one answer per submission; `usage`: its receipt; by the aggregator, in one transaction."""

from __future__ import annotations

from typing import Literal

from llmos.schemas.base import Codec, Message, Value
from llmos.schemas.job import ErrorInfo, Item, Lane, Origin, Usage
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
    output_digest: Digest = b""
    binds: bool = False
    """The job was accepted, so that its idempotency key is bound."""
    attempts: Count = 0
    devices: list[Name] = []
    usage: Usage = Usage()
    stages: Stages = Stages()
    reply_failed: str = ""
    """Why the copy to `reply_to` was left out."""


RESULTS = Codec.of(Answer)
USAGE = Codec.of(Receipt)
