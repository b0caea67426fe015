"""Makes requests: checks them as the pipeline will, seals them, gives them checksum, nonce and authentication code; no I/O."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from llmos.client.sealing import Sealing
from llmos.infra.crypto.crc import crc32c
from llmos.infra.crypto.credentials import ReplyKey
from llmos.infra.crypto.macs import mac
from llmos.schemas import ids
from llmos.schemas.base import encode
from llmos.schemas.errors import BadSetting, InvalidRequest, Malformed, TooLarge
from llmos.schemas.job import Events, Lane
from llmos.schemas.limits import PAYLOAD_BYTES
from llmos.schemas.requests import REQUESTS, Request, signed_bytes
from llmos.schemas.tasks import INPUTS, GenerateInput

Input = msgspec.Struct | Mapping[str, Any]
"""One of `llmos.schemas.tasks`, or a map with the same fields."""
ReplyTo = Literal["tenant", "ephemeral"]
"""To whose key answer and events are sealed: the tenant's, so that every client with its credentials can read them at any time,
or one that is made for this request and never leaves this client."""
NONCE_BYTES = 16


class Task(NamedTuple):
    """One submission before it is sent; the fields are those of `Client.submit`."""

    kind: str
    input: Input
    model: str = ""
    lane: Lane = "standard"
    priority: int = 4
    timeout: float | None = None
    """In seconds; None: the tenant's default."""
    idempotency_key: str | None = None
    events: Events | None = None
    request_id: str | None = None
    clear: bool = False
    """Sends in the clear on purpose, where the tenant's policy allows it."""
    reply: ReplyTo = "tenant"
    hybrid: bool = False
    """An ephemeral key is one of ML-KEM-768 with X25519, which also withstands quantum computers."""


class Built(NamedTuple):
    """A request as it goes on the wire."""

    request: Request
    lane: Lane
    job_id: bytes
    value: bytes
    reply_key: ReplyKey | None = None
    """The ephemeral key that opens its answer."""


def build(
    task: Task, *, tenant: str, secret: bytes, request_id: str, now: float, sealing: Sealing | None = None
) -> Built:
    """The request of `task`, made at `now` (Unix seconds); without a secret it carries no authentication code, without
    `sealing` it is clear.

    Raises:
        InvalidRequest: a field is out of its bounds, or the input is not what the kind takes.
        TooLarge: the input has more bytes than a payload may have.
        BadSetting: the credentials lack what sealing needs.
    """
    sealing = None if task.clear else sealing
    payload = _payload(task)
    reply_key, public = _reply_key(task)
    if sealing is not None and reply_key is None and not sealing.can_read_replies:
        problem = 'they have no reply key, so that nobody could open the answer; ask with reply="ephemeral"'
        raise BadSetting(setting="credentials", problem=problem)
    request = Request(
        request_id=request_id,
        tenant=tenant,
        kind=task.kind,
        model=task.model,
        sealed=sealing is not None,
        idempotency_key=task.idempotency_key,
        priority=task.priority,
        timeout=None if task.timeout is None else float(task.timeout),
        events=task.events,
        reply_key=public,
        submitted_at=now,
        nonce=secrets.token_bytes(NONCE_BYTES) if secret else b"",
    )
    if sealing is not None:
        payload = _fitting(sealing.seal(request, task.lane, payload, now), "The input, sealed,")
    request = msgspec.structs.replace(request, payload=payload, crc32c=crc32c(payload))
    if secret:
        tag = mac(secret, signed_bytes(request, task.lane))
        request = msgspec.structs.replace(request, mac=tag)
    value = encode(request)
    try:
        REQUESTS.decode(value)
    except Malformed as problem:
        raise InvalidRequest(where="the request", problem=str(problem.values["problem"])) from None
    return Built(request, task.lane, ids.job_id(tenant, task.idempotency_key or request_id), value, reply_key)


def _reply_key(task: Task) -> tuple[ReplyKey | None, bytes]:
    """A fresh key where one is asked for, and its public half."""
    if task.reply == "tenant":
        if task.hybrid:
            raise InvalidRequest(where="hybrid", problem='it says of which kind an ephemeral key is: reply="ephemeral"')
        return None, b""
    key = ReplyKey.fresh("mlkem768-x25519" if task.hybrid else "x25519")
    return key, key.public


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
    return _fitting(payload, "The input")


def _fitting(payload: bytes, what: str) -> bytes:
    if len(payload) > PAYLOAD_BYTES:
        raise TooLarge(what=what, size=len(payload), limit=PAYLOAD_BYTES)
    return payload
