"""Rule 1: each readable record in becomes exactly one record out, in order, with its origin; offsets follow acknowledgements.

A turn: read, let the handler settle the records, send one awaited batch per target partition, remember how far
everything is acknowledged, commit when due. Whatever fails ends the process; start-up is the only recovery.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from llmos.infra.log.port import Commit, Out, Place, Reader, Record
from llmos.infra.runtime.context import Context
from llmos.infra.stages.backlog import Reached
from llmos.infra.stages.origins import Origins
from llmos.infra.stages.ownership import RECOMMIT_SECONDS, starts
from llmos.infra.stages.sending import send
from llmos.schemas import topics


class Emitted(NamedTuple):
    """The record became this one."""

    place: Place
    out: Out


class DeadLettered(NamedTuple):
    """The record cannot be used; this goes to the dead-letter topic."""

    out: Out


class Repeated(NamedTuple):
    """The record was seen before; nothing is made of it."""


Settlement = Emitted | DeadLettered | Repeated


class Handler(Protocol):
    """Decides what becomes of records."""

    async def settle(self, place: Place, records: Sequence[Record], origins: Origins) -> Sequence[Settlement]:
        """One settlement per record, in order. Fewer than records: the rest waits, and the place is paused."""

    async def may_resume(self, places: Sequence[Place]) -> bool:
        """Asked now and then while these places are paused: whether to try their records again."""


@dataclass(slots=True)
class _Source:
    """A place being read: what is acknowledged, and what waits."""

    acknowledged: int
    origins: Origins
    committed: int
    committed_at: float
    waiting: list[Record]
    read_to: float = 0.0


class OneInOneOut:
    """Runs one handler over the places it owns."""

    def __init__(
        self, ctx: Context, group: str, places: Sequence[Place], handler: Handler, commit_seconds: float
    ) -> None:
        self._ctx = ctx
        self._group = group
        self._places = list(places)
        self._handler = handler
        self._commit_seconds = commit_seconds
        self._sources: dict[Place, _Source] = {}

    async def run(self, *, resume_seconds: float = 0.05) -> None:
        """Takes turns until `ctx.stop` is set, then commits and returns."""
        ctx = self._ctx
        reader = ctx.log.reader(self._group)
        try:
            now = asyncio.get_running_loop().time()
            found = await starts(ctx.log, self._group, self._places)
            for place, commit in found.items():
                self._sources[place] = _Source(commit.offset, Origins.load(commit.metadata), -1, now, [])
            reader.assign({place: commit.offset for place, commit in found.items()})
            await self._commit(reader, force=True)
            ctx.health.ready()
            while not ctx.stop.is_set():
                paused = [place for place, source in self._sources.items() if source.waiting]
                batches = await reader.read(timeout=resume_seconds if paused else min(0.5, self._commit_seconds))
                if paused and await self._handler.may_resume(paused):
                    self._take_waiting(reader, batches)
                if batches:
                    await self._turn(reader, batches)
                await self._commit(reader, force=False)
                ctx.health.progress(self._group)
            await self._commit(reader, force=True)
        finally:
            await reader.close()

    def reached(self) -> dict[Place, Reached]:
        """How far everything is acknowledged."""
        return {place: Reached(source.acknowledged, source.read_to) for place, source in self._sources.items()}

    def _take_waiting(self, reader: Reader, batches: dict[Place, list[Record]]) -> None:
        for place, source in self._sources.items():
            if source.waiting:
                batches[place] = source.waiting
                source.waiting = []
                reader.resume([place])

    async def _turn(self, reader: Reader, batches: Mapping[Place, Sequence[Record]]) -> None:
        out: dict[Place, list[Out]] = {}
        reached: dict[Place, int] = {}
        for place, records in batches.items():
            source = self._sources[place]
            settled = await self._handler.settle(place, records, source.origins)
            for settlement in settled:
                if isinstance(settlement, Emitted):
                    out.setdefault(settlement.place, []).append(settlement.out)
                elif isinstance(settlement, DeadLettered):
                    out.setdefault(Place(topics.DEAD, 0), []).append(settlement.out)
            rest = records[len(settled) :]
            if rest:
                source.waiting = list(rest)
                reader.pause([place])
            reached[place] = rest[0].offset if rest else records[-1].offset + 1
            if settled:
                source.read_to = records[len(settled) - 1].timestamp
        await send(self._ctx.log, out)
        # State as of the commit: the origin map at exactly the acknowledged offset, not at the read position.
        for place, offset in reached.items():
            self._sources[place].acknowledged = offset

    async def _commit(self, reader: Reader, *, force: bool) -> None:
        now = asyncio.get_running_loop().time()
        due = {
            place: source
            for place, source in self._sources.items()
            if (
                source.acknowledged != source.committed and (force or now - source.committed_at >= self._commit_seconds)
            )
            or now - source.committed_at >= RECOMMIT_SECONDS
        }
        if not due:
            return
        await reader.commit({place: Commit(s.acknowledged, s.origins.dump()) for place, s in due.items()})
        for source in due.values():
            source.committed = source.acknowledged
            source.committed_at = now
