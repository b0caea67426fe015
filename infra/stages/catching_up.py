"""Reads places to their ends as of now: how every state that is derived from the log begins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llmos.infra.log.port import Place, Record
from llmos.infra.runtime.context import Context

STALL_SECONDS = 60.0
"""Without any progress, reading is given up."""


async def read_to_end(
    ctx: Context, from_: dict[Place, int], take: Callable[[Record], None], stall: float = STALL_SECONDS
) -> dict[Place, int]:
    """Feeds `take` with every committed record of the places from the offsets given to their ends as of now.

    Gives the positions reached. Raises `TimeoutError` when nothing moves for `stall` seconds; however much there is to
    read, it may take its time.
    """
    reader = ctx.log.reader()
    loop = asyncio.get_running_loop()
    try:
        ends = await ctx.log.ends(list(from_))
        reader.assign({place: min(offset, ends[place]) for place, offset in from_.items()})
        behind, moved_at = dict.fromkeys(ends, -1), loop.time()
        while any(reader.position(place) < end for place, end in ends.items()):
            for records in (await reader.read(timeout=0.1)).values():
                for record in records:
                    take(record)
            positions = {place: reader.position(place) for place in ends}
            if positions != behind:
                behind, moved_at = positions, loop.time()
            elif loop.time() - moved_at > stall:
                raise TimeoutError(f"nothing more could be read for {stall:g} s, of {sorted(ends)}")
            ctx.health.progress("catch-up")
        return {place: reader.position(place) for place in from_}
    finally:
        await reader.close()
