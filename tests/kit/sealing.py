"""Requests as a client that seals makes them, and what ingest makes of them, for tests of the stages behind."""

from __future__ import annotations

from typing import Any

import msgspec

from llmos.infra.crypto.channels import item_bound, request_bound
from llmos.infra.crypto.crc import crc32c
from llmos.infra.crypto.credentials import ReplyKeys
from llmos.infra.crypto.envelope import Secret, open_envelope
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.macs import mac
from llmos.schemas.admitted import Admitted
from llmos.schemas.base import MSGPACK
from llmos.schemas.job import Head, Lane, default_events
from llmos.schemas.requests import Request, metadata_bytes, signed_bytes
from llmos.schemas.results import Answer
from tests.kit.bench import KEYS, head


def sealed_request(
    body: Any, keys: Keyring = KEYS, lane: Lane = "standard", public: bytes = b"", **fields: Any
) -> Request:
    """A request with `body` (the kind's input, as a map or as bytes) sealed to `public`, else to the system."""
    values: dict[str, Any] = {"request_id": "k", "tenant": "demo", "kind": "echo", "nonce": bytes(16)} | fields
    request = Request(sealed=True, **values)
    inside = body if isinstance(body, bytes) else msgspec.msgpack.encode(body)
    bound = request_bound(request, lane)
    secret = Secret.for_public(public or keys.active("ingress").public, request.tenant)
    envelope = secret.data_key(bound).seal(bound, inside)
    return msgspec.structs.replace(request, payload=envelope, crc32c=crc32c(envelope))


def signed(request: Request, secret: bytes, lane: Lane = "standard") -> Request:
    """The request under the tenant's secret."""
    return msgspec.structs.replace(request, mac=mac(secret, signed_bytes(request, lane)))


def opened_texts(answer: Answer, keys: ReplyKeys) -> list[str]:
    """The texts in an answer to an echo that was sealed for the holder of `keys`. Raises `EnvelopeRejected`."""
    return [
        msgspec.msgpack.decode(
            open_envelope(keys, item_bound(answer, item.part, answer.epochs[item.part], item.output_index), item.output)
        )["text"]
        for item in answer.items
    ]


def admitted_of(request: Request, offset: int = 0, lane: Lane = "standard", **fields: Any) -> Admitted:
    """What ingest makes of it; `fields`: of the head, where ingest has them otherwise."""
    bound = request_bound(request, lane)
    own: dict[str, Any] = {
        "job_id": bound.job_id,
        "tenant": request.tenant,
        "request_id": request.request_id,
        "lane": lane,
        "kind": request.kind,
        "model_name": request.model,
        "reply_key": request.reply_key,
        "reply_to": request.reply_to,
        "events": request.events or default_events(lane),
        "priority": request.priority,
        "sealed": request.sealed,
    }
    if request.timeout is not None:
        own["timeout"] = request.timeout
    found: Head = head(offset=offset, **(own | fields))
    return Admitted(
        head=found,
        payload=request.payload,
        encoding=MSGPACK,
        sealed=request.sealed,
        crc32c=request.crc32c,
        metadata=metadata_bytes(request, lane),
    )
