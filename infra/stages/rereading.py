"""Reads one record again by its offset: what was damaged on its way, and not where it lies, is whole then."""

from __future__ import annotations

import asyncio

from llmos.infra.log.port import Log, Record
from llmos.schemas.errors import PositionLost

REREAD_SECONDS = 2.0
"""For a second look at most, in all; whoever waits for it holds up those behind it."""


async def read_again(log: Log, record: Record, seconds: float = REREAD_SECONDS) -> Record | None:
    """The record that lies at the place and offset of `record`, by a reader of its own; None where it is not to be had
    within `seconds`, or no longer in the log."""
    reader = log.reader()
    try:
        reader.assign({record.place: record.offset})
        async with asyncio.timeout(seconds):
            found = (await reader.read(timeout=seconds, max_records=1)).get(record.place, [])
    except (TimeoutError, PositionLost):
        return None
    finally:
        await reader.close()
    return found[0] if found and found[0].offset == record.offset else None
