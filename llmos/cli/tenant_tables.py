"""Tenants, written for people and as JSON objects; never a secret."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec
from rich.table import Table

from llmos.cli.erasure import Left
from llmos.cli.tables import table
from llmos.cli.units import UNKNOWN, at_time, duration, size
from llmos.infra.crypto.hpke import key_id_of
from llmos.infra.crypto.keyring import KeyEntry
from llmos.infra.ledger.port import TenantUse
from llmos.schemas.catalog import Quotas, Tenant

ALL: Final = "all"
FINGERPRINT_DIGITS: Final = 16
_SECRETS: Final = ("wrapped_secret", "previous_secret", "type", "seal")

Seal = Literal["holds", "a later row is refused", "refused", "unknown"]
"""Whether the services go by a row: by this one; by this one and not by what somebody put there after it; by none of this
name; only the keyring could tell."""


def tenant_object(tenant: Tenant) -> dict[str, Any]:
    """A tenant's row as a JSON object: all of it but its secrets, wrapped though they are, and its seal."""
    shown: dict[str, Any] = {}
    for name in tenant.__struct_fields__:
        value = getattr(tenant, name)
        if name not in _SECRETS:
            shown[name] = value.hex() if isinstance(value, bytes) else msgspec.to_builtins(value)
    shown["quotas"] = {name: getattr(tenant.quotas, name) for name in Quotas.__struct_fields__}
    shown["reply_prefixes"] = list(tenant.prefixes)
    shown["reply_key_id"] = key_id_of(tenant.reply_key) if tenant.reply_key else ""
    return shown


_SAID: Final[dict[Seal, str]] = {
    "holds": "holds",
    "a later row is refused": "holds; somebody who is no operator wrote another one after it, which is refused",
    "refused": "REFUSED by the services: no operator wrote it, or it is an old one that was put there again",
    "unknown": "only the keyring can tell whether an operator wrote it",
}


def tenants(found: Sequence[Tenant], seals: Sequence[Seal]) -> Table:
    """All tenants, a line each."""
    columns = ("tenant", "row", "clear", "signs", "weight", "lanes", "kinds", "models", "quotas", "made", "note")
    rows = [
        (
            tenant.name,
            seal,
            tenant.plaintext,
            tenant.mac,
            f"{tenant.weight:g}",
            _listed(tenant.lanes),
            _listed(tenant.kinds),
            _listed(tenant.models),
            _quotas(tenant.quotas),
            date(tenant.made_at),
            tenant.note,
        )
        for tenant, seal in zip(found, seals, strict=True)
    ]
    return table("tenants", columns, rows)


def tenant(found: Tenant, seal: Seal, keys: Sequence[KeyEntry], use: TenantUse | None, now: float) -> Table:
    """One tenant: rights, quotas, keys and what it uses now; never a secret."""
    quotas = found.quotas
    previous = f"{at_time(found.previous_until, now)} its last use" if found.previous_until > now else "none"
    rows: list[tuple[str, object]] = [
        ("made", date(found.made_at)),
        ("row", _SAID[seal]),
        ("clear payloads", found.plaintext),
        ("signature", found.mac),
        ("secret", found.fingerprint.hex()[:FINGERPRINT_DIGITS] or UNKNOWN),
        ("secret before", previous),
        ("reply key", key_id_of(found.reply_key) if found.reply_key else "none"),
        ("reply topics begin with", ", ".join(found.prefixes)),
        ("own keys", ", ".join(f"{key.id} ({key.state})" for key in keys) or UNKNOWN),
        ("weight", f"{found.weight:g}"),
        ("lanes", _listed(found.lanes)),
        ("kinds", _listed(found.kinds)),
        ("models", _listed(found.models)),
        ("jobs in flight", _limit(quotas.jobs)),
        ("bytes in flight", size(quotas.bytes) if quotas.bytes else _limit(0)),
        ("requests a second", _limit(quotas.requests_per_second)),
        ("tokens a second", _limit(quotas.tokens_per_second)),
        ("saved up at most", duration(quotas.burst_seconds)),
        ("default time-out", duration(found.default_timeout)),
        ("longest time-out", duration(found.longest_timeout)),
        ("uses now", _use(use)),
    ]
    if found.note:
        rows.append(("note", found.note))
    return table(f"tenant {found.name}", ("what", "value"), rows)


def left(found: Sequence[Left], now: float) -> Table:
    """What can still be read after an erasure."""
    columns = ("what", "where", "key", "made", "retired", "at the latest until", "what ends it sooner")
    rows = [
        (
            entry.what,
            ", ".join(entry.topics),
            f"{entry.key_id} ({entry.state})" if entry.key_id else UNKNOWN,
            date(entry.made_at),
            date(entry.retired_at) if entry.key_id else UNKNOWN,
            f"{date(entry.until)} ({at_time(entry.until, now)})",
            entry.remedy,
        )
        for entry in found
    ]
    return table("what can still be read", columns, rows)


def date(at: float) -> str:
    """A point in time, UTC; 0 is unknown."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if at else UNKNOWN


def _listed(values: Sequence[str]) -> str:
    return ", ".join(values) or ALL


def _limit(value: float) -> str:
    return f"{value:g}" if value else "no limit"


def _use(use: TenantUse | None) -> str:
    if use is None:
        return "unknown: neither the ledger nor a scheduler says so"
    rates = "".join(
        f", {spent:.0f} {what} not earned back yet"
        for what, spent in (("requests", use.requests), ("tokens", use.tokens))
        if spent >= 1
    )
    return f"{use.jobs} jobs, {size(use.bytes)}{rates}"


def _quotas(quotas: Quotas) -> str:
    named = [
        (f"{quotas.jobs} jobs", quotas.jobs),
        (size(quotas.bytes), quotas.bytes),
        (f"{quotas.requests_per_second:g} requests/s", quotas.requests_per_second),
        (f"{quotas.tokens_per_second:g} tokens/s", quotas.tokens_per_second),
    ]
    return ", ".join(text for text, value in named if value) or "no limit"
