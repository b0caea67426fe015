"""Real devices under trouble: one whose cores others steal gets less work, a frozen one is fenced, a drained one ends clean."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from llmos.client import Client
from llmos.infra.crypto.keyfile import load_keyring
from tests.kit.live import SECONDS, clean_environment, devices_alive, until
from tests.kit.load import GENERATE, Load
from tests.stack import Stack

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

FIRST, SECOND = "node-0.cpu0", "node-0.cpu1"
THIEVES = 4
"""Processes that want the stolen core as much as its worker does: it keeps about a fifth."""
WARM, MEASURED = 48, 96
BACK_SECONDS = 180.0
"""What was measured while the core was stolen is forgotten by then."""
CONCURRENT = 12


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """One system with two workers for all tests."""
    with clean_environment():
        async with Stack.start(
            tmp_path_factory.mktemp("devices"),
            node={"cpu_devices": 2},
            scheduler={"deaths": 20},
            embedded={"kafka_heap": "256m"},
        ) as stack:
            yield stack


@contextlib.contextmanager
def thieves(core: int) -> Iterator[None]:
    """Processes that do nothing but use one core."""
    code = f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    # each in a session of its own: kernels that group by session would else give them one share together
    running = [subprocess.Popen([sys.executable, "-c", code], start_new_session=True) for _ in range(THIEVES)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait()


async def served(client: Client, count: int) -> Counter[str]:
    """Runs `count` generations, a dozen at a time; gives how many each device did."""
    found: Counter[str] = Counter()
    gate = asyncio.Semaphore(CONCURRENT)

    async def one(i: int) -> None:
        async with gate:
            prompt = {"prompt": f"Scene {i}.\n", "max_tokens": 48}
            answer = await client.result(await client.submit("generate", prompt, model=GENERATE), SECONDS)
            assert answer.status == "completed", answer
            found.update(answer.devices)

    async with asyncio.TaskGroup() as group:
        for i in range(count):
            group.create_task(one(i))
    return found


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two devices with cores of their own need two cores")
async def test_a_device_whose_core_is_stolen_gets_less_work(stack: Stack) -> None:
    """Others use the second device's core: within a few seconds of work its share falls, and comes back when they go."""
    stolen = sorted(os.sched_getaffinity(0))[-1]
    async with Client(stack.settings) as client:
        await devices_alive(client, [FIRST, SECOND])
        await served(client, WARM)
        before = await served(client, MEASURED)
        share = before[SECOND] / before.total()
        with thieves(stolen):
            await served(client, WARM)
            await until(
                lambda: served(client, MEASURED), lambda found: found[SECOND] < 0.7 * share * found.total(), SECONDS
            )
        await until(
            lambda: served(client, WARM), lambda found: found[SECOND] > 0.7 * share * found.total(), BACK_SECONDS
        )


async def test_a_frozen_worker_is_fenced_and_started_anew(stack: Stack) -> None:
    """SIGSTOP and nothing more: the scheduler misses it, its tasks move, its node ends it and starts the next."""
    async with Client(stack.settings) as client, Load(stack.settings.kafka.bootstrap) as load:
        await devices_alive(client, [FIRST, SECOND])
        await load.more(20)
        pid = await stack.pause(f"worker-{FIRST}")
        await load.more(20)
        await stack.back(f"worker-{FIRST}", pid)
        await devices_alive(client, [FIRST, SECOND])
        await load.more(10)
    await load.settled()


async def test_a_drained_device_ends_what_it_has_and_no_job_fails(stack: Stack) -> None:
    """Drained under load, one device after the other; the receipts name only the other device from then on."""
    operator = await asyncio.to_thread(load_keyring, stack.settings.keyring)
    async with Client(stack.settings, operator=operator) as client, Load(stack.settings.kafka.bootstrap) as load:
        await devices_alive(client, [FIRST, SECOND])
        await load.more(20)
        for device, other in ((FIRST, SECOND), (SECOND, FIRST)):
            await client.drain(device)
            await until(lambda device=device: in_flight(client, device), lambda count: count == 0)
            submissions = [await client.submit("generate", {"prompt": "ROMEO:\n"}, model=GENERATE) for _ in range(6)]
            answers = [await client.result(submission, SECONDS) for submission in submissions]
            assert {name for answer in answers for name in answer.devices} == {other}
            await client.drain(device, undo=True)
            await load.more(10)
    await load.settled()


async def in_flight(client: Client, device: str) -> int:
    """Tasks that the device has."""
    report = await client.query("devices", timeout=SECONDS)
    return next(int(row["in_flight"]) for row in report["devices"] if row["device"] == device)


async def test_every_service_is_restarted_in_turn_and_no_job_fails(stack: Stack) -> None:
    """SIGTERM to each service and worker, one after the other, under load: each ends clean and comes back."""
    async with Load(stack.settings.kafka.bootstrap) as load:
        await load.more(10)
        for name in ("ingest", "verify", "aggregator", "scheduler", f"worker-{FIRST}", f"worker-{SECOND}"):
            before = await stack.terminate(name)
            await stack.back(name, before)
            await load.more(10)
    await load.settled()
