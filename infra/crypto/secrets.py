"""Tenants' secrets: made once, kept on the topic `tenants` wrapped under the system's key."""

from __future__ import annotations

import hashlib
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


def fingerprint(secret: bytes) -> bytes:
    """What tells secrets apart without telling them: SHA-256 of a label and the secret."""
    return hashlib.sha256(b"llmos-secret-fingerprint-1\0" + secret).digest()


def unwrap_secret(keys: Keys, tenant: Tenant) -> bytes:
    """The tenant's secret; empty where it has none. Raises `EnvelopeRejected`."""
    return _unwrap(keys, tenant.name, tenant.key_id, tenant.wrapped_secret)


def unwrap_previous(keys: Keys, tenant: Tenant) -> bytes:
    """The secret before the last rotation, which holds until `Tenant.previous_until`; empty where there is none.

    Raises `EnvelopeRejected`.
    """
    return _unwrap(keys, tenant.name, tenant.previous_key_id, tenant.previous_secret)


def _unwrap(keys: Keys, tenant: str, key_id: str, wrapped: bytes) -> bytes:
    return keys.unwrap(key_id, wrapped, _context(tenant)) if wrapped else b""


def _context(tenant: str) -> bytes:
    return b"llmos-tenant-1\0" + tenant.encode()
