"""`control`: cancels and queries, by clients and the CLI; the replies go to the topic that the query names."""

from __future__ import annotations

from typing import Literal

import msgspec

from llmos.schemas.base import Codec, Message
from llmos.schemas.job import ErrorInfo
from llmos.schemas.limits import (
    Count,
    Digest,
    JobId,
    ModelRef,
    Name,
    Offset,
    Partition,
    RequestId,
    Seconds,
    Short,
    TenantName,
    TopicName,
)


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
    what: Literal["status", "job", "jobs", "explain", "devices", "models"]
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
    """A device finishes what it has and takes no more; with `undo`, it takes work again."""

    device: Name
    at: Seconds
    undo: bool = False
    id: str = ""
    """Of the reply, where one is wanted."""
    reply_to: TopicName | None = None


class ModelCommand(Message, frozen=True, kw_only=True, tag="model_command/1"):
    """An operator's wish about a model, for the scheduler: it resolves the name, writes what lasts to `catalog`, tells the
    workers with a `ModelOrder` what they have to do, and replies with what it did."""

    id: RequestId
    what: Literal["alias", "unalias", "pin", "unpin", "load", "unload", "verify"]
    model: ModelRef = ""
    """Name, alias or identity; empty for `unalias`, and for `verify` of all models."""
    alias: str = ""
    """Of `alias` and `unalias`: the name that is to stand for the model."""
    device: str = ""
    """Empty: every device whose node has it."""
    at: Seconds
    reply_to: TopicName | None = None


class ModelOrder(Message, frozen=True, kw_only=True, tag="model_order/1"):
    """The scheduler to the workers: load, unload or verify this model on this device."""

    what: Literal["load", "unload", "verify"]
    identity: str
    """Empty: all models (of `verify`)."""
    device: str = ""
    """Empty: every device."""
    at: Seconds


class Fence(Message, frozen=True, kw_only=True, tag="fence/1"):
    """The scheduler took this life of a device for hung or lost: a worker that meets its own fence ends, and its node ends
    a process that does not."""

    device: Name
    node: Name
    incarnation: Offset
    pid: Count
    at: Seconds
    reason: Short = ""


def signed_control(message: Cancel | Query) -> bytes:
    """What the MAC of a cancel or a query covers."""
    if isinstance(message, Cancel):
        return msgspec.msgpack.encode(["llmos-cancel-1", message.tenant, message.job_id, message.at])
    return msgspec.msgpack.encode(["llmos-query-1", message.tenant, message.id, message.what, message.job_id])


CONTROL = Codec.of(Cancel, CancelTask, Query, Drain, ModelCommand, ModelOrder, Fence)
REPLY = Codec.of(Reply)
