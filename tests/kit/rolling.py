"""A rolling restart under load, in virtual time: every device drained and started anew, then every service, one by one."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import msgspec

from llmos.infra.log.memory import RandomFaults
from llmos.infra.log.port import Out, Place
from llmos.infra.simulation import run
from llmos.schemas import topics
from llmos.schemas.base import Codec, encode
from llmos.schemas.epochs import EPOCHS, Deaths
from llmos.schemas.requests import Request
from llmos.schemas.results import RESULTS
from llmos.schemas.stream import STREAM, State
from llmos.schemas.tasks import EchoInput
from llmos.schemas.telemetry import TELEMETRY, SchedulerReport
from tests.kit.promises import Ledger
from tests.kit.world import TENANTS, World, device_named

DEVICES = 2
PATIENCE_SECONDS = 120.0
SERVICES = ("scheduler", "ingest-0", "verify-0", "aggregator-0")


class Load:
    """Submits until it is stopped; every job has time enough."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._random = Random(seed)
        self.on = True
        self.sent = 0

    async def run(self) -> None:
        """Some twenty jobs a second."""
        log = self._world.broker.connect("client")
        while self.on:
            await asyncio.sleep(self._random.expovariate(20.0))
            self.sent += 1
            texts = [f"{self.sent} {i}" for i in range(self._random.choice((1, 1, 3)))]
            request = Request(
                request_id=f"r{self.sent}",
                tenant=self._random.choice(TENANTS),
                kind="echo",
                input=msgspec.Raw(msgspec.msgpack.encode(EchoInput(text=texts))),
                timeout=600.0,
                submitted_at=self._world.clock.now(),
            )
            partition = self._random.randrange(self._world.settings.kafka.partitions)
            await log.emit(Place(topics.REQUESTS["standard"], partition), [Out(None, encode(request))])


def _read(world: World, topic: str, codec: Codec, kind: type) -> list[Any]:
    found = []
    for stored in world.broker.dump(topic).values():
        messages = [codec.decode(s.record.value) for s in stored if s.record.value is not None and s.state == "plain"]
        found += [message for message in messages if isinstance(message, kind)]
    return found


async def _until(what: str, true: Any) -> None:
    for _ in range(int(PATIENCE_SECONDS / 0.2)):
        if true():
            return
        await asyncio.sleep(0.2)
    raise AssertionError(f"in vain: {what}")


def _empty(world: World, device: str) -> bool:
    """By the scheduler's last report: what `llmos drain --wait` looks at."""
    reports = _read(world, topics.TELEMETRY, TELEMETRY, SchedulerReport)
    last = [entry for entry in reports[-1].devices if entry.device == device] if reports else []
    return bool(last) and last[0].in_flight == 0 and last[0].draining


async def _restart(world: World, name: str) -> None:
    process = world.processes[name]
    lives = process.lives
    process.stop.set()
    await _until(f"{name} lives again", lambda: process.lives > lives)
    await asyncio.sleep(1.0)


async def _roll(seed: int) -> list[str]:
    world = World(seed, faults=RandomFaults(delay=0.004))
    world.breaks = 0.0
    await world.begin()
    world.start_all(devices=DEVICES)
    load = Load(world, seed)
    clients = asyncio.create_task(load.run())
    await asyncio.sleep(4.0)
    for k in range(DEVICES):
        device = device_named(k)
        await world.drain(device)
        await _until(f"{device} is empty", lambda device=device: _empty(world, device))
        await _restart(world, f"worker-{k}")
        served = _served(world, device)
        await _until(f"{device} takes work again", lambda device=device, served=served: _served(world, device) > served)
    for name in SERVICES:
        await _restart(world, name)
    load.on = False
    await clients
    await _until("all is answered", lambda: not Ledger(world.broker).missing())
    broken = Ledger(world.broker).violations()
    answers = _read_committed(world)
    broken += [f"{answer.request_id} is {answer.status}" for answer in answers if answer.status != "completed"]
    broken += [f"{answer.request_id} has a failed item" for answer in answers if any(i.error for i in answer.items)]
    broken += [f"a death is counted: {death}" for death in _read(world, topics.EPOCHS, EPOCHS, Deaths)]
    moved = [state for state in _read(world, topics.STREAM, STREAM, State) if state.state == "moved"]
    broken += [f"{state.request_id} moved: {state.detail}" for state in moved]
    ends = {end for process in world.processes.values() for end in process.ends}
    broken += [f"an end was not in order: {ends}"] if ends != {"NoneType"} else []
    await world.end()
    return [*broken, *(f"unexpected end: {problem!r}" for problem in world.unexpected)]


def _served(world: World, device: str) -> int:
    """Work records that were sent to the device."""
    return len(world.broker.dump(topics.work_topic(device))[0])


def _read_committed(world: World) -> list[Any]:
    stored = [entry for entries in world.broker.dump(topics.RESULTS).values() for entry in entries]
    return [RESULTS.decode(entry.record.value) for entry in stored if entry.state == "committed" and entry.record.value]


def roll(seed: int) -> list[str]:
    """What went wrong; the same seed plays the same restart."""
    return run(lambda: _roll(seed), seed)
