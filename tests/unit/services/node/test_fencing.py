"""A fenced worker that lives on is killed by its node; a fence kills nobody else."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from llmos.infra.crypto.keyring import Keyring
from llmos.infra.embedded.child import Child, ChildSpec
from llmos.infra.ledger.memory import MemoryLedger
from llmos.infra.log.memory import MemoryBroker
from llmos.infra.log.port import Out, Place
from llmos.infra.log.topics import spec_for
from llmos.infra.runtime.context import Context
from llmos.infra.settings import load
from llmos.infra.stages.control_macs import as_scheduler
from llmos.infra.telemetry.health import ProgressHealth
from llmos.schemas.base import encode
from llmos.schemas.control import Fence
from llmos.schemas.topics import CONTROL, work_topic
from llmos.schemas.work import Claim
from llmos.services.node.fencing import Fencing

DEVICE, DEVICE_1 = "n1.cpu0", "n1.cpu1"
WORK = Place(work_topic(DEVICE), 0)
LIVES_ON = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


class SetClock:
    """Shows what it was set to."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at


class Bench:
    """A node's fencing with one true child in the worker's place."""

    def __init__(self, tmp_path: Path) -> None:
        settings = load(state_directory=tmp_path, node={"name": "n1"})
        self.clock = SetClock()
        self.broker = MemoryBroker(self.clock)
        self.broker.create([spec_for(settings, name) for name in (CONTROL, WORK.topic, work_topic(DEVICE_1))])
        self.log = self.broker.connect("test")
        self.keyring = Keyring.memory()
        ctx = Context(
            service="node",
            settings=settings,
            log=self.broker.connect("node"),
            ledger=MemoryLedger(self.clock),
            keyring=self.keyring,
            clock=self.clock,
            health=ProgressHealth(30.0),
            stop=asyncio.Event(),
        )
        self.fencing = Fencing(ctx, {device: device for device in (DEVICE, DEVICE_1)}, grace_seconds=0.05)
        self._directory = tmp_path

    async def spawn(self, device: str) -> Child:
        spec = ChildSpec(device, (sys.executable, "-c", LIVES_ON), self._directory / f"{device}.log")
        child = await Child.spawn(spec)
        await self.fencing.born(child)
        return child

    async def claim(self, pid: int, device: str = DEVICE) -> int:
        claim = Claim(device=device, node="n1", pid=pid)
        return await self.log.emit(Place(work_topic(device), 0), [Out(b"claim", encode(claim))])

    async def fence(
        self, pid: int, incarnation: int, node: str = "n1", device: str = DEVICE, *, by: Keyring | None = None
    ) -> None:
        fence = Fence(device=device, node=node, incarnation=incarnation, pid=pid, at=self.clock.at, reason="it hangs")
        fence = as_scheduler(by or self.keyring, fence)
        await self.log.emit(Place(CONTROL, 0), [Out(device.encode(), encode(fence))])


@asynccontextmanager
async def other(bench: Bench, device: str) -> AsyncIterator[Child]:
    """A child."""
    child = await bench.spawn(device)
    try:
        yield child
    finally:
        await child.kill()


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[Child]:
    """A child, and the fencing at work."""
    async with other(bench, DEVICE) as child:
        following = asyncio.create_task(bench.fencing.run())
        try:
            for _ in range(20):  # it reads from the end that it finds
                await asyncio.sleep(0)
            yield child
        finally:
            following.cancel()
            await asyncio.wait({following})


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def ended(child: Child) -> int:
    async with asyncio.timeout(30):
        return await child.wait()


async def test_a_stopped_worker_is_killed(bench: Bench) -> None:
    """SIGSTOP: it cannot read its fence, nor end by SIGTERM; it is killed after the time of grace."""
    async with running(bench) as child:
        incarnation = await bench.claim(child.pid)
        os.kill(child.pid, signal.SIGSTOP)
        await bench.fence(child.pid, incarnation)
        assert await ended(child) == -signal.SIGKILL


async def test_only_the_process_that_is_meant_is_killed(bench: Bench) -> None:
    """Fences of another node, another device and another process id hit nobody, nor does what is no message."""
    async with running(bench) as child:
        incarnation = await bench.claim(child.pid)
        await bench.fence(child.pid, incarnation, node="n2")
        await bench.fence(child.pid, incarnation, device="n1.cpu1")
        await bench.fence(child.pid + 1, incarnation)
        await bench.log.emit(Place(CONTROL, 0), [Out(b"?", b"not a message")])
        async with other(bench, DEVICE_1) as second:
            await bench.fence(second.pid, await bench.claim(second.pid, DEVICE_1), device=DEVICE_1)
            assert await ended(second) == -signal.SIGKILL
        assert child.exit_code is None


async def test_a_fence_of_an_earlier_life_with_the_same_process_id_kills_nobody(bench: Bench) -> None:
    """The claim is older than the process: a container that was started anew gives the same process ids again."""
    async with running(bench) as child:
        bench.clock.at -= 500.0
        earlier = await bench.claim(child.pid)
        bench.clock.at += 1000.0
        newer = await bench.claim(child.pid)
        with capture_logs() as events:
            await bench.fence(child.pid, earlier)
            await until(lambda: any(event["event"] == "fence_of_another_life" for event in events))
        assert child.exit_code is None
        await bench.fence(child.pid, newer)
        assert await ended(child) == -signal.SIGKILL


async def test_a_worker_that_ends_by_itself_is_left_alone(bench: Bench) -> None:
    """It meets its fence and ends within the time of grace: nothing is killed, nothing fails."""
    async with running(bench) as child:
        incarnation = await bench.claim(child.pid)
        await bench.fence(child.pid, incarnation)
        child.signal(signal.SIGUSR1)
        assert await ended(child) == -signal.SIGUSR1


@pytest.mark.parametrize(("age", "killed"), [(3599.0, False), (3700.0, True)])
async def test_a_claim_that_has_left_the_log_is_judged_by_its_age(bench: Bench, age: float, killed: bool) -> None:
    """It is older than what the log keeps, an hour; a process that is younger did not make it."""
    async with running(bench) as child:
        incarnation = await bench.claim(child.pid)
        bench.clock.at += age
        bench.broker.trim(WORK, incarnation + 1)
        with capture_logs() as events:
            await bench.fence(child.pid, incarnation)
            event = "fenced_worker_killed" if killed else "fence_of_another_life"
            await until(lambda: any(row["event"] == event for row in events))
        if killed:
            assert await ended(child) == -signal.SIGKILL
        else:
            assert child.exit_code is None
