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
    Label,
    ModelRef,
    Name,
    Offset,
    Partition,
    RequestId,
    Seconds,
    Short,
    Signature,
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
    at: Seconds = 0.0
    mac: Signature = b""


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
    id: Label = ""
    """Of the reply, where one is wanted."""
    reply_to: TopicName | None = None
    mac: Signature = b""


class ModelCommand(Message, frozen=True, kw_only=True, tag="model_command/1"):
    """An operator's wish about a model, for the scheduler: it resolves the name, writes what lasts to `catalog`, tells the
    workers with a `ModelOrder` what they have to do, and replies with what it did."""

    id: RequestId
    what: Literal["alias", "unalias", "pin", "unpin", "load", "unload", "verify"]
    model: ModelRef = ""
    """Name, alias or identity; empty for `unalias`, and for `verify` of all models."""
    alias: Label = ""
    """Of `alias` and `unalias`: the name that is to stand for the model."""
    device: Label = ""
    """Empty: every device whose node has it."""
    at: Seconds
    reply_to: TopicName | None = None
    mac: Digest = b""


class ModelOrder(Message, frozen=True, kw_only=True, tag="model_order/1"):
    """The scheduler to the workers: load, unload or verify this model on this device."""

    what: Literal["load", "unload", "verify"]
    identity: Label
    """Empty: all models (of `verify`)."""
    device: Label = ""
    """Empty: every device."""
    at: Seconds
    mac: Signature = b""


class Fence(Message, frozen=True, kw_only=True, tag="fence/1"):
    """The scheduler took this life of a device for hung or lost: a worker that meets its own fence ends, and its node ends
    a process that does not."""

    device: Name
    node: Name
    incarnation: Offset
    pid: Count
    at: Seconds
    reason: Short = ""
    mac: Signature = b""


Operators = ModelCommand | Drain
"""By operators, under their key; a `Query` without a tenant is one too."""
Orders = CancelTask | ModelOrder | Fence
"""By the scheduler, signed under its key `control`."""


def signed_control(message: Cancel | Query | Operators | Orders) -> bytes:
    """What MAC and signature cover: a label that names the kind, and every field, in one canonical order (MessagePack).

    Under the tenant's secret, of a cancel and of a tenant's query; under the operators' key, of their commands and of
    queries that name no tenant; the scheduler signs its orders under the key `control` (Ed25519).
    """
    fields = [getattr(message, name) for name in message.__struct_fields__ if name != "mac"]
    return msgspec.msgpack.encode([f"llmos-{message.__struct_config__.tag}", *fields])


CONTROL = Codec.of(Cancel, CancelTask, Query, Drain, ModelCommand, ModelOrder, Fence)
REPLY = Codec.of(Reply)
