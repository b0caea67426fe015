"""What a system needs once: its topics, its keys, the three tenants of the demo, and the files of those that use it.

A system of before there were reply keys is completed: keys for the purposes that are new, what tenants lack; no secret of
before is replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from llmos.cli.credential_files import (
    found_credentials,
    prepare_credentials,
    put_credentials,
    recover_credentials,
    refresh_public_keys,
)
from llmos.cli.tenant_rows import read_tenants, write_tenants
from llmos.cli.tenants import Made, completed, erased, new_tenant
from llmos.infra.crypto.credentials import PublicKey, credentials_file, public_keys
from llmos.infra.crypto.keyfile import create_keyring, load_keyring
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.log.clock import WallClock
from llmos.infra.log.kafka import KafkaLog
from llmos.infra.log.port import Log
from llmos.infra.log.topics import ensure_topics
from llmos.infra.settings import Settings
from llmos.schemas.catalog import Tenant
from llmos.schemas.errors import KeyringMismatch

log = structlog.get_logger()

DEMO_TENANTS: Final = ("demo", "acme", "globex")
"""They may send clear payloads without a MAC: the one exception from sealed and signed."""
DEMO_RIGHTS: Final[Mapping[str, Any]] = {"plaintext": "allow", "mac": "optional", "reply_prefixes": ["reply."]}


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
    rows = await read_tenants(log_)
    keyring = await asyncio.to_thread(_keyring, settings, rows)
    system = public_keys(keyring)
    made = await asyncio.to_thread(_missing, settings, keyring, rows, system)
    beside = [await asyncio.to_thread(prepare_credentials, one.credentials, path) for one, path in made]
    if made:
        await write_tenants(log_, [one.tenant for one, _ in made])
        log.info("tenants_made", names=[one.tenant.name for one, _ in made])
    for prepared, (_, path) in zip(beside, made, strict=True):
        await asyncio.to_thread(put_credentials, prepared, path)
    await asyncio.to_thread(refresh_public_keys, settings.state_directory, system)


def _keyring(settings: Settings, rows: Mapping[str, Tenant]) -> Keyring:
    """The system's keyring, with a key for each tenant; a new one only for a new system."""
    demo = DEMO_TENANTS if settings.demo_tenants else ()
    if not settings.keyring.exists():
        if any(tenant.wrapped_secret for tenant in rows.values()):
            raise KeyringMismatch(path=settings.keyring.absolute(), problem="there is no such file")
        return create_keyring(settings.keyring, {*rows, *demo})
    known = load_keyring(settings.keyring)
    return create_keyring(settings.keyring, sorted({*rows, *(name for name in demo if not erased(known, name))}))


def _missing(
    settings: Settings, keyring: Keyring, rows: Mapping[str, Tenant], system: Sequence[PublicKey]
) -> list[tuple[Made, Path]]:
    """Tenants that are to be made, or made whole, and where their credentials go."""
    found: list[tuple[Made, Path]] = []
    for name, row in rows.items():
        path = credentials_file(settings.state_directory, name)
        recover_credentials(row, path)
        made = completed(_with_demo_prefixes(row), found_credentials(path, name), keyring, system)
        if made is not None:
            found.append((made, path))
    if settings.demo_tenants:
        for name in DEMO_TENANTS:
            if name not in rows and not erased(keyring, name):
                made = new_tenant(name, DEMO_RIGHTS, keyring, system, WallClock().now())
                found.append((made, credentials_file(settings.state_directory, name)))
    return found


def _with_demo_prefixes(row: Tenant) -> Tenant:
    """A demo tenant of before there were prefixes of one's own may go on using its topics."""
    is_demo = row.name in DEMO_TENANTS and not row.reply_prefixes and not row.made_at
    return msgspec.structs.replace(row, reply_prefixes=DEMO_RIGHTS["reply_prefixes"]) if is_demo else row
