"""Tenants as operators make and change them: rows of `tenants`, and the credentials that go with them. Pure, but for chance."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from llmos.infra.crypto.credentials import Credentials, PublicKey, ReplyKey
from llmos.infra.crypto.hpke import Recipient
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.secrets import fingerprint, new_secret, unwrap_previous, unwrap_secret, wrap_secret
from llmos.infra.wording import in_words
from llmos.schemas.base import encode
from llmos.schemas.catalog import TENANTS, Quotas, Tenant
from llmos.schemas.errors import BadSetting, EnvelopeRejected, Malformed, NoSuchTenant, TenantTaken

GRACE_SECONDS: Final = 3600.0
"""How long the secret before a rotation holds, unless something else is said."""
KEPT_SECRETS: Final = 8
"""Secrets of before that credentials keep."""
OPERATORS: Final = "operator"
"""`reply.operator.` is where operators' replies go, so that no tenant may have this name."""

NAME: Final = "a name has 1 to 64 characters of a-z 0-9 . _ - and begins with a letter or digit"

Changes = Mapping[str, Any]
"""Fields of `Tenant`, and of its `Quotas`, that are to have other values."""


class Made(NamedTuple):
    """A tenant's row, and what its clients need."""

    tenant: Tenant
    credentials: Credentials


def named(name: str, rows: Mapping[str, Tenant], refused: Collection[str] = ()) -> Tenant:
    """The tenant.

    Raises:
        NoSuchTenant: there is none of that name.
        BadSetting: there is only a row that no operator wrote (`refused`).
    """
    found = rows.get(name)
    if found is None:
        if name in refused:
            raise BadSetting(
                setting=f"of tenant {name!r}",
                problem="no operator wrote the row that is there, and the services do not go by it; "
                "`llmos tenants erase` takes it away, `llmos tenants add` makes the tenant anew",
            )
        raise NoSuchTenant(tenant=name)
    return found


def check_free(name: str, taken: Collection[str]) -> None:
    """Whether a tenant may have this name: what begins with `reply.<name>.` must be its own.

    Raises:
        TenantTaken: there is one of that name, or one whose name with a dot begins or continues it.
    """
    for other in sorted({*taken, OPERATORS}):
        if name == other or name.startswith(f"{other}.") or other.startswith(f"{name}."):
            raise TenantTaken(tenant=name, other=other)


def new_tenant(
    name: str,
    changes: Changes,
    keys: Keyring,
    system: Sequence[PublicKey],
    now: float,
    algorithm: Recipient = "x25519",
) -> Made:
    """A tenant with a fresh secret and a fresh reply key.

    Raises:
        BadSetting: the name or a field is out of its bounds.
    """
    secret, reply_key = new_secret(), ReplyKey.fresh(algorithm)
    key_id, wrapped = wrap_secret(keys, name, secret)
    tenant = changed(
        Tenant(
            name=name,
            wrapped_secret=wrapped,
            key_id=key_id,
            fingerprint=fingerprint(secret),
            reply_key=reply_key.public,
            made_at=now,
        ),
        changes,
    )
    return Made(tenant, Credentials(tenant=name, secret=secret, reply_keys=[reply_key], system_keys=list(system)))


def changed(tenant: Tenant, changes: Changes) -> Tenant:
    """The tenant with these fields.

    Raises:
        BadSetting: one is out of its bounds, or the default time-out is above the longest.
    """
    quotas = {name: value for name, value in changes.items() if name in Quotas.__struct_fields__}
    fields = {name: value for name, value in changes.items() if name not in quotas}
    if quotas:
        fields["quotas"] = msgspec.structs.replace(tenant.quotas, **quotas)
    made = msgspec.structs.replace(tenant, **fields)
    try:
        read: Tenant = TENANTS.decode(encode(made))
    except Malformed as problem:
        said = in_words(problem.values["problem"]).removeprefix("quotas.")
        said = NAME if said.startswith("name ") else said
        raise BadSetting(setting=f"of tenant {tenant.name!r}", problem=said) from None
    if read.default_timeout > read.longest_timeout:
        raise BadSetting(
            setting=f"of tenant {tenant.name!r}",
            problem=f"the default time-out ({read.default_timeout:g} s) is above the longest ({read.longest_timeout:g} s)",
        )
    return read


def with_new_secret(
    tenant: Tenant, before: Credentials | None, keys: Keyring, system: Sequence[PublicKey], now: float, grace: float
) -> Made:
    """The tenant with a fresh secret; the one it had holds for `grace` seconds more. `before`: its present credentials, of
    which the reply keys are kept."""
    secret = new_secret()
    key_id, wrapped = wrap_secret(keys, tenant.name, secret)
    made = msgspec.structs.replace(
        tenant,
        wrapped_secret=wrapped,
        key_id=key_id,
        fingerprint=fingerprint(secret),
        previous_secret=tenant.wrapped_secret if grace > 0 else b"",
        previous_key_id=tenant.key_id if grace > 0 else "",
        previous_until=now + grace if tenant.wrapped_secret and grace > 0 else 0.0,
    )
    credentials = Credentials(tenant=tenant.name, secret=secret, system_keys=list(system))
    if before is not None:
        known = [before.secret, *before.previous_secrets] if before.secret else before.previous_secrets
        credentials = msgspec.structs.replace(
            credentials, reply_keys=list(before.reply_keys), previous_secrets=known[:KEPT_SECRETS]
        )
    return Made(made, credentials)


def with_new_reply_key(made: Made, algorithm: Recipient) -> Made:
    """With a fresh reply key; the credentials keep those of before, which open what was sealed to them."""
    fresh = ReplyKey.fresh(algorithm)
    credentials = msgspec.structs.replace(made.credentials, reply_keys=[fresh, *made.credentials.reply_keys])
    return Made(msgspec.structs.replace(made.tenant, reply_key=fresh.public), credentials)


def completed(tenant: Tenant, known: Credentials | None, keys: Keyring, system: Sequence[PublicKey]) -> Made | None:
    """A tenant of before there were reply keys, made whole; its secret stays. None where nothing is missing, or where the
    keyring does not open its secret."""
    if not tenant.wrapped_secret or (tenant.reply_key and tenant.fingerprint):
        return None
    try:
        secret = unwrap_secret(keys, tenant)
    except EnvelopeRejected:
        return None
    whole = msgspec.structs.replace(tenant, fingerprint=fingerprint(secret))
    reply_keys = known.reply_keys if known is not None and known.tenant == tenant.name else []
    made = Made(
        whole, Credentials(tenant=tenant.name, secret=secret, reply_keys=list(reply_keys), system_keys=list(system))
    )
    if tenant.reply_key:
        return made
    if reply_keys:
        return made._replace(tenant=msgspec.structs.replace(whole, reply_key=reply_keys[0].public))
    return with_new_reply_key(made, "x25519")


def rewrapped(tenant: Tenant, keys: Keyring, now: float) -> Tenant:
    """The tenant with its secrets under the active key of the system; they stay the same. One of before that does not hold
    at `now` (Unix seconds) any more is left out.

    Raises:
        EnvelopeRejected: a secret that holds does not open with these keys.
    """
    wrapped: dict[str, Any] = {"previous_secret": b"", "previous_key_id": "", "previous_until": 0.0}
    if tenant.wrapped_secret:
        key_id, secret = wrap_secret(keys, tenant.name, unwrap_secret(keys, tenant))
        wrapped |= {"wrapped_secret": secret, "key_id": key_id}
    if tenant.previous_secret and now < tenant.previous_until:
        key_id, secret = wrap_secret(keys, tenant.name, unwrap_previous(keys, tenant))
        wrapped |= {"previous_secret": secret, "previous_key_id": key_id, "previous_until": tenant.previous_until}
    return msgspec.structs.replace(tenant, **wrapped)


def tenant_keys(keys: Keyring, name: str) -> list[str]:
    """The ids of a tenant's own keys that are not destroyed."""
    return [entry.id for entry in keys.entries if entry.purpose == "tenant" and entry.tenant == name and entry.key]


def erased(keys: Keyring, name: str) -> bool:
    """Whether a tenant of this name was erased: it had keys, and all are destroyed."""
    own = [entry for entry in keys.entries if entry.purpose == "tenant" and entry.tenant == name]
    return bool(own) and all(entry.state == "destroyed" for entry in own)
