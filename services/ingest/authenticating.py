"""Who asks: the tenant of a request, and the authentication code that proves it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from llmos.infra.crypto.crc import crc32c
from llmos.infra.crypto.macs import check_mac
from llmos.infra.crypto.secrets import fingerprint
from llmos.infra.log.port import Record
from llmos.schemas.catalog import Tenant
from llmos.schemas.errors import Corrupt, Forged, UnknownTenant
from llmos.schemas.requests import Request, metadata_bytes, signed_over
from llmos.schemas.topics import lane_of
from llmos.services.ingest.loose import Loose


class Tenants(NamedTuple):
    """Who may ask."""

    named: Callable[[str], Tenant | None]
    secrets: Callable[[Tenant, float], Sequence[bytes]]
    """The secrets of a tenant that hold at a time (Unix seconds): the present one, around a rotation also the one before."""


class Proved(NamedTuple):
    """Whose request it is."""

    tenant: Tenant
    signed_with: bytes
    """Fingerprint of the secret under which it was signed; empty: it carries no code, and needs none."""
    metadata: bytes = b""
    """`metadata_bytes` of what was signed; empty: nothing was."""


def authenticate(request: Request | Loose, content_type: str, record: Record, tenants: Tenants) -> Proved:
    """The tenant that a request is of, which came in a record of this content type.

    A code that is there is checked, whether it had to be or not. Secrets hold as of the time at which the log took the
    record: a backlog outlives no rotation otherwise.

    Raises:
        UnknownTenant: there is none of that name.
        Forged: the code is not right, or there is none where one is required.
        Corrupt: so it is, and the payload does not fit its checksum either: it was damaged on its way.
    """
    tenant = tenants.named(request.tenant)
    if tenant is None:
        raise UnknownTenant(tenant=request.tenant[:64])
    if not request.mac and tenant.mac == "optional":
        return Proved(tenant, b"")
    said = request.mac if isinstance(request.mac, bytes) else b""
    try:
        metadata = metadata_bytes(cast("Request", request), lane_of(record.place.topic))
        signed = signed_over(metadata, cast("Request", request), content_type)
    except (OverflowError, RecursionError, TypeError):
        # What cannot be written in MessagePack (an integer of 70 bits, a value nested too deep), or a payload that is no
        # bytes, nobody signed.
        raise Forged() from None
    # All are tried, so that the time tells nothing.
    right = [secret for secret in tenants.secrets(tenant, record.timestamp) if check_mac(secret, signed, said)]
    if not right:
        raise Corrupt() if _is_damaged(request) else Forged()
    return Proved(tenant, fingerprint(right[0]), metadata)


def _is_damaged(request: Request | Loose) -> bool:
    said = request.crc32c
    return isinstance(said, int) and isinstance(request.payload, bytes) and crc32c(request.payload) != said
