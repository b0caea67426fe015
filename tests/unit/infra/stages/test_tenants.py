"""The table of tenants: secrets by row and by time, live."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.secrets import wrap_secret
from llmos.infra.stages.tenants import TenantTable
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.catalog import Tenant
from llmos.schemas.errors import EnvelopeRejected, KeyringMismatch
from tests.kit.bench import NOW, record

OLD, NEW = b"o" * 32, b"n" * 32


class Turning:
    """Keys that can be exchanged, as a file's are."""

    def __init__(self, keys: Keyring) -> None:
        self.keys = keys
        self.opened = 0

    def wrap(self, purpose: str, secret: bytes, context: bytes, tenant: str = "") -> tuple[str, bytes]:
        return self.keys.wrap(purpose, secret, context, tenant)  # type: ignore[arg-type]

    def holds(self, purpose: str, tenant: str = "") -> bool:
        return self.keys.holds(purpose, tenant)  # type: ignore[arg-type]

    def has(self, key_id: str) -> bool:
        return self.keys.has(key_id)

    def unwrap(self, key_id: str, wrapped: bytes, context: bytes) -> bytes:
        self.opened += 1
        return self.keys.unwrap(key_id, wrapped, context)


@pytest.fixture
def keys() -> Turning:
    return Turning(Keyring.memory())


@pytest.fixture
def table(keys: Turning) -> TenantTable:
    return TenantTable(keys)


def row(keys: Turning, secret: bytes = OLD, **fields: object) -> Tenant:
    """A tenant with this secret."""
    key_id, wrapped = wrap_secret(keys, "acme", secret)
    return Tenant(name="acme", wrapped_secret=wrapped, key_id=key_id, **fields)  # type: ignore[arg-type]


def rotated(keys: Turning) -> Tenant:
    """A tenant whose old secret holds for ten seconds more."""
    old_id, old = wrap_secret(keys, "acme", OLD)
    return row(keys, NEW, previous_secret=old, previous_key_id=old_id, previous_until=NOW + 10.0)


def put(table: TenantTable, tenant: Tenant | None) -> None:
    table.table.take(record(None if tenant is None else encode(tenant), topics.TENANTS, key=b"acme"))


def test_the_secret_before_holds_until_its_time(table: TenantTable, keys: Turning) -> None:
    """The present one first; from `previous_until` on it is the only one."""
    tenant = rotated(keys)
    put(table, tenant)
    assert table.secrets(tenant, NOW + 9.9) == (NEW, OLD)
    assert table.secrets(tenant, NOW + 10.0) == (NEW,)
    assert table.secret(tenant) == NEW


def test_a_tenant_without_a_secret_has_none_that_holds(table: TenantTable) -> None:
    """Nothing is authentic then."""
    tenant = Tenant(name="acme")
    put(table, tenant)
    assert (table.secret(tenant), table.secrets(tenant, NOW)) == (b"", ())


def test_secrets_follow_the_rows(table: TenantTable, keys: Turning) -> None:
    """A rotation holds at once, a removal forgets; each secret is opened once."""
    first = row(keys)
    put(table, first)
    assert [table.secrets(first, NOW) for _ in range(3)] == [(OLD,)] * 3
    assert keys.opened == 1
    second = rotated(keys)
    put(table, second)
    assert [table.secrets(second, NOW) for _ in range(3)] == [(NEW, OLD)] * 3
    assert keys.opened == 3
    put(table, None)
    assert table.named("acme") is None


def test_a_key_that_is_destroyed_opens_nothing_more(table: TenantTable, keys: Turning) -> None:
    """Also what was opened before; the secret before is left out, the present one is an error."""
    tenant = rotated(keys)
    put(table, tenant)
    assert table.secrets(tenant, NOW) == (NEW, OLD)
    keys.keys = keys.keys.rotated("system")
    newer = row(keys, NEW, previous_secret=tenant.wrapped_secret, previous_key_id=tenant.key_id, previous_until=NOW + 9)
    put(table, newer)
    assert table.secrets(newer, NOW) == (NEW, NEW)
    keys.keys = keys.keys.destroyed(tenant.key_id)
    assert table.secrets(newer, NOW) == (NEW,)
    put(table, tenant)
    with pytest.raises(EnvelopeRejected):
        table.secret(tenant)


def test_a_secret_is_its_tenant_s_alone(table: TenantTable, keys: Turning) -> None:
    """Put under another name it opens nothing."""
    key_id, wrapped = wrap_secret(keys, "globex", OLD)
    with pytest.raises(EnvelopeRejected):
        table.secret(Tenant(name="acme", wrapped_secret=wrapped, key_id=key_id))


def test_weights_are_those_of_the_rows(table: TenantTable, keys: Turning) -> None:
    """Of those that are not 1; the same object until one changes."""
    put(table, row(keys))
    before = table.weights
    put(table, row(keys, note="another"))
    assert table.weights is before
    put(table, row(keys, weight=3.0))
    assert table.weights == {"acme": 3.0}
    put(table, row(keys, weight=3.0, note="again"))
    put(table, None)
    assert table.weights == {}


@pytest.mark.parametrize("own", [True, False])
def test_the_keyring_is_compared_with_the_system_s(keys: Turning, own: bool) -> None:
    """One that opens no secret is another system's."""
    table = TenantTable(keys if own else Keyring.memory())
    put(table, row(keys))
    if own:
        table.check(Path("keyring.json"))
    else:
        with pytest.raises(KeyringMismatch):
            table.check(Path("keyring.json"))
