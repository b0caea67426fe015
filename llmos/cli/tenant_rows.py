"""Reads and writes the topic `tenants`, which is the truth about them; every service follows it, as far as it is sealed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, NamedTuple

from llmos.infra.crypto.keyring import Keyring
from llmos.infra.crypto.rows import renewed_row
from llmos.infra.log.clock import WallClock
from llmos.infra.log.port import Log, Out, Place
from llmos.infra.stages.follower import Table
from llmos.infra.stages.tenants import TenantTable, check_keyring
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.catalog import CATALOG, TENANTS, Alias, Model, Tenant
from llmos.schemas.errors import TopicMissing

_PLACE: Final = Place(topics.TENANTS, 0)


class Rows(NamedTuple):
    """What is on the topic, by name."""

    tenants: Mapping[str, Tenant]
    """Those that the services go by."""
    refused: Mapping[str, Tenant]
    """Rows that they do not go by, each the last of its name: without a right seal, or old ones that were put there again.
    There may be a right one of the same name."""


async def read_tenants(log: Log, keys: Keyring) -> Rows:
    """All tenants, read as the services do it. Raises `TopicMissing`."""
    table = TenantTable(keys)
    await _read(log, table.table)
    return Rows(dict(table.table.rows), dict(table.refused))


async def system_tenants(log: Log, keys: Keyring, path: Path) -> Rows:
    """As `read_tenants`, for who is going to write: `keys`, of the file `path`, must be those of the system.

    Raises:
        KeyringMismatch: they open no tenant's secret.
        TopicMissing: there is no such topic.
    """
    rows = await read_tenants(log, keys)
    check_keyring(keys, [*rows.tenants.values(), *rows.refused.values()], path)
    return rows


async def read_as_they_stand(log: Log) -> dict[str, Tenant]:
    """The last row of each name, whoever wrote it. Raises `TopicMissing`."""
    table = Table(topics.TENANTS, TENANTS)
    await _read(log, table)
    return dict(table.rows)


async def unmatched(log: Log, patterns: Sequence[str]) -> list[str]:
    """Those of these patterns that mean no model which the system has now, by name, alias or identity. Empty where nobody
    can tell."""
    catalog = Table(topics.CATALOG, CATALOG)
    try:
        await _read(log, catalog)
    except TopicMissing:
        return []
    names = {
        name for row in catalog.rows.values() if isinstance(row, Model | Alias) for name in (row.name, row.identity)
    }
    return [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]


async def _read(log: Log, table: Table) -> None:
    if await log.partitions(table.place.topic) is None:
        raise TopicMissing(topic=table.place.topic)
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


async def write_tenants(log: Log, keys: Keyring, tenants: Sequence[Tenant]) -> list[Tenant]:
    """Puts these rows in the place of those that they were made of, sealed and with the next version; gives them. The
    services have them within milliseconds. Raises `BadSetting` without the system's key."""
    now = WallClock().now()
    rows = [renewed_row(keys, tenant, now) for tenant in tenants]
    await log.emit(_PLACE, [Out(row.name.encode(), encode(row)) for row in rows])
    return rows


async def remove_tenant(log: Log, name: str) -> None:
    """A tombstone: there is no such tenant any more."""
    await log.emit(_PLACE, [Out(name.encode(), None)])
