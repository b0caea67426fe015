"""What a tenant has in flight and has spent: as the ledger knows it, else as the scheduler said last."""

from __future__ import annotations

import asyncio
from typing import Final

from llmos.cli.attach import attach_settings
from llmos.infra.ledger.port import LedgerAway, TenantUse
from llmos.infra.ledger.redis import RedisLedger
from llmos.infra.log.port import Log, Place
from llmos.infra.settings import Settings
from llmos.schemas import topics
from llmos.schemas.errors import OperatorError
from llmos.schemas.telemetry import TELEMETRY, LiveCounts

_TELEMETRY: Final = Place(topics.TELEMETRY, 0)
_TAIL: Final = 2000
"""Records at the end of `telemetry` among which the last live counts are, which come every second."""


async def spent(settings: Settings, name: str) -> TenantUse | None:
    """As the ledger knows it; None: it is away."""
    try:
        ledger = await RedisLedger.connect((await asyncio.to_thread(attach_settings, settings)).redis)
    except (LedgerAway, OperatorError):
        return None
    try:
        return (await ledger.tenants()).get(name, TenantUse())
    except LedgerAway:
        return None
    finally:
        await ledger.close()


async def live_use(log: Log, name: str) -> TenantUse | None:
    """What is in flight as the scheduler said last; None: it says nothing."""
    if await log.partitions(topics.TELEMETRY) is None:
        return None
    begin = (await log.begins([_TELEMETRY]))[_TELEMETRY]
    end = (await log.ends([_TELEMETRY]))[_TELEMETRY]
    found: TenantUse | None = None
    reader = log.reader()
    try:
        reader.assign({_TELEMETRY: max(begin, end - _TAIL)})
        while reader.position(_TELEMETRY) < end:
            for record in (await reader.read(timeout=0.2)).get(_TELEMETRY, ()):
                message = TELEMETRY.decode(record.value)
                if isinstance(message, LiveCounts):
                    found = TenantUse(*message.tenants.get(name, (0, 0)))
    finally:
        await reader.close()
    return found
