"""Tenants as they are made, changed, rotated and completed."""

from __future__ import annotations

import msgspec
import pytest

from llmos.cli.tenants import (
    changed,
    check_free,
    completed,
    erased,
    new_tenant,
    tenant_keys,
    with_new_reply_key,
    with_new_secret,
)
from llmos.infra.crypto.credentials import Credentials, ReplyKey, public_keys
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.secrets import fingerprint, unwrap_previous, unwrap_secret
from llmos.schemas.catalog import Quotas, Tenant
from llmos.schemas.errors import BadSetting, TenantTaken

NOW = 1_700_000_000.0
KEYS = Keyring.memory("acme")
SYSTEM = public_keys(KEYS)


@pytest.mark.parametrize(
    ("name", "taken", "other"),
    [
        ("acme", ["acme"], "acme"),
        ("acme.eu", ["acme"], "acme"),
        ("acme", ["acme.eu.west"], "acme.eu.west"),
        ("operator", [], "operator"),
        ("operator.x", [], "operator"),
    ],
)
def test_a_name_that_begins_another_is_taken(name: str, taken: list[str], other: str) -> None:
    """Its reply topics would be the other's, too."""
    with pytest.raises(TenantTaken) as problem:
        check_free(name, taken)
    assert problem.value.values["other"] == other


@pytest.mark.parametrize("name", ["acme-eu", "acm", "acmex", "eu.acme"])
def test_other_names_are_free(name: str) -> None:
    """What only looks alike."""
    check_free(name, ["acme", "acme2.x"])


def test_a_new_tenant_is_strict_and_has_credentials_that_fit() -> None:
    """It must seal and sign; the secret opens with the system's key, the reply key is the one in the row."""
    made = new_tenant("acme", {"jobs": 5, "weight": 2.0}, KEYS, SYSTEM, NOW)
    tenant, credentials = made
    assert (tenant.plaintext, tenant.mac, tenant.weight, tenant.made_at) == ("forbid", "required", 2.0, NOW)
    assert tenant.quotas == Quotas(jobs=5)
    assert unwrap_secret(KEYS, tenant) == credentials.secret
    assert tenant.fingerprint == fingerprint(credentials.secret)
    assert [key.public for key in credentials.reply_keys] == [tenant.reply_key]
    assert credentials.system_keys == SYSTEM
    assert credentials.ingress is not None
    assert new_tenant("acme", {}, KEYS, SYSTEM, NOW, "mlkem768-x25519").tenant.reply_key[0] == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"weight": 0.0},
        {"weight": float("nan")},
        {"jobs": -1},
        {"plaintext": "perhaps"},
        {"lanes": ["fast"]},
        {"kinds": [""]},
        {"default_timeout": 100.0, "longest_timeout": 50.0},
        {"longest_timeout": 86_401.0},
        {"reply_prefixes": ["a b"]},
        {"note": "x" * 3000},
    ],
)
def test_what_is_out_of_bounds_is_refused(fields: dict[str, object]) -> None:
    """With what is wrong, before anything is written."""
    with pytest.raises(BadSetting):
        changed(Tenant(name="acme"), fields)


@pytest.mark.parametrize("name", ["", "Acme", "a/b", "../x", "a" * 65, "ac me"])
def test_bad_names_are_refused(name: str) -> None:
    """A name is part of topics and of a file's name."""
    with pytest.raises(BadSetting):
        new_tenant(name, {}, KEYS, SYSTEM, NOW)


def test_what_is_not_named_stays() -> None:
    """Quotas one by one, too."""
    before = Tenant(name="acme", quotas=Quotas(jobs=1, bytes=2), lanes=["batch"], note="n")
    after = changed(before, {"bytes": 0, "lanes": []})
    assert after == msgspec.structs.replace(before, quotas=Quotas(jobs=1), lanes=[])


def test_a_rotation_keeps_the_old_secret_for_the_grace() -> None:
    """And the reply keys of the credentials."""
    first = new_tenant("acme", {"weight": 3.0}, KEYS, SYSTEM, NOW)
    second = with_new_secret(first.tenant, first.credentials, KEYS, SYSTEM, NOW + 5.0, 60.0)
    assert second.credentials.secret != first.credentials.secret
    assert unwrap_secret(KEYS, second.tenant) == second.credentials.secret
    assert unwrap_previous(KEYS, second.tenant) == first.credentials.secret
    assert second.tenant.previous_until == NOW + 65.0
    assert second.credentials.reply_keys == first.credentials.reply_keys
    assert second.credentials.previous_secrets == [first.credentials.secret]
    assert (second.tenant.weight, second.tenant.reply_key) == (3.0, first.tenant.reply_key)
    at_once = with_new_secret(first.tenant, None, KEYS, SYSTEM, NOW, 0.0)
    assert (at_once.tenant.previous_secret, at_once.tenant.previous_until) == (b"", 0.0)
    assert at_once.credentials.reply_keys == []


def test_a_new_reply_key_leaves_the_old_one_to_read_with() -> None:
    """The first is the one in use."""
    first = new_tenant("acme", {}, KEYS, SYSTEM, NOW)
    second = with_new_reply_key(first, "mlkem768-x25519")
    assert second.credentials.reply_keys[1:] == first.credentials.reply_keys
    assert second.credentials.reply_keys[0].public == second.tenant.reply_key != first.tenant.reply_key


def test_a_tenant_of_before_is_made_whole() -> None:
    """Its secret stays; what its credentials have is used; one that is whole, or not ours, is left alone."""
    new = new_tenant("acme", {}, KEYS, SYSTEM, NOW)
    old = msgspec.structs.replace(new.tenant, reply_key=b"", fingerprint=b"", made_at=0.0)
    made = completed(old, None, KEYS, SYSTEM)
    assert made is not None
    assert made.tenant.wrapped_secret == old.wrapped_secret
    assert made.tenant.fingerprint == new.tenant.fingerprint
    assert made.credentials.secret == new.credentials.secret
    assert made.credentials.reply_keys[0].public == made.tenant.reply_key
    known = Credentials(tenant="acme", secret=b"x", reply_keys=[ReplyKey.fresh()])
    again = completed(old, known, KEYS, SYSTEM)
    assert again is not None
    assert again.tenant.reply_key == known.reply_keys[0].public
    assert completed(new.tenant, None, KEYS, SYSTEM) is None
    assert completed(old, None, Keyring.memory(), SYSTEM) is None
    assert completed(Tenant(name="acme"), None, KEYS, SYSTEM) is None


def test_who_was_erased_is_known_by_its_keys() -> None:
    """All destroyed; none at all is nobody."""
    keys = KEYS.rotated("tenant", "acme")
    assert len(tenant_keys(keys, "acme")) == 2
    assert not erased(keys, "acme")
    for key_id in tenant_keys(keys, "acme"):
        keys = keys.destroyed(key_id, active=True)
    assert (tenant_keys(keys, "acme"), erased(keys, "acme"), erased(keys, "globex")) == ([], True, False)
