"""What is known of a job wherever it is: its origin, its head, its parts, its times and its use of resources."""

from __future__ import annotations

from typing import Literal

from llmos.schemas.base import Value
from llmos.schemas.errors import LlmosError
from llmos.schemas.limits import (
    Code,
    Count,
    Crc32c,
    Digest,
    Epoch,
    JobId,
    Key,
    Name,
    Offset,
    Partition,
    Priority,
    RequestId,
    Sealed,
    Seconds,
    Short,
    TenantName,
    Timeout,
    TopicName,
    Traceparent,
)

Lane = Literal["interactive", "standard", "batch"]
LANES: tuple[Lane, ...] = ("interactive", "standard", "batch")
"""Most urgent first."""
Events = Literal["none", "states", "tokens"]


def default_events(lane: Lane) -> Events:
    """How much is told on the stream where a request does not say."""
    return "none" if lane == "batch" else "states"


class Origin(Value, frozen=True, array_like=True, kw_only=False):
    """Where a submission was produced: the offset its acknowledgement named."""

    topic: TopicName
    partition: Partition
    offset: Offset


class ErrorInfo(Value, frozen=True, kw_only=True):
    """An error as it travels: its stable code, a message for people, whether a retry helps."""

    code: Code
    message: Short
    retryable: bool = False
    retry_after: Seconds = 0.0
    """When trying again makes sense, in seconds; 0: unknown."""


def error_info(error: LlmosError) -> ErrorInfo:
    """An error as it travels."""
    return ErrorInfo(
        code=error.code, message=str(error)[:2048], retryable=error.retryable, retry_after=error.retry_after
    )


class Option(Value, frozen=True, array_like=True, kw_only=False):
    """A number that an input sets to something else than its default."""

    name: Code
    value: float


class Head(Value, frozen=True, kw_only=True):
    """What every stage knows of a job without opening a payload; made by ingest, completed by verify."""

    job_id: JobId
    tenant: TenantName
    request_id: RequestId
    origin: Origin
    lane: Lane
    kind: Name
    model: str = ""
    """Model identity (hex), resolved once in verify; empty where the kind needs no model."""
    model_name: str = ""
    """What the client asked for."""
    events: Events = "states"
    reply_to: TopicName | None = None
    reply_key: Key = b""
    """Public key to which answers and events are sealed (as `llmos.infra.crypto.hpke` has it); empty for a clear answer."""
    wrapped_output_key: Key = b""
    """Not written any more: an envelope carries its wrapped keys itself."""
    content_digest: Digest = b""
    """HMAC-SHA-256 of the request's content, job id included, under the tenant's secret."""
    other_digest: Digest = b""
    """The same under the tenant's other secret while a rotation lets two hold: what is repeated then is known again."""
    priority: Priority = 4
    timeout: Timeout = 600.0
    parts: Count = 1
    items: Count = 1
    size: Count = 0
    """Payload size in bytes, as charged to the lane's credits."""
    submitted_at: Seconds = 0.0
    """By the client's clock."""
    admitted_at: Seconds = 0.0
    sealed_at: Seconds = 0.0
    traceparent: Traceparent = ""
    sealed: bool = False
    """The client sealed the payload."""
    options: list[Option] = []
    """Of a receipt: the numbers by which the input asks for more or less than usual (`max_tokens`, `temperature`, …)."""

    @property
    def hold(self) -> str:
        """Name of this submission's credit in the ledger: unique per submission, not per job id."""
        return f"{self.job_id.hex()}@{self.origin.topic}:{self.origin.partition}:{self.origin.offset}"


class Part(Value, frozen=True, kw_only=True):
    """A piece of a job that runs as one task, sealed."""

    index: Count
    first_item: Count
    items: Count
    envelope: Sealed
    crc32c: Crc32c
    """Over the envelope: tells corruption from forgery."""
    input_tokens: Count = 0
    max_output_tokens: Count = 0


class Item(Value, frozen=True, kw_only=True):
    """The outcome of one item of a job."""

    output_index: Count
    output: Sealed = b""
    """MessagePack of the kind's output; where `sealed`, an envelope of it for the asker."""
    error: ErrorInfo | None = None
    sealed: bool = False
    part: Count = 0
    """The part it belongs to; its attempt is `Answer.epochs[part]`."""
    digest: Digest = b""
    """HMAC of the clear output, or of the error's code, under a key that only the tenant and the worker have."""
    tokens_in: Count = 0
    tokens_out: Count = 0


class Usage(Value, frozen=True, kw_only=True):
    """What a task or job used."""

    tokens_in: Count = 0
    tokens_out: Count = 0
    device_seconds: Seconds = 0.0


class Times(Value, frozen=True, kw_only=True):
    """When a task passed each stage (Unix seconds, each by the clock of its machine)."""

    dispatched_at: Seconds = 0.0
    received_at: Seconds = 0.0
    started_at: Seconds = 0.0
    first_output_at: Seconds = 0.0
    finished_at: Seconds = 0.0


class Task(Value, frozen=True, array_like=True, kw_only=False):
    """Names one attempt at one part: partition and offset of the job on `sealed`, the part, the epoch."""

    partition: Partition
    s: Offset
    part: Count
    epoch: Epoch
