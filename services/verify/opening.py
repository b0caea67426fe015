"""Opens what a client sent: the checksum, the client's envelope, and whether a clear payload may come at all. Pure."""

from __future__ import annotations

import re

from llmos.infra.crypto.channels import request_bound_of
from llmos.infra.crypto.counted import open_counted
from llmos.infra.crypto.crc import crc32c
from llmos.infra.crypto.envelope import parse
from llmos.infra.crypto.keyring import Keys
from llmos.schemas.admitted import Admitted
from llmos.schemas.base import MSGPACK
from llmos.schemas.catalog import Tenant
from llmos.schemas.errors import EnvelopeRejected, PayloadDamaged, PlaintextForbidden, UnknownKey

_KEY_ID = re.compile(r"[0-9a-f]{1,64}\Z")


def check_whole(message: Admitted) -> None:
    """Raises `PayloadDamaged` where the payload is not the one that the client made its checksum of."""
    if message.crc32c is None:
        return
    found = crc32c(message.payload)
    if found != message.crc32c:
        raise PayloadDamaged(found=found, said=message.crc32c)


def open_payload(message: Admitted, tenant: Tenant, keys: Keys) -> tuple[bytes, str]:
    """The kind's input and its content type.

    Raises:
        PlaintextForbidden: it is clear, and the tenant's must be sealed.
        UnknownKey: it is sealed to a key that is not here, or not any more.
        EnvelopeRejected: it does not open as what the request says it is; always with the same words.
    """
    if not message.sealed:
        if tenant.plaintext == "forbid":
            raise PlaintextForbidden(tenant=tenant.name)
        return message.payload, message.encoding
    readers = _readers(message.payload)
    if readers and not any(map(keys.has, readers)):
        raise UnknownKey(key_id=readers[0])
    return open_counted(keys, request_bound_of(message.head, message.metadata_digest), message.payload), MSGPACK


def _readers(envelope: bytes) -> list[str]:
    """The ids of the keys that it is sealed to; none where it is no envelope, or what stands there cannot be ids."""
    try:
        found = [key_id for key_id, _ in parse(envelope).wrapped]
    except EnvelopeRejected:
        return []
    return found if all(map(_KEY_ID.match, found)) else []
