"""Tenants' secrets: made once, kept on the topic `tenants` wrapped under the system's key."""

from __future__ import annotations

import secrets

from llmos.infra.crypto.keyring import Keys
from llmos.schemas.catalog import Tenant

SECRET_BYTES = 32


def new_secret() -> bytes:
    """A secret for a tenant: 32 random bytes."""
    return secrets.token_bytes(SECRET_BYTES)


def wrap_secret(keys: Keys, tenant: str, secret: bytes) -> tuple[str, bytes]:
    """`key_id` and `wrapped_secret` of the tenant's record; they hold for this tenant's name only."""
    return keys.wrap("system", secret, _context(tenant))


def unwrap_secret(keys: Keys, tenant: Tenant) -> bytes:
    """The tenant's secret; empty where it has none. Raises `EnvelopeRejected`."""
    if not tenant.wrapped_secret:
        return b""
    return keys.unwrap(tenant.key_id, tenant.wrapped_secret, _context(tenant.name))


def _context(tenant: str) -> bytes:
    return b"llmos-tenant-1\0" + tenant.encode()
