"""One random schedule: clients submit, repeat keys and cancel while services crash, freeze, hang and lag; then the checks."""

from __future__ import annotations

import asyncio
from random import Random

import msgspec

from llmos.infra.crypto.macs import mac
from llmos.infra.log.memory import MemoryLog, RandomFaults
from llmos.infra.log.port import Out, Place
from llmos.infra.simulation import run
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.control import Cancel
from llmos.schemas.ids import job_id
from llmos.schemas.job import LANES
from llmos.schemas.requests import Request, signed_bytes
from llmos.schemas.tasks import EchoInput
from tests.kit.promises import Ledger
from tests.kit.world import TENANTS, World, device_named

STORM_SECONDS = 25.0
"""How long clients submit and services suffer."""
DEVICES = 2
SIGNING = TENANTS[-1]
PATIENCE_SECONDS = 150.0
"""Until everything must be answered once the storm is over."""


class Clients:
    """Submit, repeat keys with the same or other content, send rubbish and copies of what was signed, cancel."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._random = Random(seed)
        self._sent: list[Request] = []
        self._count = 0

    async def run(self, seconds: float) -> None:
        """Until the time is over."""
        end = self._world.clock.now() + seconds
        log = self._world.broker.connect("client")
        while self._world.clock.now() < end:
            await asyncio.sleep(self._random.expovariate(4.0))
            roll = self._random.random()
            if roll < 0.05:
                await log.emit(self._place(), [Out(None, self._random.randbytes(20))])
            elif roll < 0.12 and self._sent:
                await self._cancel(log, self._random.choice(self._sent), self._world.clock.now())
            elif roll < 0.15:
                await self._cancel_before(log)
            elif roll < 0.17:
                await self._cancel_too_early(log)
            else:
                place = self._place()
                burst = [self._signed(self._request(), place) for _ in range(self._random.choice((1, 1, 1, 5)))]
                copies = [request for request in burst if request.mac and self._random.random() < 0.3]
                await log.emit(place, [Out(None, encode(request)) for request in (*burst, *copies)])
                self._sent += burst

    def _request(self) -> Request:
        if self._sent and self._random.random() < 0.25:
            earlier = self._random.choice(self._sent)
            changed = self._random.random() < 0.3
            return msgspec.structs.replace(
                earlier,
                request_id=self._name(),
                idempotency_key=earlier.idempotency_key or earlier.request_id,
                input=self._input() if changed else earlier.input,
                submitted_at=self._world.clock.now(),
            )
        return Request(
            request_id=self._name(),
            tenant=self._random.choice(TENANTS),
            kind="echo",
            input=self._input(),
            timeout=self._random.choice((600.0, 600.0, 600.0, 3.0)),
            submitted_at=self._world.clock.now(),
        )

    def _signed(self, request: Request, place: Place) -> Request:
        """One tenant signs: each of its requests is taken once."""
        if request.tenant != SIGNING:
            return request
        made = msgspec.structs.replace(request, nonce=self._random.randbytes(16), mac=b"")
        tag = mac(self._world.secrets[SIGNING], signed_bytes(made, topics.lane_of(place.topic)))
        return msgspec.structs.replace(made, mac=tag)

    def _input(self) -> msgspec.Raw:
        count = self._random.choice((1, 1, 2, 3, 5))
        texts = [f"{self._name()} {i}" for i in range(count)]
        return msgspec.Raw(msgspec.msgpack.encode(EchoInput(text=texts)))

    def _name(self) -> str:
        self._count += 1
        return f"r{self._count}"

    def _place(self) -> Place:
        lane = self._random.choice(LANES)
        return Place(topics.REQUESTS[lane], self._random.randrange(self._world.settings.kafka.partitions))

    async def _cancel(self, log: MemoryLog, request: Request, at: float) -> None:
        name = job_id(request.tenant, request.idempotency_key or request.request_id)
        message = Cancel(tenant=request.tenant, job_id=name, at=at)
        await log.emit(Place(topics.CONTROL, 0), [Out(name, encode(message))])

    async def _cancel_before(self, log: MemoryLog) -> None:
        """The cancel overtakes its submission: it is remembered and hits it."""
        self._count += 1
        now = self._world.clock.now()
        request = Request(
            request_id=f"cancelled-before-{self._count}",
            tenant="demo",
            kind="echo",
            input=self._input(),
            submitted_at=now,
        )
        await self._cancel(log, request, now + 0.001)
        await asyncio.sleep(self._random.uniform(1.0, 4.0))
        await log.emit(self._place(), [Out(None, encode(request))])

    async def _cancel_too_early(self, log: MemoryLog) -> None:
        """A cancel of before a submission was made does not concern it."""
        request = Request(request_id=self._name(), tenant="demo", kind="echo", input=self._input())
        await self._cancel(log, request, self._world.clock.now())
        await asyncio.sleep(self._random.uniform(1.0, 4.0))
        request = msgspec.structs.replace(request, submitted_at=self._world.clock.now())
        await log.emit(self._place(), [Out(None, encode(request))])


async def _torment(world: World, random: Random, seconds: float) -> None:
    """Crashes and freezes processes."""
    end = world.clock.now() + seconds
    while world.clock.now() < end:
        await asyncio.sleep(random.expovariate(0.6))
        name = random.choice(sorted(world.processes))
        if "~" not in name and random.random() < 0.3:
            await world.make_zombie(name, random.uniform(0.5, 6.0))
        else:
            world.crash(name)
            if name.startswith("worker") and random.random() < 0.5:
                await world.node_sees_death(f"node-0.cpu{name[7:].partition('~')[0]}")
        if random.random() < 0.1:
            world.ledger.flush()
        world.ledger.away = random.random() < 0.15


async def _trouble(world: World, random: Random, seconds: float) -> None:
    """Devices hang, freeze, are drained and started anew in order; services, too, are stopped in order."""
    end = world.clock.now() + seconds
    while world.clock.now() < end:
        await asyncio.sleep(random.expovariate(0.25))
        device = random.randrange(DEVICES)
        match random.choice(("hang", "hang", "freeze", "drain", "restart")):
            case "hang":
                world.hang(device_named(device))
            case "freeze":
                await world.freeze(f"worker-{device}", random.uniform(0.5, 8.0))
            case "drain":
                await world.drain(device_named(device))
                await asyncio.sleep(random.uniform(0.5, 4.0))
                if random.random() < 0.5:
                    world.processes[f"worker-{device}"].stop.set()
                    await asyncio.sleep(random.uniform(0.1, 3.0))
                await world.drain(device_named(device), undo=True)
            case "restart":
                world.processes[random.choice([name for name in sorted(world.processes) if "~" not in name])].stop.set()


async def _play(seed: int) -> list[str]:
    random = Random(seed)
    faults = RandomFaults(delay=0.004, late=0.01, unheard=0.003, lost=0.003, survives=0.5)
    world = World(
        seed,
        faults=faults,
        verify={"echo_items_per_part": 1},
        scheduler={"deaths": 1000, "attempts": 100},
    )
    await world.begin()
    world.start_all(instances=random.choice((1, 1, 2)), devices=DEVICES)
    clients = Clients(world, seed)
    torment = asyncio.create_task(_torment(world, random, STORM_SECONDS))
    trouble = asyncio.create_task(_trouble(world, Random(seed + 1), STORM_SECONDS))
    await clients.run(STORM_SECONDS)
    await torment
    await trouble
    world.weather.calm = True
    world.ledger.away = False
    end = world.clock.now() + PATIENCE_SECONDS
    while world.clock.now() < end:
        await asyncio.sleep(2.0)
        if not Ledger(world.broker).missing():
            break
    # A while more: a second answer would come late.
    await asyncio.sleep(8.0)
    violations = Ledger(world.broker).violations()
    await world.end()
    return [*violations, *(f"unexpected end: {type(problem).__name__}: {problem}" for problem in world.unexpected)]


def play(seed: int) -> list[str]:
    """The broken promises of this schedule; the same seed plays the same schedule."""
    return run(lambda: _play(seed), seed)
