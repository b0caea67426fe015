"""The table of tenants: secrets by row and by time, live."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.roles import ROLES, for_service
from llmos.infra.crypto.rows import is_sealed, renewed_row, sealed_row
from llmos.infra.crypto.secrets import wrap_secret
from llmos.infra.stages.tenants import REFUSED_ROWS, TenantTable
from llmos.infra.telemetry.metrics import TENANT_ROWS_REFUSED
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.catalog import TENANTS, Quotas, Tenant
from llmos.schemas.errors import BadSetting, EnvelopeRejected, KeyringMismatch, RecordError, SecretUnreadable
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

    def check_mac(self, purpose: str, data: bytes, tag: bytes) -> bool:
        return self.keys.check_mac(purpose, data, tag)  # type: ignore[arg-type]


@pytest.fixture
def keys() -> Turning:
    return Turning(Keyring.memory())


@pytest.fixture
def table(keys: Turning) -> TenantTable:
    return TenantTable(keys)


def row(keys: Turning, secret: bytes = OLD, **fields: object) -> Tenant:
    """A tenant with this secret."""
    key_id, wrapped = wrap_secret(keys, "acme", secret)
    bare = Tenant(name="acme", wrapped_secret=wrapped, key_id=key_id, **fields)  # type: ignore[arg-type]
    return sealed_row(keys.keys, bare)


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


def test_a_tenant_without_a_secret_has_none_that_holds(table: TenantTable, keys: Turning) -> None:
    """Nothing is authentic then."""
    tenant = sealed_row(keys.keys, Tenant(name="acme"))
    put(table, tenant)
    assert table.named("acme") == tenant
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
    assert table.named("acme") == newer  # the old row's seal is gone with its key


def test_a_secret_that_does_not_open_ends_who_needs_it(table: TenantTable, keys: Turning, tmp_path: Path) -> None:
    """It is the operator's fault and no request's; at the start it is logged, so that the system can be mended."""
    tenant = row(keys)
    lost = sealed_row(keys.keys, msgspec.structs.replace(tenant, wrapped_secret=bytes(60)))
    put(table, lost)
    with pytest.raises(SecretUnreadable, match=f"tenant 'acme' .it is under key {lost.key_id}"):
        table.needed(lost, NOW)
    assert not issubclass(SecretUnreadable, RecordError)
    other_id, other = wrap_secret(keys, "globex", NEW)
    globex = sealed_row(keys.keys, Tenant(name="globex", wrapped_secret=other, key_id=other_id))
    table.table.take(record(encode(globex), topics.TENANTS, key=b"globex"))
    with capture_logs() as logs:
        table.check(tmp_path)
    assert [(entry["event"], entry["tenant"]) for entry in logs] == [("tenant_secret_unreadable", "acme")]
    put(table, renewed_row(keys.keys, tenant, NOW))
    assert table.needed(tenant, NOW) == (OLD,)


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


CHANGES: dict[str, object] = {
    "plaintext": "allow",
    "mac": "optional",
    "wrapped_secret": b"another",
    "key_id": "00",
    "fingerprint": b"another",
    "previous_secret": b"another",
    "previous_key_id": "00",
    "previous_until": NOW + 99.0,
    "reply_key": b"another",
    "reply_prefixes": ["reply."],
    "lanes": ["batch"],
    "kinds": ["echo"],
    "models": ["tiny*"],
    "weight": 9.0,
    "quotas": Quotas(jobs=1),
    "default_timeout": 1.0,
    "longest_timeout": 1.0,
    "made_at": 1.0,
    "note": "another",
    "version": 9,
    "seal_key_id": "00",
    "seal": b"another",
}


def test_what_is_refused_is_told_once_all_is_read(table: TenantTable, keys: Turning) -> None:
    """A row that a better one came after is none that anybody needs to hear of."""
    before = refusals("forged")
    good = row(keys, version=2)
    theirs = sealed_row(Keyring.memory(), Tenant(name="acme"))
    put(table, theirs)
    put(table, good)
    table.table.take(record(encode(theirs), topics.TENANTS, key=b"globex"))
    assert refusals("forged") == before
    table.check(Path("keyring.json"))
    assert refusals("forged") == before + 1


def refusals(why: str) -> float:
    return float(TENANT_ROWS_REFUSED.labels(why)._value.get())


@pytest.mark.parametrize("name", [*CHANGES, "name"])
def test_a_row_that_was_changed_is_not_gone_by(table: TenantTable, keys: Turning, name: str) -> None:
    """Whatever the broker's owner writes there; the operators' row holds on, and it is counted."""
    assert {*CHANGES, "name"} == set(Tenant.__struct_fields__)
    right = row(keys, version=7)
    put(table, right)
    table.check(Path("keyring.json"))
    before = refusals("forged")
    changed = msgspec.structs.replace(right, **({"name": "globex"} if name == "name" else {name: CHANGES[name]}))
    put(table, changed)
    assert (table.named("acme"), table.refused["acme"]) == (right, changed)
    assert refusals("forged") == before + 1
    put(table, right)
    assert table.refused == {}


def test_another_tenants_row_is_none_of_this_one(table: TenantTable, keys: Turning) -> None:
    """A copy of it under this one's name, with a right seal."""
    theirs = sealed_row(keys.keys, Tenant(name="globex", plaintext="allow"))
    put(table, theirs)
    assert table.named("acme") is None


def test_a_row_without_a_seal_is_not_gone_by(table: TenantTable) -> None:
    """Nor one with the seal of another system."""
    table.check(Path("keyring.json"))
    before = refusals("unsealed")
    put(table, Tenant(name="acme", plaintext="allow", mac="optional"))
    put(table, sealed_row(Keyring.memory(), Tenant(name="acme", plaintext="allow", mac="optional")))
    assert table.named("acme") is None
    assert refusals("unsealed") == before + 1


def test_an_old_row_that_is_put_there_again_changes_nothing(table: TenantTable, keys: Turning) -> None:
    """Nor does it come back behind a removal; one of the same version does, of two who wrote at once the last."""
    old = row(keys, OLD, version=7)
    new = row(keys, NEW, version=8)
    put(table, old)
    put(table, new)
    table.check(Path("keyring.json"))
    before = refusals("old")
    put(table, old)
    assert table.named("acme") == new
    put(table, None)
    put(table, old)
    assert table.named("acme") is None
    assert refusals("old") == before + 2
    again = row(keys, OLD, version=8)
    put(table, again)
    assert table.named("acme") == again


def test_an_old_row_holds_where_no_newer_one_is_until_its_key_is_destroyed(keys: Turning) -> None:
    """A service that starts knows what the topic has."""
    old = row(keys, OLD, version=7)
    fresh = TenantTable(keys)
    put(fresh, old)
    assert fresh.named("acme") == old
    keys.keys = keys.keys.rotated("system").destroyed(old.seal_key_id)
    later = TenantTable(keys)
    put(later, old)
    assert later.named("acme") is None


@pytest.mark.parametrize("service", ["ingest", "verify", "scheduler"])
def test_who_checks_a_row_can_seal_one(table: TenantTable, keys: Turning, service: str) -> None:
    """Those that follow the topic have the key; no other service has."""
    put(table, sealed_row(for_service(keys.keys, service), row(keys, version=1)))
    assert table.named("acme") is not None
    for other in {*ROLES} - {"ingest", "verify", "scheduler"}:
        with pytest.raises(BadSetting):
            sealed_row(for_service(keys.keys, other), row(keys))


def test_a_row_under_a_key_that_comes_later_holds_from_then_on(table: TenantTable, keys: Turning) -> None:
    """The copy of the keyring on this machine was written anew after the row was."""
    first = row(keys, version=1)
    put(table, first)
    before, keys.keys = keys.keys, keys.keys.rotated("system")
    second = row(keys, version=2)
    after, keys.keys = keys.keys, before
    put(table, second)
    assert table.named("acme") == first
    keys.keys = after
    assert table.named("acme") == second
    assert table.refused == {}


def test_a_system_whose_rows_have_no_seal_does_not_start(table: TenantTable, keys: Turning) -> None:
    """All its requests would be dead letters. It says how rows of before are sealed; one that has a seal is enough."""
    put(table, msgspec.structs.replace(row(keys), seal=b""))
    with pytest.raises(KeyringMismatch, match="topics --make"):
        table.check(Path("keyring.json"))
    table.table.take(record(encode(sealed_row(keys.keys, Tenant(name="globex"))), topics.TENANTS, key=b"globex"))
    table.check(Path("keyring.json"))


def test_refused_rows_of_a_limited_number_of_names_are_remembered(table: TenantTable) -> None:
    """Names cost their writer nothing."""
    for n in range(REFUSED_ROWS + 9):
        table.table.take(record(encode(Tenant(name=f"t{n}")), topics.TENANTS, key=f"t{n}".encode()))
    assert len(table.refused) == REFUSED_ROWS


def test_a_seal_covers_what_a_reader_sees() -> None:
    """Integers where the wire has floats, defaults that were written out: it is the same row."""
    keys = Keyring.memory()
    said = sealed_row(keys, Tenant(name="acme", weight=2, made_at=7, quotas=Quotas(burst_seconds=10), lanes=[]))
    assert is_sealed(keys, TENANTS.decode(encode(said)))
    assert is_sealed(keys, TENANTS.decode(msgspec.msgpack.encode(msgspec.to_builtins(said, builtin_types=(bytes,)))))


def test_versions_grow() -> None:
    """The first is a time, so that a name that was erased comes back with a higher one."""
    keys = Keyring.memory()
    first = renewed_row(keys, Tenant(name="acme"), NOW)
    second = renewed_row(keys, first, NOW + 99.0)
    assert (first.version, second.version) == (int(NOW * 1000), int(NOW * 1000) + 1)
    assert renewed_row(keys, Tenant(name="acme"), NOW + 1.0).version > second.version
