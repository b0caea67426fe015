"""Rule 5: state that is read back from the log. What is on `sealed` and has no receipt on `usage` is live.

Start: take a term on `epochs` → read the commit (L, the origin map at L, U) → read `usage` to its end as of now →
read `sealed` from L to its end as of now → take turns. A submission is finished when its receipt is seen.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from llmos.infra.log.port import Commit, Place, Reader, Record
from llmos.infra.runtime.context import Context
from llmos.infra.stages.backlog import Reached
from llmos.infra.stages.catching_up import read_to_end
from llmos.infra.stages.origins import Origins
from llmos.infra.stages.ownership import RECOMMIT_SECONDS, starts
from llmos.schemas import topics
from llmos.schemas.errors import CommitMissing
from llmos.schemas.job import Origin


class Watermark:
    """What one partition of `sealed` still owes: L, the origin map there, and U."""

    def __init__(self, commit: Commit) -> None:
        origins, _, usage_from = commit.metadata.partition(" U=")
        try:
            self.usage_position = int(usage_from or 0)
        except ValueError:
            raise CommitMissing(group="(unreadable metadata)", topic=topics.SEALED, partition=-1) from None
        self.low = commit.offset
        self.position = commit.offset
        self._origins = Origins.load(origins)
        self._origins_at_low = Origins.load(origins)
        self._tail: deque[tuple[int, Origin | None]] = deque()
        """(s, origin) from L on, in order; None for what will never be answered (replays, unreadable records)."""
        self._receipts: dict[int, int] = {}

    def submission(self, s: int, origin: Origin | None) -> bool:
        """Notes the record at `s`; whether it is new and not yet answered."""
        self.position = s + 1
        new = origin is not None and self._origins.accept(origin)
        self._tail.append((s, origin if new else None))
        return new and s not in self._receipts

    def receipt(self, s: int, usage_offset: int) -> None:
        """Notes the receipt of `s`."""
        self.usage_position = max(self.usage_position, usage_offset + 1)
        if s >= self.low:
            self._receipts.setdefault(s, usage_offset)

    def answered(self, s: int) -> bool:
        """Whether the receipt of `s` was seen."""
        return s < self.low or s in self._receipts

    def advance(self) -> None:
        """Moves L over everything that is answered."""
        while self._tail:
            s, origin = self._tail[0]
            if origin is not None:
                if s not in self._receipts:
                    break
                self._origins_at_low.accept(origin)
            self._tail.popleft()
            self._receipts.pop(s, None)
            self.low = s + 1

    def commit(self) -> Commit:
        """L with its metadata."""
        usage_from = next(iter(self._receipts.values()), self.usage_position)
        return Commit(self.low, f"{self._origins_at_low.dump()} U={usage_from}")


class Handler(Protocol):
    """The decisions made over the derived state."""

    def origin_of(self, record: Record) -> Origin | None:
        """The origin of a record of `sealed`; None where it cannot be read (it goes to the dead letters)."""

    def submission(self, record: Record, *, restored: bool) -> None:
        """A new, unanswered record of `sealed`; `restored`: it was live at the start."""

    def receipt(self, record: Record) -> int | None:
        """A record of `usage`: the s that it answers; None where it cannot be read."""

    def other(self, record: Record) -> None:
        """A record of one of the other places."""

    def full(self) -> bool:
        """Whether it holds as much as it may: `sealed` waits in the log until some of it is answered."""

    async def turn(self) -> float:
        """Decides and sends; gives the time of the next turn (loop time) if nothing comes before."""

    async def low(self, lows: Mapping[int, int]) -> None:
        """L of these partitions has moved."""


class Derived:
    """Runs one handler over all partitions of `sealed` and `usage`, and other places beside them."""

    def __init__(self, ctx: Context, group: str, partitions: int, handler: Handler) -> None:
        self._ctx = ctx
        self._group = group
        self._partitions = range(partitions)
        self._handler = handler
        self._marks: dict[int, Watermark] = {}
        self._committed: dict[int, tuple[Commit, float]] = {}
        self._said_low: dict[int, int] = {}
        self._read_to: dict[int, float] = {}
        self._full = False

    def reached(self) -> dict[Place, Reached]:
        """How far `sealed` is read."""
        return {
            Place(topics.SEALED, p): Reached(mark.position, self._read_to.get(p, 0.0))
            for p, mark in self._marks.items()
        }

    def watermark(self, partition: int) -> Watermark:
        """The state of one partition."""
        return self._marks[partition]

    async def restore(
        self, usage_since: Callable[[Mapping[int, float | None]], Mapping[Place, float]]
    ) -> dict[Place, int]:
        """Reads the state back; gives where reading goes on for `sealed` and `usage`.

        `usage_since` is told the append time of each sealed[L] (None where there is nothing at L) and says from which
        append time on receipts are wanted beside those that U asks for.
        """
        log = self._ctx.log
        sealed = [Place(topics.SEALED, p) for p in self._partitions]
        found = await starts(log, self._group, sealed)
        self._marks = {place.partition: Watermark(commit) for place, commit in found.items()}
        times = await self._append_times({place: commit.offset for place, commit in found.items()})
        wanted = await log.offsets_at(usage_since(times))
        usage = {Place(topics.USAGE, p): 0 for p in self._partitions}
        begins = await log.begins(usage)
        for place in usage:
            from_ = min(self._marks[place.partition].usage_position, wanted.get(place, 2**62))
            usage[place] = max(begins[place], from_)
        reached = await read_to_end(self._ctx, usage, self._receipt)
        lows = {place: commit.offset for place, commit in found.items()}
        reached |= await read_to_end(self._ctx, lows, lambda record: self._submission(record, restored=True))
        return reached

    async def _append_times(self, lows: Mapping[Place, int]) -> dict[int, float | None]:
        ends = await self._ctx.log.ends(list(lows))
        wanted = {place: offset for place, offset in lows.items() if offset < ends[place]}
        times: dict[int, float | None] = {place.partition: None for place in lows}
        reader = self._ctx.log.reader()
        try:
            reader.assign(wanted)
            async with asyncio.timeout(60):
                while wanted:
                    for place, records in (await reader.read(timeout=0.5, max_records=len(wanted))).items():
                        if place in wanted:
                            times[place.partition] = records[0].timestamp
                            reader.pause([place])
                            del wanted[place]
        finally:
            await reader.close()
        return times

    async def run(self, starts_: Mapping[Place, int]) -> None:
        """Takes turns until `ctx.stop` is set, then commits and returns."""
        ctx = self._ctx
        loop = asyncio.get_running_loop()
        reader = ctx.log.reader(self._group)
        try:
            reader.assign(starts_)
            await self._commit(reader, force=True)
            next_at = await self._handler.turn()
            ctx.health.ready()
            while not ctx.stop.is_set():
                self._hold_back(reader)
                batches = await reader.read(timeout=min(max(next_at - loop.time(), 0.0), 0.5))
                for place, records in sorted(batches.items(), key=lambda item: _ORDER.get(item[0].topic, 0)):
                    self._take(place, records)
                next_at = await self._handler.turn()
                await self._commit(reader, force=False)
                ctx.health.progress(self._group)
            await self._commit(reader, force=True)
        finally:
            await reader.close()

    def _hold_back(self, reader: Reader) -> None:
        if self._handler.full() != self._full:
            self._full = not self._full
            sealed = [Place(topics.SEALED, p) for p in self._partitions]
            (reader.pause if self._full else reader.resume)(sealed)

    def _take(self, place: Place, records: Sequence[Record]) -> None:
        if place.topic == topics.SEALED:
            for record in records:
                self._submission(record, restored=False)
        elif place.topic == topics.USAGE:
            for record in records:
                self._receipt(record)
        else:
            for record in records:
                self._handler.other(record)

    def _submission(self, record: Record, *, restored: bool) -> None:
        self._read_to[record.place.partition] = record.timestamp
        if self._marks[record.place.partition].submission(record.offset, self._handler.origin_of(record)):
            self._handler.submission(record, restored=restored)

    def _receipt(self, record: Record) -> None:
        s = self._handler.receipt(record)
        if s is not None:
            self._marks[record.place.partition].receipt(s, record.offset)

    async def _commit(self, reader: Reader, *, force: bool) -> None:
        now = asyncio.get_running_loop().time()
        due: dict[Place, Commit] = {}
        for partition, mark in self._marks.items():
            commit, at = self._committed.get(partition, (None, 0.0))
            if not force and now - at < self._ctx.settings.scheduler.commit_seconds:
                continue
            mark.advance()
            new = mark.commit()
            if force or new != commit or now - at >= RECOMMIT_SECONDS:
                due[Place(topics.SEALED, partition)] = new
        if not due:
            return
        await reader.commit(due)
        for place, commit in due.items():
            self._committed[place.partition] = (commit, now)
        lows = {p: mark.low for p, mark in self._marks.items() if mark.low > self._said_low.get(p, 0)}
        if lows:
            await self._handler.low(lows)
            self._said_low.update(lows)


_ORDER = {
    topics.EPOCHS: -3,
    topics.TENANTS: -2,
    topics.CATALOG: -2,
    topics.CONTROL: -1,
    topics.USAGE: 1,
    topics.SEALED: 2,
}
"""In one read: a higher term first, tables before what stands on them, receipts before submissions."""
