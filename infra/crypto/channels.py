"""What is sealed where: the binding of every kind of envelope, and the keyed digests of receipts, made in one place.

- request: client → verify, under a `Secret` for the system's `ingress` key; bound to all metadata that the MAC covers.
- part: verify → worker, under a `Secret` for the tenant's key and the workers' pool; see `PartBody`.
- item, event: worker → asker, under a `Secret` for the asker's reply key; bound to the attempt (epoch).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

import msgspec

from llmos.infra.crypto.envelope import Bound
from llmos.schemas.base import MSGPACK, Value
from llmos.schemas.ids import job_id
from llmos.schemas.job import Head, Lane
from llmos.schemas.requests import Request, metadata_bytes
from llmos.schemas.results import Answer
from llmos.schemas.stream import Tokens
from llmos.schemas.tasks import PartBody

DIGEST_BYTES = 32


class EventBody(Value, frozen=True, array_like=True, kw_only=False):
    """What is inside a sealed token event: the fields of `Tokens` that say something of the output."""

    text: str
    first_token: int
    tokens: int
    finish: str
    resume_at: int


def request_bound(request: Request, lane: Lane) -> Bound:
    """Binding of a request's sealed payload. What is inside is MessagePack of the kind's input."""
    job = job_id(request.tenant, request.idempotency_key or request.request_id)
    return _request_bound(request.tenant, job, request.kind, request.request_id, metadata_bytes(request, lane))


def request_bound_of(head: Head, metadata: bytes) -> Bound:
    """The same, from what ingest passes on: the head, which may have other values than the client sent, and what it did send
    (`llmos.schemas.requests.metadata_bytes`)."""
    return _request_bound(head.tenant, head.job_id, head.kind, head.request_id, metadata)


def _request_bound(tenant: str, job: bytes, kind: str, request_id: str, metadata: bytes) -> Bound:
    return Bound(
        tenant=tenant,
        channel="request",
        job_id=job,
        part=0,
        kind=kind,
        content_type=MSGPACK,
        schema=f"{kind}-input/1",
        request_id=request_id,
        extra=hashlib.sha256(metadata).digest(),
    )


def part_bound(head: Head, index: int, first_item: int, items: int) -> Bound:
    """Binding of part `index` of a job, whose items are `items` from `first_item` on; inside is a `PartBody`.

    It is bound to the reply key and to the model's identity, too: who may write to the log could otherwise send a copy of it
    under a head that names a key of his own, and have the worker seal the output for him. And to the place of its items among
    those of the job: else outputs would change places. (Their number is the sequence, the first one the item, so that all
    parts of a job have the same `extra`, and one data key.)
    """
    about = ["llmos-part-2", head.reply_key, head.model, head.parts, head.items]
    return Bound(
        tenant=head.tenant,
        channel="part",
        job_id=head.job_id,
        part=index,
        kind=head.kind,
        sequence=items,
        content_type=MSGPACK,
        schema=f"{head.kind}-input/2",
        request_id=head.request_id,
        item=first_item,
        extra=hashlib.sha256(msgspec.msgpack.encode(about)).digest(),
    )


def item_bound(of: Head | Answer, part: int, epoch: int, output_index: int) -> Bound:
    """Binding of an item's output; inside is MessagePack of the kind's output."""
    return Bound(
        tenant=of.tenant,
        channel="item",
        job_id=of.job_id,
        part=part,
        kind=of.kind,
        content_type=MSGPACK,
        schema=f"{of.kind}-output/1",
        request_id=of.request_id,
        epoch=epoch,
        item=output_index,
    )


def event_bound(tenant: str, event: Tokens) -> Bound:
    """Binding of a token event; inside is an `EventBody`. The kind is not on the wire, so it is not bound."""
    return Bound(
        tenant=tenant,
        channel="event",
        job_id=event.job_id,
        part=event.part,
        kind="",
        sequence=event.sequence,
        content_type=MSGPACK,
        schema="tokens/1",
        request_id=event.request_id,
        epoch=event.epoch,
        item=event.output_index,
    )


def digest_key(secret: bytes, job: bytes) -> bytes:
    """The key of a job's output digests, which the tenant can make too: HMAC-SHA-256 of the job id under its secret."""
    return hmac.digest(secret, b"llmos-output-digest-1\0" + job, "sha256")


def item_digest(key: bytes, output_index: int, items: int, output: bytes, code: str) -> bytes:
    """Digest of an item's clear output (MessagePack of the kind's output), or of its error's code; 32 bytes.

    `items`: how many the job has, so that none can be left out of the answer.
    """
    said = msgspec.msgpack.encode(["llmos-item-2", output_index, items, output, code])
    return hmac.digest(key, said, "sha256")


def output_digest(digests: Iterable[bytes]) -> bytes:
    """A receipt's digest of a whole answer: SHA-256 over the digests of its items, in the order of their indices."""
    return hashlib.sha256(b"llmos-output-1\0" + b"".join(digests)).digest()


def encode_body(body: PartBody | EventBody) -> bytes:
    """The bytes to be sealed."""
    return msgspec.msgpack.encode(body)
