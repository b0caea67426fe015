"""Roles: each service has what it needs and nothing that it does not."""

from __future__ import annotations

import pytest

from llmos.cli.running import Service
from llmos.infra.crypto.keyring import PURPOSES, Keyring
from llmos.infra.crypto.roles import ROLES, for_service
from llmos.schemas.errors import BadSetting

KEYS = Keyring.memory("demo", "acme").rotated("pool").rotated("dead")


def test_every_service_has_a_role() -> None:
    """And no role is of a service that there is not."""
    assert set(ROLES) == {service.value for service in Service}


@pytest.mark.parametrize("service", ROLES)
def test_a_service_holds_its_keys_alone(service: str) -> None:
    """Secret halves of its own purposes, also of keys that only decrypt; public halves of others; nothing else."""
    role, found = ROLES[service], for_service(KEYS, service)
    assert {e.purpose for e in found.entries if e.key} == set(role.secret)
    assert {e.purpose for e in found.entries} == {*role.secret, *role.checked, *role.public}
    for purpose in role.secret:
        assert [e for e in found.entries if e.purpose == purpose] == [e for e in KEYS.entries if e.purpose == purpose]


def test_only_the_scheduler_gives_orders() -> None:
    """Workers and nodes check them with the public halves of all its keys that are not destroyed, also a prepared one."""
    keys = KEYS.rotated("control")
    first = next(e.id for e in keys.entries if e.purpose == "control" and e.state == "decrypt_only")
    keys = keys.rotated("control").destroyed(first).prepared("control")
    _, signature = for_service(keys, "scheduler").sign("control", b"order")
    for service in ROLES:
        found = for_service(keys, service)
        held = [e for e in found.entries if e.purpose == "control"]
        if service != "scheduler":
            assert not any(e.key for e in held)
        if service in ("worker", "node"):
            assert {e.id for e in held} == {e.id for e in keys.entries if e.purpose == "control" and e.id != first}
            assert found.check_signed("control", b"order", signature)
            assert not found.check_mac("control", b"order", signature)
            with pytest.raises(BadSetting, match="not held here"):
                found.sign("control", b"order")


@pytest.mark.parametrize("service", ROLES)
def test_no_service_opens_dead_letters_and_all_seal_them(service: str) -> None:
    """Operators alone read what was not understood."""
    found = for_service(KEYS, service)
    key_id, wrapped = found.wrap("dead", b"record", b"origin")
    assert not found.has(key_id)
    assert KEYS.unwrap(key_id, wrapped, b"origin") == b"record"


@pytest.mark.parametrize("service", ["aggregator", "node", "scheduler", "ingest"])
def test_only_verify_and_workers_open_payloads(service: str) -> None:
    """Neither requests nor parts open for anybody between them."""
    found = for_service(KEYS, service)
    for purpose in ("ingress", "pool", "tenant"):
        assert not any(e.key for e in found.entries if e.purpose == purpose)


def test_what_is_missing_is_told() -> None:
    """By name, for each service and purpose."""
    for service, role in ROLES.items():
        for purpose in {*role.secret, *role.checked, *role.public} - {"tenant"}:
            rest = Keyring(e for e in KEYS.entries if e.purpose != purpose)
            with pytest.raises(BadSetting, match=rf"lacks what {service} needs, keys for {purpose};"):
                for_service(rest, service)
    assert set(PURPOSES) >= {p for role in ROLES.values() for p in role.secret}


def test_a_tenant_need_not_have_a_key() -> None:
    """Its jobs are wrapped for the pool alone."""
    assert not for_service(Keyring.memory(), "verify").holds("tenant", "demo")
