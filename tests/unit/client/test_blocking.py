"""The blocking client: the same calls from threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from llmos.client import BlockingClient, Client, EchoInput, Final
from llmos.infra.log.clock import WallClock
from llmos.infra.log.memory import MemoryBroker
from llmos.infra.log.port import Log, Out, Place
from llmos.infra.log.topics import ensure_topics
from llmos.infra.settings import Settings
from llmos.schemas import ids, topics
from llmos.schemas.base import encode
from llmos.schemas.errors import OperatorError
from llmos.schemas.job import Item, Origin
from llmos.schemas.requests import REQUESTS
from llmos.schemas.results import Answer
from llmos.schemas.tasks import EchoOutput

PATIENCE = 20.0


class EchoingClient(Client):
    """A client over a log of its own, with a small system behind it that echoes."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(bootstrap="memory")
        self._settings = settings

    async def __aenter__(self) -> Any:
        log = MemoryBroker(WallClock()).connect("client")
        await ensure_topics(log, self._settings)
        self._log = log
        self._echoing = asyncio.create_task(self._echo(log))
        return await super().__aenter__()

    async def close(self) -> None:
        self._echoing.cancel()
        await super().close()

    async def _echo(self, log: Log) -> None:
        reader = log.reader()
        reader.assign({Place(topics.REQUESTS["standard"], p): 0 for p in range(4)})
        while True:
            for place, records in (await reader.read(1.0)).items():
                for record in records:
                    await self._echo_one(log, Origin(*place, record.offset), REQUESTS.decode(record.value))

    async def _echo_one(self, log: Log, origin: Origin, request: Any) -> None:
        job_id = ids.job_id(request.tenant, request.request_id)
        text = msgspec.msgpack.decode(request.payload)["text"]
        item = Item(output_index=0, output=msgspec.msgpack.encode(EchoOutput(text=text)))
        partition = ids.partition_of(job_id, 4)
        answer = Answer(
            job_id=job_id, tenant=request.tenant, request_id=request.request_id, origin=origin, partition=partition,
            s=0, status="completed", kind="echo", items=[item],
        )  # fmt: skip
        await log.emit(Place(topics.RESULTS, partition), [Out(job_id, encode(answer))])


@pytest.fixture
def client(configured: Settings) -> Iterator[BlockingClient]:
    """A blocking client; its thread is gone afterwards."""
    with BlockingClient(EchoingClient(configured)) as client:
        yield client
    assert "llmos-client" not in [thread.name for thread in threading.enumerate()]


def test_submit_and_result(client: BlockingClient) -> None:
    """A script needs no event loop."""
    answer = client.result(client.submit("echo", EchoInput(text="hello")), PATIENCE, check=True)
    assert client.outputs(answer) == [EchoOutput(text="hello")]
    assert client.peek(answer) == answer


def test_many_threads_share_one_client(client: BlockingClient) -> None:
    """Calls of several threads do not disturb each other."""

    def ask(i: int) -> Any:
        return client.outputs(client.result(client.submit("echo", {"text": str(i)}), PATIENCE))[0]

    with ThreadPoolExecutor(8) as threads:
        assert [output.text for output in threads.map(ask, range(32))] == [str(i) for i in range(32)]


def test_a_stream_is_an_iterator(client: BlockingClient) -> None:
    """It ends with the answer; leaving it early closes it."""
    submission = client.submit("echo", {"text": "x"})
    (event,) = list(client.stream(submission, PATIENCE))
    assert isinstance(event, Final)
    assert event.replaced == {0: "x"}
    for _ in client.stream(submission, PATIENCE):
        break


def test_errors_come_through(client: BlockingClient) -> None:
    """What the asynchronous client raises, this one raises."""
    with pytest.raises(OperatorError, match="with BlockingClient"):
        BlockingClient(Client(bootstrap="localhost:1")).submit("echo", {"text": "x"})
    with pytest.raises(ValueError, match="zip"):
        client._run(failing())


async def failing() -> None:
    raise ValueError("zip")
