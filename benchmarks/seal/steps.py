"""The steps at which a record is sealed, opened, authenticated or signed, each made of the very functions that the services call."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from llmos.infra.crypto import hpke
from llmos.infra.crypto.channels import (
    EventBody,
    digest_key,
    encode_body,
    event_bound,
    item_bound,
    item_digest,
    request_bound,
)
from llmos.infra.crypto.crc import crc32c
from llmos.infra.crypto.credentials import ReplyKey, ReplyKeys
from llmos.infra.crypto.envelope import DataKey, Secret, open_envelope
from llmos.infra.crypto.hpke import Recipient
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.macs import check_mac, mac
from llmos.infra.crypto.receipts import Notary
from llmos.pipelines.kinds.base import PartPlan
from llmos.pipelines.kinds.parts import PartSeals, open_part
from llmos.schemas.base import encode
from llmos.schemas.ids import job_id
from llmos.schemas.job import Head, Item, Lane, Origin, Part
from llmos.schemas.requests import Request, signed_bytes
from llmos.schemas.results import Receipt, Stages
from llmos.schemas.sealed import SEALED
from llmos.schemas.stream import Tokens
from llmos.schemas.tasks import EchoInput, EchoOutput

TENANT = "acme"
LANE: Lane = "standard"
_AT = 1_700_000_000.0


class Parties(NamedTuple):
    """Who has which key: the tenant, and the system."""

    secret: bytes
    reply: ReplyKey
    reader: ReplyKeys
    system: Keyring
    parts: PartSeals
    """Of verify."""
    asking: Secret
    """Of the client: for the system's ingress key."""
    answering: Secret
    """Of the worker: for the tenant's reply key."""

    @staticmethod
    def fresh(algorithm: Recipient = "x25519") -> Parties:
        """With a reply key, and an ingress key, of this algorithm."""
        system = Keyring.memory(TENANT)
        if algorithm != "x25519":
            system = system.rotated("ingress", algorithm=algorithm)
        reply = ReplyKey.fresh(algorithm)
        return Parties(
            secret=os.urandom(32),
            reply=reply,
            reader=ReplyKeys([reply]),
            system=system,
            parts=PartSeals(system),
            asking=Secret.for_public(system.active("ingress").public, TENANT),
            answering=Secret.for_public(reply.public, TENANT),
        )


def input_of(size: int) -> bytes:
    """The input of an echo job whose text has so many bytes."""
    return msgspec.msgpack.encode(EchoInput(text="x" * size))


def clear_request(name: str, payload: bytes) -> bytes:
    """What a client without credentials does for a request."""
    return encode(_request(name, payload, sealed=False, nonce=b""))


def sealed_request(parties: Parties, name: str, payload: bytes) -> Request:
    """What a client with credentials does for a request, but for its bytes on the wire."""
    bare = _request(name, b"", sealed=True, nonce=os.urandom(16))
    bound = request_bound(bare, LANE)
    envelope = parties.asking.data_key(bound).seal(bound, payload)
    request = msgspec.structs.replace(bare, payload=envelope, crc32c=crc32c(envelope))
    return msgspec.structs.replace(request, mac=mac(parties.secret, signed_bytes(request, LANE)))


def check_request(parties: Parties, request: Request) -> bool:
    """What ingest does for an authentic request."""
    return check_mac(parties.secret, signed_bytes(request, LANE), request.mac)


def open_request(parties: Parties, request: Request) -> bytes:
    """What verify does for a sealed payload."""
    return open_envelope(parties.system, request_bound(request, LANE), request.payload)


def seal_part(parties: Parties, head: Head, payload: bytes) -> bytes:
    """What verify does for a job of one part: the record for `sealed`."""
    plans = [PartPlan(0, 1, payload, 0, 0, 0)]
    return parties.parts.seal(head, plans, digest_key(parties.secret, head.job_id), time.time())


def only_part(record: bytes) -> Part:
    """The part in a record of `sealed`."""
    job = SEALED.decode(record)
    part: Part = job.parts[0]
    return part


def open_work(parties: Parties, head: Head, part: Part) -> bytes:
    """What a worker does for a part."""
    if crc32c(part.envelope) != part.crc32c:
        raise ValueError("the part is damaged")
    return open_part(parties.system, head, part).input


def clear_item(output: bytes) -> bytes:
    """What a worker does for an item of a clear answer."""
    return msgspec.msgpack.encode(Item(output_index=0, output=output))


def sealed_item(parties: Parties, head: Head, key: bytes, output: bytes) -> bytes:
    """What a worker does for the first item of an attempt: a data key, an envelope, a digest."""
    bound = item_bound(head, 0, 1, 0)
    envelope = parties.answering.data_key(bound).seal(bound, output)
    return msgspec.msgpack.encode(
        Item(output_index=0, output=envelope, sealed=True, digest=item_digest(key, 0, 1, output, ""))
    )


def open_item(parties: Parties, head: Head, envelope: bytes) -> bytes:
    """What a client does for the first item of an answer."""
    return open_envelope(parties.reader, item_bound(head, 0, 1, 0), envelope)


def token_event(head: Head, sequence: int, text: str = "") -> Tokens:
    """A token event, its text in the clear."""
    return Tokens(
        job_id=head.job_id,
        request_id=head.request_id,
        origin=head.origin,
        partition=0,
        s=1,
        epoch=1,
        source="node-0.cpu0",
        sequence=sequence,
        first_token=sequence if text else 0,
        text=text,
    )


def sealed_event(data_key: DataKey, event: Tokens, text: str) -> bytes:
    """What a worker does for one token event."""
    body = encode_body(EventBody(text, event.sequence, 1, "", 0))
    return encode(msgspec.structs.replace(event, sealed=data_key.seal(event_bound(TENANT, event), body)))


def open_event(parties: Parties, event: Tokens) -> bytes:
    """What a client does for a token event."""
    return open_envelope(parties.reader, event_bound(TENANT, event), event.sealed)


def receipt_of(head: Head) -> Receipt:
    """The receipt of an answer of one item."""
    return Receipt(
        job_id=head.job_id,
        tenant=TENANT,
        partition=0,
        s=1,
        status="completed",
        kind="echo",
        hold=head.hold,
        origin=head.origin,
        content_digest=b"d" * 32,
        output_digest=b"o" * 32,
        binds=True,
        attempts=1,
        devices=["node-0.cpu0"],
        stages=Stages(submitted_at=_AT, admitted_at=_AT, sealed_at=_AT, dispatched_at=_AT, answered_at=_AT),
        part_count=1,
        item_count=1,
    )


def signing(parties: Parties) -> Callable[[Receipt], bytes]:
    """What the aggregator does for a receipt."""
    return Notary(parties.system).signed


def wrap_secret(algorithm: Recipient) -> tuple[Callable[[], object], Callable[[], object]]:
    """HPKE to a reply key: what wraps, and what unwraps."""
    reply = ReplyKey.fresh(algorithm)
    public, reader = reply.public, ReplyKeys([reply])
    key_id, wrapped = hpke.key_id_of(public), hpke.wrap_for(public, b"s" * 32, b"bench")
    return (
        lambda: Secret.for_public(public, TENANT),
        lambda: reader.unwrap(key_id, wrapped, b"bench"),
    )


def wrapped_bytes(algorithm: Recipient) -> int:
    """What a wrapped secret and its key's id take of an envelope, with their lengths."""
    public = ReplyKey.fresh(algorithm).public
    return 1 + len(hpke.key_id_of(public)) + 2 + len(hpke.wrap_for(public, b"s" * 32, b"bench"))


def head_of(name: str) -> Head:
    """The head of an echo job."""
    return Head(
        job_id=job_id(TENANT, name),
        tenant=TENANT,
        request_id=name,
        origin=Origin("requests", 0, 1),
        lane=LANE,
        kind="echo",
    )


def output_of(size: int) -> bytes:
    """The output of an echo job whose text has so many bytes."""
    return msgspec.msgpack.encode(EchoOutput(text="x" * size))


def _request(name: str, payload: bytes, *, sealed: bool, nonce: bytes) -> Request:
    return Request(
        request_id=name,
        tenant=TENANT,
        kind="echo",
        payload=payload,
        sealed=sealed,
        events="none",
        crc32c=crc32c(payload),
        submitted_at=_AT,
        nonce=nonce,
    )
