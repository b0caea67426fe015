"""Real processes are killed, stopped and emptied under load: each acknowledged request has one answer, and the right one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import msgpack
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from llmos.client import Client, Final, Moved, StateChanged, TokenText
from llmos.infra.embedded.child import Child
from llmos.infra.embedded.identity import started_at
from llmos.infra.ledger.redis import RedisLedger
from llmos.infra.runtime.processes import service_spec
from llmos.schemas.ids import attempt_of
from tests.kit.counter import Reader, tally
from tests.kit.live import SECONDS, asleep, clean_environment, devices_alive, make_topic, origin, until
from tests.kit.load import GENERATE, Load, judge
from tests.stack import Stack

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

WORKER = "worker-node-0.cpu0"
SERVICES = ("ingest", "verify", "scheduler", "aggregator", "node", WORKER, "redis", "kafka")
FENCED = 70
"""The exit code of a service that a newer owner has replaced."""
LEDGER_SECONDS = 150.0
"""A credit whose release was lost is dropped by the first reconciliation that finds it a minute old."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """One system with two workers for all tests; they are taken for lost soon, and many deaths are forgiven."""
    with clean_environment():
        async with Stack.start(
            tmp_path_factory.mktemp("processes"),
            node={"cpu_devices": 2},
            scheduler={"heartbeat_timeout_seconds": 3.0, "dispatch_grace_seconds": 3.0, "deaths": 20},
            embedded={"kafka_heap": "256m"},
        ) as stack:
            yield stack


def load_on(stack: Stack) -> Load:
    """A load on this stack."""
    return Load(stack.settings.kafka.bootstrap)


async def test_the_counter_finds_what_is_injected(stack: Stack) -> None:
    """An answer written twice and one left out, by a plain producer, are seen; and so is a wrong output."""
    bootstrap, topic = stack.settings.kafka.bootstrap, "reply.injected"
    async with load_on(stack) as load:
        await load.more(3)
    origins = list(load.acknowledged)[:3]
    wanted = [load.acknowledged[place] for place in origins]
    real = Reader(bootstrap, "results")
    answers = [await real.one(place, SECONDS) for place in origins]
    assert tally(origins, answers).clean

    await make_topic(bootstrap, topic)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        for answer in (answers[0], answers[1], answers[1]):
            await producer.send_and_wait(topic, msgpack.packb(answer))
    finally:
        await producer.stop()
    injected = Reader(bootstrap, topic)
    await injected.until(origins[:2], SECONDS)
    found = tally(origins, injected.messages)
    assert found.doubled == {origins[1]: 2}
    assert found.lost == [origins[2]]
    with pytest.raises(AssertionError, match="1 have nothing"):
        await injected.until(origins, 1.0)
    assert judge(wanted[0], answers[0]) == ""
    assert judge(wanted[0], answers[1])


@pytest.mark.parametrize("name", SERVICES)
async def test_a_killed_process_costs_no_answer(stack: Stack, name: str) -> None:
    """SIGKILL under load: the process comes back, nothing that was acknowledged is lost, nothing is answered twice."""
    async with load_on(stack) as load:
        await load.more(20)
        before = await stack.kill(name)
        await load.more(20)
        await stack.back(name, before)
        await load.more(10)
    await load.settled()


async def test_a_stream_outlives_its_worker(stack: Stack) -> None:
    """A worker dies in mid-stream: the reader is told of the move, and shows in the end what the final says."""
    async with Client(stack.settings) as client, load_on(stack) as load:
        await load.more(5)
        submission = await client.submit(
            "generate", {"prompt": "ROMEO:\n", "max_tokens": 200}, model=GENERATE, lane="interactive", events="tokens"
        )
        shown, pieces, device, killed, moved, final = "", 0, "", 0, [], None
        async with aclosing(client.stream(submission, SECONDS)) as events:
            async for event in events:
                if isinstance(event, StateChanged) and event.state == "running":
                    device = event.device
                elif isinstance(event, TokenText):
                    shown, pieces = shown + event.text, pieces + 1
                elif isinstance(event, Moved):
                    shown = event.text
                    moved.append(event)
                elif isinstance(event, Final):
                    final = event
                if device and pieces >= 3 and not killed:
                    killed = await stack.kill(f"worker-{device}")
        assert final is not None
        assert killed
        assert moved, "the job had ended before its worker was killed"
        (output,) = client.outputs(final.answer)
        assert output.text == shown
        assert final.replaced == {}
        assert min(attempt_of(epoch) for epoch in final.answer.epochs) >= 2
        await stack.back(f"worker-{device}", killed)
    usage = Reader(stack.settings.kafka.bootstrap, "usage")
    receipt = await usage.one(origin(submission), SECONDS)
    assert receipt["attempts"] >= 2
    await load.settled()


async def test_a_killed_system_goes_on_where_it_was(stack: Stack) -> None:
    """SIGKILL of everything at once under load, broker and Redis included; a start on the same directory finishes it."""
    async with load_on(stack) as load:
        await load.more(40)
        await stack.kill_all()
        await stack.up()
        await load.more(20)
    await load.settled()


async def test_a_worker_that_was_asleep_doubles_nothing(stack: Stack) -> None:
    """SIGSTOP until the worker is taken for lost and its tasks are at work elsewhere, then SIGCONT: a true zombie."""
    async with Client(stack.settings) as client, load_on(stack) as load:
        await load.more(20)
        async with asleep(stack, WORKER):
            await devices_alive(client, ["node-0.cpu1"])
            await load.more(20)
            await load.answered()
        await devices_alive(client, ["node-0.cpu0", "node-0.cpu1"])
        await load.more(20)
    await load.settled()


@pytest.mark.parametrize("name", ["scheduler", "aggregator"])
async def test_a_replaced_service_that_was_asleep_doubles_nothing(stack: Stack, tmp_path: Path, name: str) -> None:
    """SIGSTOP, a successor takes over, SIGCONT: the old one ends by itself, and so does the successor at its return."""
    settings = stack.settings.model_copy(update={"state_directory": tmp_path, "keyring_file": stack.settings.keyring})
    async with load_on(stack) as load:
        await load.more(20)
        async with asleep(stack, name) as old:
            successor = await Child.start(service_spec(settings, name))
            try:
                await load.more(20)
                await load.answered()
                await stack.resume(name)
                await stack.back(name, old)
                assert started_at(old) is None
                await load.more(20)
                async with asyncio.timeout(SECONDS):
                    assert await successor.wait() == FENCED
            finally:
                await successor.kill()
        await load.more(10)
    await load.settled()


async def test_redis_may_be_emptied_stopped_and_killed(stack: Stack) -> None:
    """Without Redis or its content jobs go on; afterwards the ledger is rebuilt, and in the end no credit is held."""
    ledger = await RedisLedger.connect(stack.settings.redis)
    try:
        async with load_on(stack) as load:
            await load.more(20)
            await empty(stack)
            await load.more(20)
            async with asleep(stack, "redis"):
                await load.more(20)
                await load.answered()
            before = await stack.kill("redis")
            await stack.back("redis", before)
            await empty(stack)
            await until(ledger.generation, lambda generation: generation is not None)
            await load.more(10)
        await load.settled()
        await until(ledger.use, lambda use: not any(lane.jobs or lane.bytes for lane in use.values()), LEDGER_SECONDS)
    finally:
        await ledger.close()


async def empty(stack: Stack) -> None:
    """Forgets all that Redis knows; one that has just begun says for a moment that it is still loading."""
    async with Redis.from_url(stack.settings.redis.url, retry=Retry(ConstantBackoff(0.1), 200)) as redis:
        await redis.flushall()
