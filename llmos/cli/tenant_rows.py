"""Reads and writes the topic `tenants`, which is the truth about them; every service follows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from llmos.infra.log.port import Log, Out, Place
from llmos.infra.stages.follower import Table
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.catalog import TENANTS, Tenant
from llmos.schemas.errors import TopicMissing

_PLACE: Final = Place(topics.TENANTS, 0)


async def read_tenants(log: Log) -> dict[str, Tenant]:
    """All tenants, by name. Raises `TopicMissing`."""
    if await log.partitions(topics.TENANTS) is None:
        raise TopicMissing(topic=topics.TENANTS)
    table = Table(topics.TENANTS, TENANTS)
    end = (await log.ends([table.place]))[table.place]
    reader = log.reader()
    try:
        reader.assign(await log.begins([table.place]))
        while reader.position(table.place) < end:
            for records in (await reader.read(timeout=0.2)).values():
                for record in records:
                    table.take(record)
    finally:
        await reader.close()
    return dict(table.rows)


async def write_tenants(log: Log, tenants: Sequence[Tenant]) -> None:
    """Puts these rows in the place of those before; the services have them within milliseconds."""
    await log.emit(_PLACE, [Out(tenant.name.encode(), encode(tenant)) for tenant in tenants])


async def remove_tenant(log: Log, name: str) -> None:
    """A tombstone: there is no such tenant any more."""
    await log.emit(_PLACE, [Out(name.encode(), None)])
