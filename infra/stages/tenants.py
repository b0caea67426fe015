"""The table of tenants, followed live, with their secrets opened once.

A row that changes (a rotation, other rights, a removal) holds from the moment it is read; so does a keyring that lost a key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import structlog

from llmos.infra.crypto.keyring import Keys
from llmos.infra.crypto.secrets import unwrap_previous, unwrap_secret
from llmos.infra.stages.follower import Table
from llmos.schemas import topics
from llmos.schemas.catalog import TENANTS, Tenant
from llmos.schemas.errors import EnvelopeRejected, KeyringMismatch

log = structlog.get_logger()

NO_SECRET: Final = b""


class TenantTable:
    """Tenants by name."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._secrets: dict[str, dict[tuple[str, bytes], bytes]] = {}
        """By tenant: (key id, wrapped) → secret."""
        self._weights: Mapping[str, float] = {}
        self.table = Table(topics.TENANTS, TENANTS, self._changed)

    def named(self, name: str) -> Tenant | None:
        """The tenant, or None."""
        return self.table.rows.get(name)

    @property
    def weights(self) -> Mapping[str, float]:
        """The weights of those tenants that have another than 1; the same object until a row changes one."""
        return self._weights

    def secret(self, tenant: Tenant) -> bytes:
        """The tenant's present secret; empty where it has none. Raises `EnvelopeRejected` when the keyring cannot open it."""
        if not tenant.wrapped_secret:
            return NO_SECRET
        known = self._known(tenant, tenant.key_id, tenant.wrapped_secret)
        return known or self._keep(tenant, tenant.key_id, tenant.wrapped_secret, unwrap_secret(self._keys, tenant))

    def secrets(self, tenant: Tenant, now: float) -> tuple[bytes, ...]:
        """All secrets that hold at `now` (Unix seconds): the present one, and the one before while its time lasts.

        Empty for a tenant without a secret: nothing is authentic then. Raises `EnvelopeRejected` when the keyring cannot
        open the present one.
        """
        present = self.secret(tenant)
        if not present:
            return ()
        previous = self._previous(tenant) if now < tenant.previous_until else NO_SECRET
        return (present, previous) if previous else (present,)

    def check(self, path: Path) -> None:
        """Compares the keyring with the system's, by the tenants' secrets.

        Raises:
            KeyringMismatch: it opens none of them.
        """
        check_keyring(self._keys, self.table.rows.values(), path)

    def _previous(self, tenant: Tenant) -> bytes:
        if not tenant.previous_secret:
            return NO_SECRET
        known = self._known(tenant, tenant.previous_key_id, tenant.previous_secret)
        if known:
            return known
        try:
            secret = unwrap_previous(self._keys, tenant)
        except EnvelopeRejected:
            log.warning("previous_secret_unreadable", tenant=tenant.name)
            return NO_SECRET
        return self._keep(tenant, tenant.previous_key_id, tenant.previous_secret, secret)

    def _known(self, tenant: Tenant, key_id: str, wrapped: bytes) -> bytes:
        """The secret if it was opened before and its key is still there."""
        if not self._keys.has(key_id):
            return NO_SECRET
        return self._secrets.get(tenant.name, {}).get((key_id, wrapped), NO_SECRET)

    def _keep(self, tenant: Tenant, key_id: str, wrapped: bytes, secret: bytes) -> bytes:
        self._secrets.setdefault(tenant.name, {})[key_id, wrapped] = secret
        return secret

    def _changed(self, name: str, row: Any | None) -> None:
        self._secrets.pop(name, None)
        weight = row.weight if row is not None else 1.0
        if weight != self._weights.get(name, 1.0):
            others = {other: known for other, known in self._weights.items() if other != name}
            self._weights = others if weight == 1.0 else {**others, name: weight}


def check_keyring(keys: Keys, tenants: Iterable[Tenant], path: Path) -> None:
    """Compares a keyring with the system's, by the tenants' secrets.

    Raises:
        KeyringMismatch: it opens none of them.
    """
    with_secret = [tenant for tenant in tenants if tenant.wrapped_secret]
    for tenant in with_secret:
        try:
            unwrap_secret(keys, tenant)
        except EnvelopeRejected:
            continue
        return
    if with_secret:
        raise KeyringMismatch(path=path, problem=f"it opens none of the {len(with_secret)} tenants' secrets")
