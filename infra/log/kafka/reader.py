"""A reader over Kafka: places assigned by hand, each read as deep as its topic asks (`in_transactions`).

How deep a consumer reads is one setting for all its places, so a reader of both kinds of topics has two, read in turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from llmos.infra.log.kafka.clients import Clients
from llmos.infra.log.kafka.consumption import Consumption, Fetched
from llmos.infra.log.kafka.errors import RAISED, ambiguous
from llmos.infra.log.kafka.names import Names
from llmos.infra.log.port import Commit, Place, Record
from llmos.schemas.errors import PositionLost
from llmos.schemas.topics import in_transactions


class KafkaReader:
    """Reads a changing set of places; belongs to one task."""

    def __init__(
        self, clients: Clients, names: Names, group: str | None, closed: Callable[[KafkaReader], None]
    ) -> None:
        """`closed` is told when the reader is closed."""
        self._clients = clients
        self._names = names
        self._group = group
        self._closed = closed
        self._seconds = clients.settings.request_seconds
        self._consumptions: dict[bool, Consumption] = {}
        """By whether they read what is committed only."""
        self._of: dict[Place, Consumption] = {}
        self._paused: set[Place] = set()
        self._turn = 0

    def assign(self, starts: Mapping[Place, int]) -> None:
        """Adds places, to be read from the given offsets."""
        self._paused.difference_update(starts)
        by_kind: dict[bool, dict[Place, int]] = {}
        for place, offset in starts.items():
            by_kind.setdefault(in_transactions(place.topic), {})[place] = offset
        for committed, places in by_kind.items():
            consumption = self._consumptions.get(committed)
            if consumption is None:
                consumption = Consumption(self._clients, self._names, self._group, committed=committed)
                self._consumptions[committed] = consumption
            consumption.assign(places)
            self._of.update(dict.fromkeys(places, consumption))

    async def read(self, timeout: float, max_records: int = 2000) -> dict[Place, list[Record]]:
        """What is there of the places not paused; waits at most `timeout` seconds for the first record.

        Raises:
            PositionLost: a position lies outside of the log.
            Ambiguous: a consumer failed, or this reader is closed.
        """
        try:
            fetched = await self._fetch(timeout, max_records)
        except OffsetOutOfRangeError as error:
            raise await self._out_of_range(error) from None
        except RAISED as error:
            raise ambiguous("reading", error) from error
        return {self._names.place(tp): self._records(tp, found) for tp, found in fetched.items()}

    async def _fetch(self, timeout: float, max_records: int) -> Fetched:
        active = [one for one in self._consumptions.values() if not self._paused.issuperset(one.positions)]
        if not active:
            await asyncio.sleep(timeout)
            return {}
        if timeout <= 0:
            await asyncio.sleep(0)  # lets the fetchers have their turn, where the caller never waits
        if len(active) == 1:
            return await active[0].fetch(self._paused, max(timeout, 0.0), max_records)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        found = await self._look(active, max_records)
        while not found and (left := deadline - loop.time()) > 0:
            news = [one.news() for one in active]
            try:
                # Once more, as what came between the look and now wakes nobody.
                found = await self._look(active, max_records)
                if not found:
                    done, _ = await asyncio.wait(news, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                    for one in done:
                        one.result()  # errors of the group's coordinator come this way
                    found = await self._look(active, max_records)
            finally:
                for one in news:
                    one.cancel()
        return found

    async def _look(self, active: list[Consumption], room: int) -> Fetched:
        """What both have, without waiting; each is first in turn, as the first may leave no room."""
        self._turn += 1
        found: Fetched = {}
        for consumption in active if self._turn % 2 else reversed(active):
            try:
                found |= await consumption.fetch(self._paused, 0.0, room - sum(map(len, found.values())))
            except RAISED:
                if not found:
                    raise
                return found  # the next read raises it again; these records are on nobody's way any more
            if sum(map(len, found.values())) >= room:
                break
        return found

    def _records(self, tp: TopicPartition, found: list[Any]) -> list[Record]:
        place = self._names.place(tp)
        return [
            Record(place, r.offset, r.timestamp / 1000, r.key, r.value, _headers(r.headers) if r.headers else ())
            for r in found
        ]

    async def _out_of_range(self, error: OffsetOutOfRangeError) -> PositionLost:
        ((tp, offset),) = error.args[0].items()
        place = self._names.place(tp)
        try:
            async with asyncio.timeout(self._seconds):
                begin, end = await self._of[place].bounds(tp)
        except RAISED as failure:
            raise ambiguous(f"asking where {place.topic}[{place.partition}] begins and ends", failure) from failure
        return PositionLost(offset=offset, place=f"{place.topic}[{place.partition}]", begin=begin, end=end)

    def position(self, place: Place) -> int:
        """The offset from which the next `read` goes on."""
        return self._of[place].positions[place]

    def seek(self, place: Place, offset: int) -> None:
        """The next `read` of `place` begins at `offset`; what was fetched ahead is forgotten."""
        self._of[place].assign({place: offset})  # KeyError where it is not assigned

    def pause(self, places: Iterable[Place]) -> None:
        """`read` leaves these out; what was fetched ahead is kept."""
        self._paused.update(places)

    def resume(self, places: Iterable[Place]) -> None:
        """Undoes `pause`."""
        self._paused.difference_update(places)

    async def commit(self, commits: Mapping[Place, Commit]) -> None:
        """Commits under the reader's group.

        Raises:
            Ambiguous: it failed, took longer than a request may, or a place is not assigned.
            ValueError: the reader has no group.
        """
        if self._group is None:
            raise ValueError("a reader without a group cannot commit")
        operation = f"committing offsets of {self._group}"
        by_consumption: dict[Consumption, dict[Place, Commit]] = {}
        for place, commit in commits.items():
            consumption = self._of.get(place)
            if consumption is None:
                raise ambiguous(operation, ValueError(f"{place} is not assigned"))
            by_consumption.setdefault(consumption, {})[place] = commit
        try:
            async with asyncio.timeout(self._seconds):
                for consumption, part in by_consumption.items():
                    await consumption.commit(part)
        except RAISED as error:
            raise ambiguous(operation, error) from error

    async def close(self) -> None:
        """Ends fetching; bounded in time."""
        self._closed(self)
        await asyncio.gather(*(one.close() for one in self._consumptions.values()))


def _headers(headers: Iterable[tuple[str, bytes | None]]) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, value or b"") for name, value in headers)
