"""Puts requests on their lane: which partition is next, where the log ended before, what was acknowledged where."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping

from llmos.client.building import Built
from llmos.client.matching import Board
from llmos.client.references import Submission
from llmos.client.results import Results
from llmos.infra.log.port import Log, Out, Place
from llmos.schemas import ids, topics
from llmos.schemas.errors import OperatorError
from llmos.schemas.job import Origin

ENDS_SECONDS = 1.0
"""For this long the ends of `stream` and `results` that were read last count as "before the submission"."""


class Sender:
    """Belongs to one client; its board learns of what is sent, its results are read from before the first of it."""

    def __init__(self, log: Log, board: Board, results: Results, tenant: str) -> None:
        self._log = log
        self._board = board
        self._results = results
        self._tenant = tenant
        self._turns: dict[str, int] = {}
        self._partitions: dict[str, int] = {}
        self._ends: Mapping[Place, int] = {}
        self._ends_until = float("-inf")
        self._reading_ends = asyncio.Lock()

    async def send(self, built: Built) -> Submission:
        """Returns when the log has the request."""
        partition = await self.partition(built.job_id)
        ends = await self._recent_ends()
        return Submission(
            job_id=built.job_id,
            request_id=built.request.request_id,
            origin=await self._emit(built),
            tenant=self._tenant,
            partition=partition,
            stream_from=ends[Place(topics.STREAM, partition)],
            results_from=ends[Place(topics.RESULTS, partition)],
            sealed=built.request.sealed,
        )

    async def send_all(self, builts: Iterable[Built]) -> list[Submission]:
        """Sends them together; the first exception is raised when all have ended."""
        sent = await asyncio.gather(*map(self.send, builts), return_exceptions=True)
        for outcome in sent:
            if isinstance(outcome, BaseException):
                raise outcome
        return [outcome for outcome in sent if isinstance(outcome, Submission)]

    async def partition(self, job_id: bytes) -> int:
        """Where the events and answers of a job are."""
        return ids.partition_of(job_id, await self._count(topics.RESULTS))

    async def _emit(self, built: Built) -> Origin:
        topic = topics.REQUESTS[built.lane]
        count = await self._count(topic)
        # The first turn is random: many clients that send one request each must not all send to one partition.
        turn = self._turns[topic] = self._turns.get(topic, random.randrange(count)) + 1
        place = Place(topic, turn % count)
        request_id = built.request.request_id
        self._board.sending(request_id)
        try:
            offset = await self._log.emit(place, [Out(None, built.value)])
        except BaseException:
            self._board.not_sent(request_id)
            raise
        origin = Origin(place.topic, place.partition, offset)
        self._board.sent(request_id, origin, built.job_id)
        return origin

    async def _count(self, topic: str) -> int:
        count = self._partitions.get(topic)
        if count is None:
            count = await self._log.partitions(topic)
            if count is None:
                raise OperatorError(problem=f"the log has no topic {topic!r}; `llmos up` makes the topics")
            self._partitions[topic] = count
        return count

    async def _recent_ends(self) -> Mapping[Place, int]:
        """Ends of `stream`, `results` and `dead` as of at most `ENDS_SECONDS` ago: what a new submission causes comes later."""
        async with self._reading_ends:
            now = asyncio.get_running_loop().time()
            if now >= self._ends_until:
                places = [
                    Place(topic, p)
                    for topic in (topics.STREAM, topics.RESULTS, topics.DEAD)
                    for p in range(await self._count(topic))
                ]
                ends = dict(await self._log.ends(places))
                await self._results.start({place: end for place, end in ends.items() if place.topic != topics.STREAM})
                self._ends = ends
                self._ends_until = now + ENDS_SECONDS
            return self._ends
