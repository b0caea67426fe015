"""A system with hardly any credits and far more work than they cover: it pauses, drains with a backlog, loses nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from llmos.client import Client, EchoInput, EmbedInput, GenerateInput, Task
from llmos.infra.ledger.redis import RedisLedger
from llmos.infra.runtime.deadline import Deadline
from llmos.schemas.job import LANES
from tests.kit.counter import Origin, Reader, tally
from tests.kit.live import SECONDS, clean_environment, origin, until
from tests.kit.load import EMBED, GENERATE, SENTENCES, TENANTS
from tests.stack import Stack

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

CREDITS = 4
"""Of each lane, and shared."""
JOBS = 100
ANSWER_SECONDS = 150.0
STOP_SECONDS = 25.0
"""On top of the services' time to drain: for broker and Redis, which are stopped last."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """One worker, and four jobs in flight a lane."""
    few = {"jobs": CREDITS}
    with clean_environment():
        async with Stack.start(
            tmp_path_factory.mktemp("saturation"),
            node={"cpu_devices": 1},
            ingest={"interactive": few, "standard": few, "batch": few, "overflow": few},
            embedded={"kafka_heap": "256m"},
        ) as stack:
            yield stack


async def test_a_saturated_system_pauses_and_loses_nothing(stack: Stack) -> None:
    """Never more is in flight than there are credits, the rest waits in Kafka, all is answered, no credit stays held."""
    bootstrap = stack.settings.kafka.bootstrap
    admitted, results = Reader(bootstrap, "admitted"), Reader(bootstrap, "results")
    for reader in (admitted, results):
        await reader.advance()
    before = len(results.messages)
    assert len(admitted.messages) == before
    limit = CREDITS * (len(LANES) + 1)
    held, flights, backlogs = [0], [0], [0]
    ledger = await RedisLedger.connect(stack.settings.redis)
    try:
        origins = await submit_all(stack)
        deadline = Deadline(ANSWER_SECONDS)
        while len(results.messages) < before + JOBS:
            assert deadline.left(), f"{len(results.messages) - before} of {JOBS} answers"
            held.append(sum(lane.jobs for lane in (await ledger.use()).values()))
            await admitted.advance()
            await results.advance()
            flights.append(len(admitted.messages) - len(results.messages))
            backlogs.append(before + JOBS - len(admitted.messages))
        await until(ledger.use, lambda use: not any(lane.jobs or lane.bytes for lane in use.values()))
    finally:
        await ledger.close()
    assert max(held) <= limit
    # Twice as much: an answer becomes visible to readers a moment after its credit is free again.
    assert max(flights) <= 2 * limit
    assert max(backlogs) > JOBS // 2, "the credits never held anything back"
    await check(results, origins)


async def test_a_system_drains_with_work_left_and_goes_on_where_it_was(stack: Stack) -> None:
    """SIGTERM under load ends the system with code 0 within its time; the next start finishes what was left."""
    results = Reader(stack.settings.kafka.bootstrap, "results")
    await results.advance()
    before = len(results.messages)
    origins = await submit_all(stack)
    await results.until([origins[0]], SECONDS)
    deadline = Deadline(stack.settings.telemetry.drain_seconds + STOP_SECONDS)
    assert await stack.down() == 0
    assert deadline.left(), "it took longer than it may"
    assert len(results.messages) < before + JOBS, "nothing was left to be done"
    await stack.up()
    await check(results, origins)


async def submit_all(stack: Stack) -> list[Origin]:
    """All jobs at once, by three tenants."""
    async with AsyncExitStack() as clients:
        submissions = []
        for i, tenant in enumerate(TENANTS):
            client = await clients.enter_async_context(Client(stack.settings, tenant=tenant))
            submissions += await client.submit_many(task(j) for j in range(i, JOBS, len(TENANTS)))
    return [origin(submission) for submission in submissions]


async def check(results: Reader, origins: list[Origin]) -> None:
    """Each has its one answer in the end, and it is a result."""
    await results.until(origins, ANSWER_SECONDS)
    assert tally(origins, results.messages).clean
    assert {answer["status"] for answer in results.messages} == {"completed"}


def task(i: int) -> Task:
    """Of six, three echo, two embed and one generates; the lanes take turns."""
    lane, text = LANES[i // 6 % len(LANES)], SENTENCES[i % len(SENTENCES)]
    if i % 6 < 3:
        return Task("echo", EchoInput(text=text), lane=lane)
    if i % 6 < 5:
        return Task("embed", EmbedInput(text=text), EMBED, lane=lane)
    return Task("generate", GenerateInput(prompt=text, max_tokens=16), GENERATE, lane=lane)
