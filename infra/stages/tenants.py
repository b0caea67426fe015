"""The table of tenants, followed live, with their secrets opened once.

A row that changes (a rotation, other rights, a removal) holds from the moment it is read; so does a keyring that lost a key.
A row that no operator wrote, or that is older than one that was read, changes nothing: the one before it holds on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import structlog

from llmos.infra.crypto.keyring import Keys, SystemKeys
from llmos.infra.crypto.rows import is_sealed
from llmos.infra.crypto.secrets import unwrap_previous, unwrap_secret
from llmos.infra.stages.follower import Table
from llmos.infra.telemetry.metrics import TENANT_ROWS_REFUSED, counter
from llmos.schemas import topics
from llmos.schemas.catalog import TENANTS, Tenant
from llmos.schemas.errors import EnvelopeRejected, KeyringMismatch, SecretUnreadable

log = structlog.get_logger()

NO_SECRET: Final = b""
REFUSED_ROWS: Final = 1000
"""Of so many names the refused row is remembered."""

Why = Literal["forged", "unsealed", "old"]


class TenantTable:
    """Tenants by name."""

    def __init__(self, keys: SystemKeys) -> None:
        self._keys = keys
        self._versions: dict[str, int] = {}
        """The highest that was seen, of removed tenants too."""
        self._refused: dict[str, Tenant] = {}
        self._early: dict[str, Tenant] = {}
        """Of those the ones whose key is not here: this copy of the keyring may get it later."""
        self._checked = False
        """What is read from then on is new. Before it, a row that is refused may have a better one behind it: a topic keeps
        rows of before for a while, under keys that were destroyed since."""
        self._secrets: dict[str, dict[tuple[str, bytes], bytes]] = {}
        """By tenant: (key id, wrapped) → secret."""
        self._weights: Mapping[str, float] = {}
        self.table = Table(topics.TENANTS, TENANTS, self._changed, self._accepts)

    def named(self, name: str) -> Tenant | None:
        """The tenant, or None."""
        early = self._early.get(name)
        if early is not None and self._keys.has(early.seal_key_id):
            row = self._early.pop(name, None)  # another thread may have been first
            if row is not None:
                self.table.put(name, row)
        return self.table.rows.get(name)

    @property
    def refused(self) -> Mapping[str, Tenant]:
        """By name, the row that was refused last and that no better one came after; of a limited number of names."""
        return self._refused

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

    def needed(self, tenant: Tenant, now: float) -> tuple[bytes, ...]:
        """As `secrets`, for who would lose a request for want of them: ingest.

        Raises:
            SecretUnreadable: the keyring cannot open the present one. It ends the service, which reads the request again in
                its next life: the fault is the operator's, and no request's.
        """
        try:
            return self.secrets(tenant, now)
        except EnvelopeRejected:
            raise SecretUnreadable(tenant=tenant.name, key_id=tenant.key_id) from None

    def unreadable(self) -> list[str]:
        """The names of the tenants whose present secrets the keyring does not open."""
        return sorted(row.name for row in self.table.rows.values() if not self._opens(row))

    def _opens(self, tenant: Tenant) -> bool:
        try:
            self.secret(tenant)
        except EnvelopeRejected:
            return False
        return True

    def check(self, path: Path) -> None:
        """To be called when the topic was read to its end: compares the keyring with the system's, by the tenants' secrets
        and the seals of their rows, and tells of the rows that are refused, and of those whose secrets do not open.

        Raises:
            KeyringMismatch: it opens none of them; or there are rows, and no seal holds.
        """
        check_keyring(self._keys, [*self.table.rows.values(), *self._refused.values()], path)
        if self._refused and not self.table.rows:
            raise KeyringMismatch(
                path=path,
                problem=f"none of the {len(self._refused)} tenants' rows is sealed under it; "
                "in a system of before rows were sealed `llmos topics --make` does that, once",
            )
        self._checked = True
        for name, row in self._refused.items():
            self._tell(name, row, self._why_not(name, row) or "forged")
        for name in self.unreadable():
            log.error("tenant_secret_unreadable", tenant=name, key_id=self.table.rows[name].key_id)

    def _accepts(self, key: str, row: Tenant) -> bool:
        why = self._why_not(key, row)
        if why is None:
            self._versions[key] = row.version
            self._forget(key)
            return True
        if key in self._refused or len(self._refused) < REFUSED_ROWS:
            self._refused[key] = row
            if why == "forged" and not self._keys.has(row.seal_key_id):
                self._early[key] = row
        if self._checked:
            self._tell(key, row, why)
        return False

    def _tell(self, key: str, row: Tenant, why: Why) -> None:
        counter(TENANT_ROWS_REFUSED, why).inc()
        log.warning("tenant_row_refused", tenant=key[:64], why=why, version=row.version, known=key in self.table.rows)

    def _why_not(self, key: str, row: Tenant) -> Why | None:
        """Why nobody goes by this row; None: it is the tenant's."""
        if not row.seal:
            return "unsealed"
        if key != row.name or not is_sealed(self._keys, row):
            return "forged"
        return "old" if row.version < self._versions.get(key, 0) else None

    def _forget(self, name: str) -> None:
        self._refused.pop(name, None)
        self._early.pop(name, None)

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
        if row is None:
            self._forget(name)
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
