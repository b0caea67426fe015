"""Roles: which service holds which keys, so that a process that is taken over gives away no more than it needs.

| service | secret halves | public halves |
| --- | --- | --- |
| ingest | system | dead |
| verify | system, ingress, pool, tenant | dead |
| scheduler | system, operator, control | dead |
| worker | pool | control, dead |
| aggregator | receipt | dead |
| node | | control, dead |
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from llmos.infra.crypto.keyring import Keyring, Purpose, bad


class Role(NamedTuple):
    """What a service does with keys."""

    secret: tuple[Purpose, ...]
    """It opens, wraps, authenticates or signs with these."""
    checked: tuple[Purpose, ...] = ()
    """It only checks what was signed under these, whichever of them signed."""
    public: tuple[Purpose, ...] = ("dead",)
    """It only seals to these, to the active ones."""


ROLES: Final[dict[str, Role]] = {
    "ingest": Role(("system",)),
    "verify": Role(("system", "ingress", "pool", "tenant")),
    "scheduler": Role(("system", "operator", "control")),
    "worker": Role(("pool",), checked=("control",)),
    "aggregator": Role(("receipt",)),
    "node": Role((), checked=("control",)),
}


def for_service(keyring: Keyring, service: str) -> Keyring:
    """The part of `keyring` that `service` needs; all else is left out.

    Raises:
        KeyError: there is no such service.
        BadSetting: a key that it needs is missing. (Tenants need not have keys of their own.)
    """
    role = ROLES[service]
    kept = [entry for entry in keyring.entries if entry.purpose in role.secret]
    kept += [
        msgspec.structs.replace(entry, key=b"")
        for entry in keyring.entries
        if (entry.purpose in role.checked and entry.state != "destroyed" and not entry.is_outdated)
        or (entry.purpose in role.public and entry.state == "active")
    ]
    found = Keyring(kept)
    missing = [
        *(p for p in role.secret if p != "tenant" and not (found.holds(p) and found.active(p).key)),
        *(p for p in (*role.checked, *role.public) if not found.holds(p)),
    ]
    if missing:
        raise bad(
            f"the keyring lacks what {service} needs, keys for {', '.join(missing)}; `llmos keys init` makes them"
        )
    return found
