"""How far back the requests topics hold what no instance has read yet: a copy may lie there, and its nonce must be known still.

Whether a copy is fresh is judged by the time at which the log took it, however late it is read: because its instance was down,
its partition waited for credits, or all of ingest stood still. So nonces are kept as far back as the slowest partition of all
instances, by what these have committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from llmos.infra.log.port import Place, Reader
from llmos.infra.runtime.context import Context
from llmos.infra.stages.backlog import Reached
from llmos.schemas.errors import PositionLost
from llmos.schemas.topics import topic_named

GROUP: Final = "ingest"
"""Under which all instances commit."""
LOOK_SECONDS: Final = 30.0
READ_SECONDS: Final = 5.0
"""Longest wait for the first records that are unread; what is not there by then counts as unread since the last look."""


class Frontier:
    """Looks at all requests topics, those of other instances included."""

    def __init__(
        self, ctx: Context, places: Sequence[Place], reached: Callable[[], Mapping[Place, Reached]] = dict
    ) -> None:
        """`reached`: how far this instance is with places of its own, which it need not read to know."""
        self._ctx = ctx
        self._places = list(places)
        self._reached = reached
        self._known: dict[Place, float] = {}

    async def look(self) -> float:
        """A time (Unix seconds): all that the log took before it was read, or is gone from the log."""
        log, now = self._ctx.log, self._ctx.clock.now()
        commits = await log.committed(GROUP, self._places)
        begins, ends = await log.begins(self._places), await log.ends(self._places)
        own = {place: at for place, at in self._reached().items() if at.read_to}
        reached = {
            place: max(commit.offset, begins[place]) if (commit := commits[place]) is not None else begins[place]
            for place in self._places
        } | {place: at.position for place, at in own.items()}
        behind = {place: offset for place, offset in reached.items() if offset < ends[place]}
        # What was read a moment ago is near enough, and spares a busy place the look; what lies behind an older one may be
        # nothing but the ends of transactions.
        unread = {p: own[p].read_to for p in behind.keys() & own.keys() if now - own[p].read_to <= LOOK_SECONDS}
        others = {place: offset for place, offset in behind.items() if place not in unread}
        if others:
            unread |= await self._first_unread(others, ends, now)
        for place in self._places:
            since = unread.get(place, self._known.get(place, 0.0)) if place in behind else now
            # What is older than this has left the log.
            oldest = now - (topic_named(place.topic).retention_seconds or now)
            self._known[place] = min(max(since, oldest), now)
        return min(self._known.values(), default=now)

    async def watch(self, note: Callable[[float], None]) -> None:
        """Tells `note` what `look` finds, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            note(await self.look())

    async def _first_unread(
        self, behind: Mapping[Place, int], ends: Mapping[Place, int], now: float
    ) -> dict[Place, float]:
        """When the log took the first unread record, as far as that could be read; `now` where nothing but the ends of
        strangers' transactions is unread."""
        found: dict[Place, float] = {}
        loop = asyncio.get_running_loop()
        until = loop.time() + READ_SECONDS
        reader: Reader = self._ctx.log.reader()
        try:
            reader.assign(behind)
            while len(found) < len(behind) and (left := until - loop.time()) > 0:
                for place, records in (await reader.read(left, max_records=len(behind))).items():
                    found.setdefault(place, records[0].timestamp)
                reader.pause(found)
                found |= {p: now for p in behind if p not in found and reader.position(p) >= ends[p]}
        except PositionLost:
            pass  # retention took it meanwhile: what was known of the others holds until the next look
        finally:
            await reader.close()
        return found
