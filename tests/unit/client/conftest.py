"""A memory log with all topics, a client over it, and the rest of the system as a script that a test plays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from llmos.client import Client, Submission
from llmos.infra.log.clock import WallClock
from llmos.infra.log.memory import MemoryBroker
from llmos.infra.log.port import Log, Out, Place
from llmos.infra.log.topics import ensure_topics
from llmos.infra.settings import Settings, load
from llmos.schemas import topics
from llmos.schemas.base import Message, encode
from llmos.schemas.job import Item, Origin
from llmos.schemas.requests import REQUESTS, Request
from llmos.schemas.results import Answer
from llmos.schemas.stream import State, Tokens

PARTITIONS = 4


class Script:
    """Writes what services would write."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self._s = 0

    async def requests(self) -> dict[Origin, Request]:
        """All requests on all lanes, by origin."""
        places = [Place(topic, p) for topic in topics.REQUESTS.values() for p in range(PARTITIONS)]
        ends = await self.log.ends(places)
        reader = self.log.reader()
        reader.assign(dict.fromkeys(places, 0))
        found: dict[Origin, Request] = {}
        while any(reader.position(place) < ends[place] for place in places):
            for place, records in (await reader.read(1.0)).items():
                found |= {Origin(*place, record.offset): REQUESTS.decode(record.value) for record in records}
        await reader.close()
        return found

    async def answer(self, to: Submission, *outputs: Any, **fields: Any) -> Answer:
        """Writes the answer to a submission; `outputs` are its items."""
        self._s += 1
        values: dict[str, Any] = {
            "job_id": to.job_id,
            "tenant": to.tenant,
            "request_id": to.request_id,
            "origin": to.origin,
            "partition": to.partition,
            "s": self._s,
            "status": "completed",
            "kind": "echo",
            "items": [Item(output_index=i, output=msgspec.msgpack.encode(o)) for i, o in enumerate(outputs)],
        }
        answer = Answer(**(values | fields))
        await self.write(topics.RESULTS, to, answer)
        return answer

    async def tokens(self, to: Submission, epoch: int, sequence: int, text: str, **fields: Any) -> None:
        """Writes a token event of a submission."""
        values: dict[str, Any] = {"first_token": sequence, "source": "w", "s": 1, "partition": to.partition}
        event = Tokens(
            job_id=to.job_id, request_id=to.request_id, origin=to.origin, epoch=epoch, sequence=sequence, text=text,
            **(values | fields),
        )  # fmt: skip
        await self.write(topics.STREAM, to, event)

    async def state(self, to: Submission, state: Any, **fields: Any) -> None:
        """Writes a state event of a submission."""
        event = State(
            job_id=to.job_id, request_id=to.request_id, origin=to.origin, state=state, partition=to.partition, **fields
        )
        await self.write(topics.STREAM, to, event)

    async def write(self, topic: str, to: Submission, message: Message) -> None:
        """Writes any message to the job's partition."""
        await self.log.emit(Place(topic, to.partition), [Out(to.job_id, encode(message))])


@pytest.fixture
def broker() -> MemoryBroker:
    """The log in memory."""
    return MemoryBroker(WallClock())


@pytest.fixture
def configured() -> Settings:
    """Settings that name no broker."""
    return load(kafka={"partitions": PARTITIONS})


@pytest.fixture
async def log(broker: MemoryBroker, configured: Settings) -> AsyncIterator[Log]:
    """A connection; all topics exist."""
    log = broker.connect("test")
    await ensure_topics(log, configured)
    yield log
    await log.close()


@pytest.fixture
def script(log: Log) -> Script:
    """The rest of the system."""
    return Script(log)


@pytest.fixture
async def client(log: Log) -> AsyncIterator[Client]:
    """A client of tenant demo."""
    async with Client.over(log) as client:
        yield client
