"""What a system needs once: its topics, its keys, the three tenants of the demo, and the files of those that use it.

A system of before there were reply keys is completed: keys for the purposes that are new, what tenants lack; no secret of
before is replaced. The rows of a system of before there were seals are sealed, once: a file beside the keyring says that it
was done, so that nobody has a row of his sealed by writing it without a seal and waiting for the next start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import structlog

from llmos.cli.credential_files import (
    found_credentials,
    prepare_credentials,
    put_credentials,
    recover_credentials,
    refresh_public_keys,
)
from llmos.cli.tenant_rows import Rows, read_as_they_stand, read_tenants, write_tenants
from llmos.cli.tenants import Made, completed, erased, new_tenant
from llmos.infra.crypto.credentials import PublicKey, credentials_file, public_keys
from llmos.infra.crypto.keyfile import create_keyring
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.secrets import unwrap_secret
from llmos.infra.log.clock import WallClock
from llmos.infra.log.kafka import KafkaLog
from llmos.infra.log.port import Log
from llmos.infra.log.topics import ensure_topics
from llmos.infra.settings import Settings
from llmos.schemas.catalog import Tenant
from llmos.schemas.errors import BadSetting, EnvelopeRejected, KeyringMismatch

log = structlog.get_logger()

DEMO_TENANTS: Final = ("demo", "acme", "globex")
"""They may send clear payloads without a MAC: the one exception from sealed and signed."""
ROWS_SEALED: Final = "tenant-rows-sealed"
"""The file beside the keyring that says that rows without a seal are none of before any more."""
DEMO_RIGHTS: Final[Mapping[str, Any]] = {"plaintext": "allow", "mac": "optional"}


async def first_start(settings: Settings) -> None:
    """Makes what is missing; nothing that exists is touched.

    Raises:
        Unreachable: the broker.
        LayoutMismatch: the topics were made with another N.
        KeyringMismatch: the system has a keyring, and its file is not there.
        BadSetting: the keyring or a file of credentials cannot be used, or written.
    """
    log_ = await KafkaLog.connect(settings.kafka, client="first-start")
    try:
        await ensure_topics(log_, settings)
        await ensure_keys(log_, settings)
    finally:
        await log_.close()


async def ensure_keys(log_: Log, settings: Settings) -> None:
    """The keyring, the tenants, and the files of their clients. Raises `KeyringMismatch`, `BadSetting`."""
    keyring = await asyncio.to_thread(_keyring, settings, await read_as_they_stand(log_))
    found = await read_tenants(log_, keyring)
    mark = settings.keyring.with_name(ROWS_SEALED)
    before = await asyncio.to_thread(_of_before, found, keyring, mark)
    rows = {**found.tenants, **before}
    refused = sorted(set(found.refused) - set(rows))
    keyring = await asyncio.to_thread(create_keyring, settings.keyring, _names(settings, keyring, rows, refused))
    system = public_keys(keyring)
    made = await asyncio.to_thread(_missing, settings, keyring, rows, refused, system)
    beside = [await asyncio.to_thread(prepare_credentials, one.credentials, path) for one, path in made]
    written = before | {one.tenant.name: one.tenant for one, _ in made}
    if written:
        await write_tenants(log_, keyring, list(written.values()))
    if made:
        log.info("tenants_made", names=[one.tenant.name for one, _ in made])
    if before:
        log.warning("tenant_rows_sealed", names=sorted(before), why="they are of before there were seals")
    await asyncio.to_thread(_mark, mark)
    for prepared, (_, path) in zip(beside, made, strict=True):
        await asyncio.to_thread(put_credentials, prepared, path)
    await asyncio.to_thread(refresh_public_keys, settings.state_directory, system)


def _keyring(settings: Settings, rows: Mapping[str, Tenant]) -> Keyring:
    """The system's keyring, with a key for each purpose; a new one only for a new system."""
    if not settings.keyring.exists() and any(tenant.wrapped_secret for tenant in rows.values()):
        raise KeyringMismatch(path=settings.keyring.absolute(), problem="there is no such file")
    return create_keyring(settings.keyring)


def _of_before(found: Rows, keyring: Keyring, mark: Path) -> dict[str, Tenant]:
    """The rows without a seal that operators wrote before there were any, as far as that can be told: their secrets open.
    None where the file `mark` says that they are sealed."""
    if mark.exists():
        return {}
    return {
        name: row
        for name, row in found.refused.items()
        if name == row.name
        and name not in found.tenants
        and not row.seal
        and not erased(keyring, name)
        and _opens(keyring, row)
    }


def _opens(keyring: Keyring, row: Tenant) -> bool:
    try:
        return bool(unwrap_secret(keyring, row))
    except EnvelopeRejected:
        return False


def _mark(path: Path) -> None:
    try:
        path.touch(mode=0o600)
    except OSError as problem:
        raise BadSetting(setting="keyring_file", problem=f"{path} cannot be written: {problem.strerror}") from None


def _demo(settings: Settings, keyring: Keyring, refused: Collection[str]) -> list[str]:
    """The demo's tenants that are to be there. One that was erased, or whose row somebody else changed, is not made anew."""
    if not settings.demo_tenants:
        return []
    return [name for name in DEMO_TENANTS if name not in refused and not erased(keyring, name)]


def _names(settings: Settings, keyring: Keyring, rows: Collection[str], refused: Collection[str]) -> list[str]:
    """The tenants that are to have a key of their own."""
    return sorted({*rows, *_demo(settings, keyring, refused)})


def _missing(
    settings: Settings,
    keyring: Keyring,
    rows: Mapping[str, Tenant],
    refused: Collection[str],
    system: Sequence[PublicKey],
) -> list[tuple[Made, Path]]:
    """Tenants that are to be made, or made whole, and where their credentials go."""
    found: list[tuple[Made, Path]] = []
    for name, row in rows.items():
        path = credentials_file(settings.state_directory, name)
        recover_credentials(row, path)
        made = completed(row, found_credentials(path, name), keyring, system)
        if made is not None:
            found.append((made, path))
    for name in _demo(settings, keyring, refused):
        if name not in rows:
            made = new_tenant(name, DEMO_RIGHTS, keyring, system, WallClock().now())
            found.append((made, credentials_file(settings.state_directory, name)))
    return found
