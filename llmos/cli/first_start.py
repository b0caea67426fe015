"""What a system needs once: its topics, its keys, and the three tenants of the demo."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from llmos.infra.crypto.keyfile import create_keyring
from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.secrets import new_secret, wrap_secret
from llmos.infra.log.kafka import KafkaLog
from llmos.infra.log.port import Log, Out, Place
from llmos.infra.log.topics import ensure_topics
from llmos.infra.settings import Settings
from llmos.infra.stages.follower import Table
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.catalog import TENANTS, Tenant
from llmos.schemas.errors import KeyringMismatch

log = structlog.get_logger()

DEMO_TENANTS = ("demo", "acme", "globex")
"""They may send clear payloads without a MAC: the one exception from sealed and signed."""


async def first_start(settings: Settings) -> None:
    """Makes what is missing; nothing that exists is touched.

    Raises:
        Unreachable: the broker.
        LayoutMismatch: the topics were made with another N.
        KeyringMismatch: the system has a keyring, and its file is not there.
    """
    log_ = await KafkaLog.connect(settings.kafka, client="first-start")
    try:
        await ensure_topics(log_, settings)
        tenants = await _known_tenants(log_)
        keyring = await asyncio.to_thread(_keyring, settings, tenants)
        if settings.demo_tenants:
            await _ensure_tenants(log_, keyring, set(tenants))
    finally:
        await log_.close()


def _keyring(settings: Settings, tenants: Mapping[str, Tenant]) -> Keyring:
    """The system's keyring; a new one only for a new system."""
    if not settings.keyring.exists() and any(tenant.wrapped_secret for tenant in tenants.values()):
        raise KeyringMismatch(path=settings.keyring.absolute(), problem="there is no such file")
    return create_keyring(settings.keyring)


async def _ensure_tenants(log_: Log, keyring: Keyring, known: set[str]) -> None:
    missing = [name for name in DEMO_TENANTS if name not in known]
    records = []
    for name in missing:
        key_id, wrapped = wrap_secret(keyring, name, new_secret())
        tenant = Tenant(name=name, plaintext="allow", mac="optional", wrapped_secret=wrapped, key_id=key_id)
        records.append(Out(name.encode(), encode(tenant)))
    if records:
        await log_.emit(Place(topics.TENANTS, 0), records)
        log.info("tenants_made", names=missing)


async def _known_tenants(log_: Log) -> dict[str, Tenant]:
    table = Table(topics.TENANTS, TENANTS)
    end = (await log_.ends([table.place]))[table.place]
    reader = log_.reader()
    try:
        reader.assign(await log_.begins([table.place]))
        while reader.position(table.place) < end:
            for records in (await reader.read(timeout=0.2)).values():
                for record in records:
                    table.take(record)
    finally:
        await reader.close()
    return dict(table.rows)
