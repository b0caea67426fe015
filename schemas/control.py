"""`control`: cancels and queries, by clients and the CLI; the replies go to the topic that the query names."""

from __future__ import annotations

from typing import Literal

import msgspec

from llmos.schemas.base import Codec, Message
from llmos.schemas.job import ErrorInfo
from llmos.schemas.limits import Digest, JobId, Name, Offset, Partition, RequestId, Seconds, TenantName, TopicName


class Cancel(Message, frozen=True, kw_only=True, tag="cancel/1"):
    """Ends the tenant's submissions of this job that were made no later than `at`."""

    tenant: TenantName
    job_id: JobId
    at: Seconds
    mac: Digest = b""


class CancelTask(Message, frozen=True, kw_only=True, tag="cancel_task/1"):
    """The scheduler to the workers: (partition, s) is over, stop its tasks."""

    partition: Partition
    s: Offset


class Query(Message, frozen=True, kw_only=True, tag="query/1"):
    """A question; the reply carries its id."""

    id: RequestId
    what: Literal["status", "job", "jobs", "devices", "models"]
    reply_to: TopicName
    tenant: TenantName | None = None
    job_id: JobId | None = None
    mac: Digest = b""


class Reply(Message, frozen=True, kw_only=True, tag="reply/1"):
    """The answer to a query: `body` is a JSON-like value."""

    id: RequestId
    body: msgspec.Raw = msgspec.Raw()
    error: ErrorInfo | None = None


class Drain(Message, frozen=True, kw_only=True, tag="drain/1"):
    """A device finishes what it has and takes no more."""

    device: Name
    at: Seconds


def signed_control(message: Cancel | Query) -> bytes:
    """What the MAC of a cancel or a query covers."""
    if isinstance(message, Cancel):
        return msgspec.msgpack.encode(["llmos-cancel-1", message.tenant, message.job_id, message.at])
    return msgspec.msgpack.encode(["llmos-query-1", message.tenant, message.id, message.what, message.job_id])


CONTROL = Codec.of(Cancel, CancelTask, Query, Drain)
REPLY = Codec.of(Reply)
