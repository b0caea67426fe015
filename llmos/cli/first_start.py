"""What a system needs once: its topics, its keys, and the three tenants of the demo."""

from __future__ import annotations

import structlog

from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.secrets import new_secret, wrap_secret
from llmos.infra.log.kafka import KafkaLog
from llmos.infra.log.port import Log, Out, Place
from llmos.infra.log.topics import ensure_topics
from llmos.infra.settings import Settings
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.catalog import Tenant

log = structlog.get_logger()

DEMO_TENANTS = ("demo", "acme", "globex")
"""They may send clear payloads without a MAC: the one exception from sealed and signed."""


async def first_start(settings: Settings) -> None:
    """Makes what is missing; nothing that exists is touched.

    Raises:
        Unreachable: the broker.
        LayoutMismatch: the topics were made with another N.
    """
    keyring = Keyring.create(settings.keyring)
    log_ = await KafkaLog.connect(settings.kafka, client="first-start")
    try:
        await ensure_topics(log_, settings)
        await _ensure_tenants(log_, keyring)
    finally:
        await log_.close()


async def _ensure_tenants(log_: Log, keyring: Keyring) -> None:
    known = await _known_tenants(log_)
    missing = [name for name in DEMO_TENANTS if name not in known]
    records = []
    for name in missing:
        key_id, wrapped = wrap_secret(keyring, name, new_secret())
        tenant = Tenant(name=name, plaintext="allow", mac="optional", wrapped_secret=wrapped, key_id=key_id)
        records.append(Out(name.encode(), encode(tenant)))
    if records:
        await log_.emit(Place(topics.TENANTS, 0), records)
        log.info("tenants_made", names=missing)


async def _known_tenants(log_: Log) -> set[str]:
    place = Place(topics.TENANTS, 0)
    end = (await log_.ends([place]))[place]
    reader = log_.reader()
    known: set[str] = set()
    try:
        reader.assign(await log_.begins([place]))
        while reader.position(place) < end:
            for record in (await reader.read(timeout=0.2)).get(place, []):
                name = (record.key or b"").decode()
                (known.add if record.value is not None else known.discard)(name)
    finally:
        await reader.close()
    return known
