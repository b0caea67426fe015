"""What `llmos doctor` looks at with the broker: whether the keyring opens the tenants' rows, and the credentials fit them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from llmos.cli.attach import running_stack
from llmos.cli.checks import Check
from llmos.cli.session import Session, run
from llmos.cli.tenant_rows import Rows, read_tenants
from llmos.infra.crypto.credentials import Credentials, load_credentials
from llmos.infra.crypto.keyfile import load_keyring
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.secrets import fingerprint, unwrap_secret
from llmos.infra.settings import Settings
from llmos.schemas.catalog import Tenant
from llmos.schemas.errors import BadSetting, EnvelopeRejected, OperatorError, TopicMissing

WHAT: Final = "tenants"
NAMED: Final = 5
"""So many are named."""


def row_checks(session: Session, settings: Settings) -> list[Check]:
    """The checks that need the broker; where none runs they say that they were not made. Blocks for as long as it takes to
    read the rows."""
    if not settings.kafka.bootstrap and running_stack(settings.state_directory) is None:
        return [Check(WHAT, True, "no system runs here, so that the tenants' rows were not looked at")]
    try:
        keys = load_keyring(settings.keyring)
    except BadSetting as problem:
        if not settings.keyring.exists() and settings.kafka.bootstrap:
            return [Check(WHAT, True, "no keyring yet, so that the tenants' rows were not looked at")]
        return [Check(WHAT, False, f"without the keyring nobody can be let in: {problem}", wrong=True)]

    async def read() -> Rows:
        async with session.log() as log:
            return await read_tenants(log, keys)

    try:
        rows = run(read())
    except TopicMissing:
        return [Check(WHAT, True, "there is no topic of tenants yet; the first `llmos up` makes it")]
    except OperatorError as problem:
        return [Check(WHAT, False, f"the rows cannot be read: {problem}", wrong=True)]
    found = rows_check(rows, keys)
    # With another's keyring nobody can tell whose credentials are right.
    return [found, credentials_check(rows, _credentials(settings))] if rows.tenants else [found]


def rows_check(rows: Rows, keys: Keyring) -> Check:
    """Whether the keyring opens every tenant's secret, and whether the rows are sealed under it. Pure."""
    lost = sorted(name for name, row in rows.tenants.items() if not _opens(keys, row))
    if lost:
        return Check(
            WHAT,
            False,
            f"the keyring does not open the secret of {_some(lost)}: put back the keyring that does, or give it another "
            "secret (`llmos tenants rotate-secret`) or erase it; ingest stops at its next request",
            wrong=True,
        )
    if rows.refused and not rows.tenants:
        return Check(
            WHAT,
            False,
            f"none of the {len(rows.refused)} rows is sealed under this keyring: put back the right one",
            wrong=True,
        )
    if rows.refused:
        said = f"rows of {_some(sorted(rows.refused))} are refused, since no operator wrote them: `llmos tenants list`"
        return Check(WHAT, False, said, wrong=True)
    return Check(WHAT, True, f"the keyring opens the rows of all {len(rows.tenants)}")


def credentials_check(rows: Rows, found: Sequence[Credentials]) -> Check:
    """Whether the credentials beside the system are those of tenants that there are, with their present secrets. Pure."""
    what = "credentials of tenants"
    gone = [one.tenant for one in found if one.tenant not in {*rows.tenants, *rows.refused}]
    if gone:
        return Check(
            what,
            False,
            f"of {_some(gone)}, which is no tenant (any more): to be deleted, or of another system",
            wrong=True,
        )
    old = [one.tenant for one in found if one.tenant in rows.tenants and _is_old(one, rows.tenants)]
    if old:
        return Check(
            what,
            False,
            f"those of {_some(old)} have not the present secret: get the file of the last rotation",
            wrong=True,
        )
    return Check(what, True, f"{len(found)} files, each with its tenant's present secret")


def _is_old(one: Credentials, rows: Mapping[str, Tenant]) -> bool:
    present = rows[one.tenant].fingerprint
    return bool(present) and present != fingerprint(one.secret)


def _credentials(settings: Settings) -> list[Credentials]:
    """Those beside the system that can be read; of the others another check tells."""
    found = []
    for path in sorted((settings.state_directory / "tenants").glob("*.json")):
        try:
            found.append(load_credentials(path))
        except BadSetting:
            continue
    return found


def _opens(keys: Keyring, row: Tenant) -> bool:
    try:
        unwrap_secret(keys, row)
    except EnvelopeRejected:
        return False
    return True


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} others" if len(names) > NAMED else "")
