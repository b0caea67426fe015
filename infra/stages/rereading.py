"""Reads one record again by its offset: what was damaged on its way, and not where it lies, is whole then."""

from __future__ import annotations

import asyncio

from llmos.infra.log.port import Clock, Log, Record
from llmos.schemas.errors import PositionLost

REREAD_SECONDS = 2.0
"""For a second look at most, in all; whoever waits for it holds up those behind it."""
EVERY_SECONDS = 0.1
"""What is damaged in quicker succession is not looked at again."""


class SecondLooks:
    """Second looks at damaged records, not at every one of many: each costs a reader, and a client that makes wrong
    checksums on purpose must not hold up the others."""

    def __init__(self, log: Log, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._at = -EVERY_SECONDS

    async def look(self, record: Record) -> Record | None:
        """The record where it lies; None where it is not to be had, or it is too soon after the look before."""
        now = self._clock.now()
        if abs(now - self._at) < EVERY_SECONDS:
            return None
        try:
            return await read_again(self._log, record)
        finally:
            # From its end on: a look that takes long must not be followed by the next one.
            self._at = self._clock.now()


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
