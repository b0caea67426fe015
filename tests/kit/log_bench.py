"""What the tests of the log share: topics, records and ways to read them back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from llmos.infra.log.port import Log, Out, Place, Reader, Record, TopicSpec
from llmos.schemas.limits import RECORD_BYTES

Connect = Callable[[str], Awaitable[Log]]
"""Connects a client of this name; the fixture closes it."""

A0, A1 = Place("a", 0), Place("a", 1)
DEADLINE_SECONDS = 30.0


def spec(
    name: str = "a", partitions: int = 2, *, append_time: bool = False, record_bytes: int = RECORD_BYTES
) -> TopicSpec:
    """A topic kept for an hour."""
    return TopicSpec(name, partitions, 3600.0, append_time, record_bytes)


def outs(*values: str) -> list[Out]:
    """Records with these values."""
    return [Out(b"k", value.encode()) for value in values]


def values(records: Iterable[Record]) -> list[str]:
    """Their values."""
    return [(record.value or b"").decode() for record in records]


async def collect(reader: Reader, count: int, max_records: int = 2000) -> list[Record]:
    """Reads until `count` records came."""
    found: list[Record] = []
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(found) < count:
            for records in (await reader.read(1.0, max_records)).values():
                found += records
    return found


async def everything(log: Log, place: Place) -> list[Record]:
    """Reads a place from its first record until the position is at its end as of now."""
    reader = log.reader()
    found: list[Record] = []
    try:
        end = (await log.ends([place]))[place]
        reader.assign({place: (await log.begins([place]))[place]})
        async with asyncio.timeout(DEADLINE_SECONDS):
            while reader.position(place) < end:
                for records in (await reader.read(0.1)).values():
                    found += records
        return found
    finally:
        await reader.close()
