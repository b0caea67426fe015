"""Makes requests: checks them as the pipeline will, and gives them their checksum and authentication code; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from llmos.infra.crypto.crc import crc32c
from llmos.infra.crypto.macs import mac
from llmos.schemas import ids
from llmos.schemas.base import encode
from llmos.schemas.errors import InvalidRequest, Malformed, TooLarge
from llmos.schemas.job import Events, Lane
from llmos.schemas.limits import PAYLOAD_BYTES
from llmos.schemas.requests import REQUESTS, Request, signed_bytes
from llmos.schemas.tasks import INPUTS, GenerateInput

Input = msgspec.Struct | Mapping[str, Any]
"""One of `llmos.schemas.tasks`, or a map with the same fields."""


class Task(NamedTuple):
    """One submission before it is sent; the fields are those of `Client.submit`."""

    kind: str
    input: Input
    model: str = ""
    lane: Lane = "standard"
    priority: int = 4
    timeout: float = 600.0
    idempotency_key: str | None = None
    events: Events | None = None
    request_id: str | None = None


class Built(NamedTuple):
    """A request as it goes on the wire."""

    request: Request
    lane: Lane
    job_id: bytes
    value: bytes


def build(task: Task, *, tenant: str, secret: bytes, request_id: str, now: float) -> Built:
    """The request of `task`, made at `now` (Unix seconds); without a secret it carries no authentication code.

    Raises:
        InvalidRequest: a field is out of its bounds, or the input is not what the kind takes.
        TooLarge: the input has more bytes than a payload may have.
    """
    payload = _payload(task)
    request = Request(
        request_id=request_id,
        tenant=tenant,
        kind=task.kind,
        model=task.model,
        payload=payload,
        idempotency_key=task.idempotency_key,
        priority=task.priority,
        timeout=float(task.timeout),
        events=task.events,
        crc32c=crc32c(payload),
        submitted_at=now,
    )
    if secret:
        tag = mac(secret, signed_bytes(request, task.lane))
        request = msgspec.structs.replace(request, mac=tag)
    value = encode(request)
    try:
        REQUESTS.decode(value)
    except Malformed as problem:
        raise InvalidRequest(where="the request", problem=str(problem.values["problem"])) from None
    return Built(request, task.lane, ids.job_id(tenant, task.idempotency_key or request_id), value)


def _payload(task: Task) -> bytes:
    type_ = INPUTS.get(task.kind)
    try:
        if type_ is not None:
            # A round trip, since structs do not check their fields when they are made.
            read = msgspec.convert(msgspec.to_builtins(task.input), type=type_)
            if isinstance(read, GenerateInput) and read.prompt and read.messages:
                raise InvalidRequest(where="input", problem="it has both a prompt and messages; send one of them")
        payload = msgspec.msgpack.encode(task.input)
    except (msgspec.ValidationError, TypeError) as problem:
        raise InvalidRequest(where="input", problem=str(problem)) from None
    if len(payload) > PAYLOAD_BYTES:
        raise TooLarge(what="The input", size=len(payload), limit=PAYLOAD_BYTES)
    return payload
