"""What an operator must know of keys: what to do after a rotation, what is lost with a key, when it may go. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from llmos.infra.crypto.keyring import KeyEntry, Purpose
from llmos.infra.crypto.live import LOOK_SECONDS

SETTLE_SECONDS: Final = 10 * LOOK_SECONDS
"""After a rotation services still wrap under the key of before, until they have looked at the file."""

_ORDER: Final[dict[Purpose, tuple[str, ...]]] = {
    "pool": ("worker", "verify"),
    "tenant": ("verify",),
    "system": ("ingest", "verify", "scheduler"),
    "ingress": ("verify",),
    "dead": (),
    "receipt": ("aggregator",),
    "operator": ("scheduler",),
    "control": ("worker", "node", "scheduler"),
}
"""Whose copies must have a new key, in this order: who opens before who wraps, who checks before who signs."""

_AND_THEN: Final[dict[Purpose, str]] = {
    "pool": "destroy the old one when no job sealed under it is live: after the longest time-out, a day",
    "tenant": "the old one goes on opening this tenant's jobs; with both destroyed, what they sealed is erased",
    "system": "tenants' secrets and rows stay under the old one until `llmos tenants rewrap` writes them anew: keep it until then",
    "ingress": "give clients the new public keys (`llmos keys export`); the old one opens what others still seal to it",
    "dead": "every service seals to the new one once its copy has the public half; the old one opens older dead letters",
    "receipt": "give the new public keys to who checks receipts (`llmos keys export`); the old public half stays there",
    "operator": "commands signed with the old one hold until it is destroyed",
    "control": "orders signed with the old one hold until it is destroyed",
}

_LOST: Final[dict[Purpose, str]] = {
    "pool": "jobs that verify sealed under it and that are not done yet: they fail as unreadable",
    "tenant": "what else only this tenant's key opens; its jobs open with the pool keys of their time until those go, too",
    "system": "the secrets and rows of tenants that are under it: those tenants cannot ask until they are made anew",
    "ingress": "requests that clients sealed to it and that verify has not taken yet, and those of clients without the new key",
    "dead": "the contents of dead letters sealed to it: they can be neither shown nor replayed",
    "receipt": "nothing: it signs no more, and its public half goes on checking what it signed",
    "operator": "commands signed with it are refused",
    "control": "orders signed with it that workers and nodes have not read yet are ignored",
}


def after_preparation(purpose: Purpose) -> list[str]:
    """What to do after a key was prepared, in lines for people."""
    copies = f": {', '.join(_ORDER[purpose])}" if _ORDER[purpose] else " there is"
    return [
        f"nobody uses it yet: write the copies on other machines anew (`llmos keys export --for …`){copies}",
        f"then `llmos keys rotate {purpose}` puts it to use; after that, once more, the copies of who wraps or signs with it",
    ]


def after_rotation(purpose: Purpose, old: Sequence[str], *, was_prepared: bool) -> list[str]:
    """What to do after a rotation that left the keys `old`, in lines for people."""
    lines = [f"services here take it over within {LOOK_SECONDS:.0f} s", _AND_THEN[purpose]]
    if _ORDER[purpose]:
        lines.append(f"copies on other machines (`llmos keys export --for …`): {', then '.join(_ORDER[purpose])}")
        if not was_prepared:
            lines.append("where there are any, they should have it first: next time begin with --prepare")
    if old:
        lines.append(f"only opening from now on: {', '.join(old)}; `llmos keys destroy` ends one")
    return lines


def lost_with(entry: KeyEntry) -> list[str]:
    """What nobody can read, or do, any more without this key, in lines for people."""
    return [
        f"{entry.id}, {entry.purpose}{f' of {entry.tenant}' if entry.tenant else ''}. Lost with it:",
        f"  {_LOST[entry.purpose]}",
    ]


def why_not_destroyed(entry: KeyEntry, now: float) -> str:
    """Why this key must not be destroyed at `now` (Unix seconds); empty: it may be."""
    if entry.state == "active":
        if entry.purpose == "tenant":
            return f"key {entry.id} is active; `llmos tenants erase {entry.tenant}` ends a tenant, `keys rotate` a key"
        return f"key {entry.id} is active; `llmos keys rotate {entry.purpose}` first"
    if entry.state == "destroyed":
        return f"key {entry.id} is destroyed already"
    wait = entry.retired_at + SETTLE_SECONDS - now
    if wait > 0:
        return f"key {entry.id} was rotated just now and may still be in use; try again in {wait:.0f} s"
    return ""
