"""Reads places to their ends as of now: how every state that is derived from the log begins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llmos.infra.log.port import Place, Record
from llmos.infra.runtime.context import Context

CATCH_UP_SECONDS = 300.0


async def read_to_end(
    ctx: Context, from_: dict[Place, int], take: Callable[[Record], None], timeout: float = CATCH_UP_SECONDS
) -> dict[Place, int]:
    """Feeds `take` with every committed record of the places from the offsets given to their ends as of now.

    Gives the positions reached. Raises `TimeoutError` when that takes longer than `timeout` seconds.
    """
    reader = ctx.log.reader()
    try:
        ends = await ctx.log.ends(list(from_))
        starts_ = {place: min(offset, ends[place]) for place, offset in from_.items()}
        reader.assign(starts_)
        async with asyncio.timeout(timeout):
            while any(reader.position(place) < end for place, end in ends.items()):
                for records in (await reader.read(timeout=0.1)).values():
                    for record in records:
                        take(record)
                ctx.health.progress("catch-up")
        return {place: reader.position(place) for place in from_}
    finally:
        await reader.close()
