"""A reader of the log in memory; woken by what is appended, never polling."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from llmos.infra.log.memory.life import Life
from llmos.infra.log.memory.state import BrokerState
from llmos.infra.log.memory.writes import Refused, Writes
from llmos.infra.log.port import Commit, Place, Record
from llmos.schemas.errors import Ambiguous, PositionLost
from llmos.schemas.limits import METADATA_CHARACTERS


class MemoryReader:
    """Reads a changing set of places; belongs to one task."""

    def __init__(self, broker: BrokerState, life: Life, writes: Writes, group: str | None) -> None:
        self._broker = broker
        self._life = life
        self._writes = writes
        self._group = group
        self._positions: dict[Place, int] = {}
        self._paused: set[Place] = set()
        self._turn = 0
        self._closed = False

    def assign(self, starts: Mapping[Place, int]) -> None:
        """Adds places, to be read from the given offsets."""
        self._positions.update(starts)
        self._paused.difference_update(starts)

    async def read(self, timeout: float, max_records: int = 2000) -> dict[Place, list[Record]]:
        """What is there of the places not paused; waits at most `timeout` seconds for the first record.

        Raises:
            PositionLost: a position lies outside of the log.
            Ambiguous: this reader is closed.
        """
        if self._closed:
            raise Ambiguous(operation="reading", problem="the reader is closed")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        await self._life.sleep(0)
        while True:
            found = self._take(max_records)
            left = deadline - loop.time()
            if found or left <= 0:
                await self._life.gate()
                return found
            await self._news(left)

    def _take(self, room: int) -> dict[Place, list[Record]]:
        active = [place for place in self._positions if place not in self._paused]
        found: dict[Place, list[Record]] = {}
        # A place that fills every read must not keep the others waiting.
        self._turn = (self._turn + 1) % max(len(active), 1)
        for place in active[self._turn :] + active[: self._turn]:
            partition = self._broker.find(place)
            if partition is None or not room:
                continue
            position = self._positions[place]
            if not partition.begin <= position <= partition.end:
                raise PositionLost(
                    offset=position,
                    place=f"{place.topic}[{place.partition}]",
                    begin=partition.begin,
                    end=partition.end,
                )
            records, self._positions[place] = partition.read(position, room)
            if records:
                found[place] = records
                room -= len(records)
        return found

    async def _news(self, seconds: float) -> None:
        """Waits until something is appended where we read, or a topic is made, or the time is over."""
        loop = asyncio.get_running_loop()
        news: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not news.done():
                news.set_result(None)

        places = [place for place in self._positions if place not in self._paused]
        partitions = [self._broker.find(place) for place in places]
        timer = loop.call_later(seconds, wake)
        creation = self._broker.creation() if None in partitions else None
        if creation is not None:
            creation.add_done_callback(lambda _: wake())
        for partition in partitions:
            if partition is not None:
                partition.wait(wake)
        try:
            await self._life.wait(news)
        finally:
            timer.cancel()
            if creation is not None:
                creation.cancel()
            for partition in partitions:
                if partition is not None:
                    partition.leave(wake)

    def position(self, place: Place) -> int:
        """The offset from which the next `read` goes on."""
        return self._positions[place]

    def seek(self, place: Place, offset: int) -> None:
        """The next `read` of `place` begins at `offset`."""
        self._positions[place]  # KeyError where it is not assigned
        self._positions[place] = offset

    def pause(self, places: Iterable[Place]) -> None:
        """`read` leaves these out."""
        self._paused.update(places)

    def resume(self, places: Iterable[Place]) -> None:
        """Undoes `pause`."""
        self._paused.difference_update(places)

    async def commit(self, commits: Mapping[Place, Commit]) -> None:
        """Commits under the reader's group.

        Raises:
            Ambiguous: it failed, or took longer than a request may.
            ValueError: the reader has no group.
        """
        group = self._group
        if group is None:
            raise ValueError("a reader without a group cannot commit")
        wanted = dict(commits)

        def apply(_: object) -> None:
            if any(len(commit.metadata) > METADATA_CHARACTERS for commit in wanted.values()):
                raise Refused("the metadata is too long")
            self._broker.commits.update({(group, place): commit for place, commit in wanted.items()})

        operation = f"committing offsets of {group}"
        if unknown := [place for place in wanted if place not in self._positions]:
            raise Ambiguous(operation=operation, problem=f"{unknown[0]} is not assigned")
        try:
            async with asyncio.timeout(self._broker.request_seconds):
                await self._writes.write("commit", next(iter(wanted), None), apply)
        except (TimeoutError, Refused) as problem:
            raise Ambiguous(operation=operation, problem=str(problem) or "no answer") from None

    async def close(self) -> None:
        """Ends fetching."""
        self._closed = True
