"""Rows of `tenants` under a seal: a code of the system's key over the whole row, so that the services go by what operators
wrote, and by nothing that somebody else put there who may write to the topic. Pure.

A row has a version that grows with each change, so that an old row, sealed though it is, is no newer one.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from llmos.infra.crypto.keyring import Keyring, SystemKeys
from llmos.schemas.base import Value, encode
from llmos.schemas.catalog import TENANTS, Tenant

_LABEL: Final = b"llmos-tenant-row-1\0"


def sealed_row(keys: Keyring, tenant: Tenant) -> Tenant:
    """The row as it is, under the active key of `system`.

    Raises:
        BadSetting: there is none here.
    """
    named = msgspec.structs.replace(tenant, seal=b"", seal_key_id=keys.active("system").id)
    return msgspec.structs.replace(named, seal=keys.mac("system", signed_row(named)))


def renewed_row(keys: Keyring, tenant: Tenant, now: float) -> Tenant:
    """The row as it is written in the place of the one that it was made of: with the next version. `now`: Unix seconds.

    A first version is the time in milliseconds: the row of a tenant that was erased is none of a later one of its name.
    Raises `BadSetting`: see `sealed_row`.
    """
    version = tenant.version + 1 if tenant.version else max(int(now * 1000), 1)
    return sealed_row(keys, msgspec.structs.replace(tenant, version=version))


def is_sealed(keys: SystemKeys, tenant: Tenant) -> bool:
    """Whether an operator wrote this row: its seal is under the system's key, or one before it that is not destroyed."""
    return bool(tenant.seal) and keys.check_mac("system", signed_row(tenant), tenant.seal)


def names_key(tenant: Tenant, key_id: str, now: float) -> bool:
    """Whether the row is lost with this key of the system: its seal, its secret, or the secret before while that holds."""
    return key_id in (tenant.seal_key_id, tenant.key_id) or (
        key_id == tenant.previous_key_id and now < tenant.previous_until
    )


def signed_row(tenant: Tenant) -> bytes:
    """What the seal covers: a label, and MessagePack of a map of all fields but `seal`, in their order, without those that
    have their defaults. A field that a later version adds changes nothing in the rows of before; a version that does not
    know a field that was used refuses the row.
    """
    # As a reader has it: a number that was given as an integer is a float on the wire where the field is one.
    read: Tenant = TENANTS.decode(encode(tenant))
    fields = _said(read)
    fields.pop("seal", None)
    return _LABEL + msgspec.msgpack.encode(fields)


def _said(value: Tenant | Value) -> dict[str, Any]:
    """The fields that have another value than their default. (`omit_defaults` looks for the same object, not for an equal
    value, so that a row that was read would be written longer.)"""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(value):
        own = getattr(value, field.name)
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        if own != default:
            found[field.name] = _said(own) if isinstance(own, Value) else own
    return found
