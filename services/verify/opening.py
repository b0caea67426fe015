"""Opens what a client sent: the checksum, the client's envelope, what the client itself asked for, and whether a clear
payload may come at all. Pure.

Of a sealed request the head on `admitted` is not believed: whoever can write there could copy an envelope under a head that
names a reply key of his own, and read the answer. The envelope is bound to the metadata that the client sent, so that once it
has opened they are as authentic as what is inside; a head that says anything else is refused.
"""

from __future__ import annotations

import re
from operator import attrgetter
from typing import Final, NamedTuple

from llmos.infra.crypto.channels import request_bound_of
from llmos.infra.crypto.counted import open_counted, parse_counted
from llmos.infra.crypto.crc import crc32c
from llmos.infra.crypto.keyring import Keys
from llmos.infra.telemetry.metrics import ENVELOPES_REJECTED, counter
from llmos.schemas.admitted import Admitted
from llmos.schemas.base import MSGPACK
from llmos.schemas.catalog import Tenant
from llmos.schemas.errors import EnvelopeRejected, Malformed, PayloadDamaged, PlaintextForbidden, UnknownKey
from llmos.schemas.ids import job_id
from llmos.schemas.job import Head, default_events
from llmos.schemas.requests import Metadata, read_metadata

_KEY_ID = re.compile(r"[0-9a-f]{1,64}\Z")
"""What can be an id; anything else in its place is not told of."""

_agreed: Final = attrgetter(
    "job_id", "tenant", "request_id", "lane", "kind", "model_name", "events", "reply_to", "priority", "sealed"
)
"""What a head has from the client alone."""


class Opened(NamedTuple):
    """What a submission says, as its client said it."""

    body: bytes
    """The kind's input."""
    encoding: str
    """Its content type."""
    head: Head
    """Of a sealed one made anew from what is authentic; of a clear one as ingest passed it on."""


def check_whole(message: Admitted) -> None:
    """Raises `PayloadDamaged` where the payload is not the one that the client made its checksum of."""
    if message.crc32c is None:
        return
    found = crc32c(message.payload)
    if found != message.crc32c:
        raise PayloadDamaged(found=found, said=message.crc32c)


def open_payload(message: Admitted, tenant: Tenant, keys: Keys, now: float) -> Opened:
    """What was asked, by whom it may be asked. `now`: Unix seconds.

    Raises:
        PlaintextForbidden: it is clear, and the tenant's must be sealed.
        UnknownKey: it is sealed to a key that is not here, or not any more.
        EnvelopeRejected: it does not open as what the request says it is, or the head says something else than its client
            did; always with the same words.
    """
    if not message.sealed:
        if tenant.plaintext == "forbid":
            raise PlaintextForbidden(tenant=tenant.name)
        return Opened(message.payload, message.encoding, message.head)
    envelope = parse_counted("request", message.payload)
    readers = [key_id for key_id, _ in envelope.wrapped]
    if not any(map(keys.has, readers)) and all(map(_KEY_ID.match, readers)):
        raise UnknownKey(key_id=readers[0])
    body = open_counted(keys, request_bound_of(message.head, message.metadata), envelope)
    try:
        head = authentic_head(message.head, read_metadata(message.metadata), tenant, len(message.payload), now)
    except (Malformed, EnvelopeRejected):
        counter(ENVELOPES_REJECTED, "request").inc()
        raise EnvelopeRejected() from None
    return Opened(body, MSGPACK, head)


def authentic_head(head: Head, said: Metadata, tenant: Tenant, size: int, now: float) -> Head:
    """The head of a submission as ingest should have made it of what its client said: origin, `admitted_at` and
    `traceparent` are ingest's, all that verify fills in is empty, and what the client left open is as the tenant's row has
    it now. `size`: of the payload in bytes.

    Raises:
        EnvelopeRejected: `head` says something else.
    """
    found = Head(
        job_id=job_id(said.tenant, said.idempotency_key or said.request_id),
        tenant=said.tenant,
        request_id=said.request_id,
        origin=head.origin,
        lane=said.lane,
        kind=said.kind,
        model_name=said.model,
        events=said.events or default_events(said.lane),
        reply_to=said.reply_to,
        reply_key=said.reply_key or tenant.reply_key,
        priority=said.priority,
        timeout=said.timeout or tenant.usual_timeout,
        size=size,
        submitted_at=min(said.submitted_at, now) or head.submitted_at,
        admitted_at=head.admitted_at,
        traceparent=head.traceparent,
        sealed=said.sealed,
    )
    # A key and a time-out that the client left open may have changed in the tenant's row since ingest looked there.
    other_key = bool(said.reply_key) and said.reply_key != head.reply_key
    other_timeout = said.timeout is not None and said.timeout != head.timeout
    if other_key or other_timeout or _agreed(found) != _agreed(head):
        raise EnvelopeRejected()
    return found
