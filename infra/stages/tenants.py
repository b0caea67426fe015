"""The table of tenants, followed live, with their secrets opened once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.secrets import unwrap_secret
from llmos.infra.stages.follower import Table
from llmos.schemas import topics
from llmos.schemas.catalog import TENANTS, Tenant
from llmos.schemas.errors import EnvelopeRejected, KeyringMismatch


class TenantTable:
    """Tenants by name."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._secrets: dict[str, bytes] = {}
        self.table = Table(topics.TENANTS, TENANTS, self._changed)

    def named(self, name: str) -> Tenant | None:
        """The tenant, or None."""
        return self.table.rows.get(name)

    def secret(self, tenant: Tenant) -> bytes:
        """The tenant's secret. Raises `EnvelopeRejected` when the keyring cannot open it."""
        secret = self._secrets.get(tenant.name)
        if secret is None:
            secret = self._secrets[tenant.name] = unwrap_secret(self._keyring, tenant)
        return secret

    def check(self, path: Path) -> None:
        """Compares the keyring with the system's, by the tenants' secrets.

        Raises:
            KeyringMismatch: it opens none of them.
        """
        with_secret = [tenant for tenant in self.table.rows.values() if tenant.wrapped_secret]
        for tenant in with_secret:
            try:
                self.secret(tenant)
            except EnvelopeRejected:
                continue
            return
        if with_secret:
            raise KeyringMismatch(path=path, problem=f"it opens none of the {len(with_secret)} tenants' secrets")

    def _changed(self, name: str, row: Any | None) -> None:
        self._secrets.pop(name, None)
