"""A system with hardly any credits and far more work than they cover: it pauses, and loses nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from llmos.client import Client, EchoInput, EmbedInput, GenerateInput, Task
from llmos.infra.ledger.redis import RedisLedger
from llmos.infra.runtime.deadline import Deadline
from llmos.schemas.job import LANES
from tests.kit.counter import Reader, tally
from tests.kit.live import SECONDS, clean_environment, origin, until
from tests.kit.load import EMBED, GENERATE, SENTENCES, TENANTS
from tests.stack import Stack

pytestmark = pytest.mark.timeout(300)

CREDITS = 4
"""Of each lane, and shared."""
JOBS = 240
ANSWER_SECONDS = 150.0


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """One worker, and four jobs in flight a lane."""
    few = {"jobs": CREDITS}
    with clean_environment():
        async with Stack.start(
            tmp_path,
            node={"cpu_devices": 1},
            ingest={"interactive": few, "standard": few, "batch": few, "overflow": few},
            embedded={"kafka_heap": "256m"},
        ) as stack:
            yield stack


async def test_a_saturated_system_pauses_and_loses_nothing(stack: Stack) -> None:
    """Never more is in flight than there are credits, the rest waits in Kafka, and all is answered once in the end."""
    bootstrap = stack.settings.kafka.bootstrap
    admitted, results = Reader(bootstrap, "admitted"), Reader(bootstrap, "results")
    limit, flights, backlogs = CREDITS * (len(LANES) + 1), [0], [0]
    async with AsyncExitStack() as clients:
        submissions = []
        for i, tenant in enumerate(TENANTS):
            client = await clients.enter_async_context(Client(stack.settings, tenant=tenant))
            submissions += await client.submit_many(task(j) for j in range(i, JOBS, len(TENANTS)))
        deadline = Deadline(ANSWER_SECONDS)
        while len(results.messages) < JOBS:
            assert deadline.left(), f"{len(results.messages)} of {JOBS} answers"
            # In this order: what was admitted by then, less what was answered a little later, is no more than was held.
            await admitted.advance()
            await results.advance()
            flights.append(len(admitted.messages) - len(results.messages))
            backlogs.append(JOBS - len(admitted.messages))
    assert max(flights) <= limit
    assert max(backlogs) > JOBS // 2, "the credits never held anything back"
    origins = [origin(submission) for submission in submissions]
    await results.until(origins, SECONDS)
    assert tally(origins, results.messages).clean
    assert {answer["status"] for answer in results.messages} == {"completed"}
    ledger = await RedisLedger.connect(stack.settings.redis)
    try:
        await until(ledger.use, lambda use: not any(lane.jobs or lane.bytes for lane in use.values()))
    finally:
        await ledger.close()


def task(i: int) -> Task:
    """Echo, embed and generate in turn; the lanes take turns within each."""
    lane = LANES[i // 9 % len(LANES)]
    text = SENTENCES[i % len(SENTENCES)]
    if i % 9 < 3:
        return Task("echo", EchoInput(text=text), lane=lane)
    if i % 9 < 6:
        return Task("embed", EmbedInput(text=text), EMBED, lane=lane)
    return Task("generate", GenerateInput(prompt=text, max_tokens=16), GENERATE, lane=lane)
