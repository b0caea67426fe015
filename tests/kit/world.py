"""A whole system on the log in memory and a virtual clock: the services' own code, crashed, frozen and delayed by a seed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random

import msgspec

from llmos.infra.crypto.keyring import Keyring, SystemKeys
from llmos.infra.crypto.rows import sealed_row
from llmos.infra.crypto.secrets import new_secret, wrap_secret
from llmos.infra.ledger.memory import MemoryLedger
from llmos.infra.log.memory import Crashed, Fate, MemoryBroker, MemoryLog, RandomFaults
from llmos.infra.log.memory.faults import Operation
from llmos.infra.log.port import Out, Place
from llmos.infra.log.topics import specs
from llmos.infra.runtime.context import Context
from llmos.infra.settings import Settings
from llmos.infra.simulation import VirtualClock
from llmos.infra.stages.control_macs import as_operator
from llmos.pipelines.kinds.base import items_of
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.catalog import Tenant
from llmos.schemas.control import CONTROL, Drain, Fence, ModelOrder
from llmos.schemas.errors import Ambiguous, ModelUnavailable
from llmos.schemas.tasks import EchoOutput
from llmos.schemas.telemetry import WorkerDied
from llmos.services.aggregator import app as aggregator
from llmos.services.ingest import app as ingest
from llmos.services.scheduler import app as scheduler
from llmos.services.verify import app as verify
from llmos.services.verify.directory import ModelDirectory
from llmos.services.worker.equipment import Equipment
from llmos.services.worker.life import live
from llmos.services.worker.runners.base import Meter
from llmos.services.worker.runners.events import (
    Assignment,
    Began,
    Event,
    ItemEnded,
    Pins,
    TaskBroke,
    TaskEnded,
    TaskName,
    TaskStopped,
)
from tests.kit.billing import price

TENANTS = ("demo", "acme", "globex")
HUNG_STEP_SECONDS = 1.5
"""What a step of the emulated engine may take."""
NODE_GRACE_SECONDS = 1.0
"""A fenced worker that has not ended by itself after so long is ended by its node."""
Body = Callable[[Context], Awaitable[None]]


DEVICES = "node-0.cpu"


def device_named(k: int) -> str:
    """The device of `worker-<k>`."""
    return f"{DEVICES}{k}"


class _Health:
    def progress(self, loop: str) -> None:
        """Nobody looks."""

    def ready(self, what: str = "") -> None:
        """Nobody looks."""


class Weather:
    """Faults for services until `calm` is set; clients and calm days know only small delays."""

    def __init__(self, faults: RandomFaults) -> None:
        self.calm = False
        self._faults = faults
        self._mild = RandomFaults(delay=faults.delay, marker_delay=faults.marker_delay)

    def fate(self, client: str, operation: Operation, place: Place | None, random: Random) -> Fate:
        """By the weather."""
        mild = self.calm or client.startswith(("client", "world"))
        return (self._mild if mild else self._faults).fate(client, operation, place, random)


class EmulatedEngine:
    """Runs `echo` with random service times on the loop; now and then an attempt breaks."""

    def __init__(self, deliver: Callable[[list[Event]], None], random: Random, meter: Meter, breaks: float) -> None:
        self._deliver = deliver
        self._random = random
        self._meter = meter
        self._breaks = breaks
        self._timers: dict[TaskName, asyncio.TimerHandle] = {}
        self._hangs = False

    def hang(self) -> None:
        """Its step stands from now on, while everything around it goes on."""
        self._hangs = True
        self._meter.step_began, self._meter.step_limit_seconds = self._meter.clock(), HUNG_STEP_SECONDS
        for timer in self._timers.values():
            timer.cancel()

    def start(self) -> None:
        """Nothing to do."""

    def run(self, assignment: Assignment) -> None:
        """The task is done after a while."""
        if self._hangs:
            return
        loop = asyncio.get_running_loop()
        self._timers[assignment.name] = loop.call_later(self._random.expovariate(10.0), self._end, assignment)
        self._meter.using(assignment.name).tokens_in = sum(map(price, items_of(assignment.input.text)))
        self._deliver([Began(assignment.name)])

    def stop(self, name: TaskName) -> None:
        """The task leaves."""
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
            self._deliver([TaskStopped(name, self._meter.let_go(name))])

    def order(self, order: ModelOrder | Pins) -> None:
        """It has no models."""

    async def close(self, timeout: float) -> None:
        """All tasks leave."""
        for timer in self._timers.values():
            timer.cancel()

    def _end(self, assignment: Assignment) -> None:
        del self._timers[assignment.name]
        if self._random.random() < self._breaks:
            problem = ModelUnavailable(model="none", device="emulated", problem="emulated")
            self._deliver([TaskBroke(assignment.name, problem, self._meter.let_go(assignment.name))])
            return
        self._meter.let_go(assignment.name)
        self._meter.tasks["", "echo"] += 1
        items = []
        for i, text in enumerate(items_of(assignment.input.text)):
            output = msgspec.msgpack.encode(EchoOutput(text=text))
            items.append(ItemEnded(assignment.name, i, output, None, price(text), price(text)))
        self._deliver([*items, TaskEnded(assignment.name, 0.01)])


def _verify(ctx: Context) -> Awaitable[None]:
    """Verify without a models directory: these jobs need no model, and nothing is read from the disk."""
    return verify.run_with(ctx, ModelDirectory(ctx.settings.verify.characters_per_token))


@dataclass
class Process:
    """A simulated process, started anew whenever it ends."""

    name: str
    body: Body
    settings: Settings
    log: MemoryLog | None = None
    task: asyncio.Task[None] | None = None
    supervisor: asyncio.Task[None] | None = None
    lives: int = 0
    ends: list[str] = field(default_factory=list)
    """How each life ended."""
    again: bool = True
    """Whether it is started anew."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Of its present life: what SIGTERM sets."""


class World:
    """The system. Everything random is drawn from `seed`."""

    def __init__(
        self, seed: int, *, partitions: int = 3, faults: RandomFaults | None = None, **settings: object
    ) -> None:
        self.random = Random(seed)
        self.clock = VirtualClock(asyncio.get_running_loop())
        self.weather = Weather(faults or RandomFaults())
        self.broker = MemoryBroker(self.clock, seed, self.weather, request_seconds=4.0, transaction_seconds=4.0)
        self.ledger = MemoryLedger(self.clock)
        self.keyring = Keyring.memory(*TENANTS)
        self.keys_of: Callable[[str], SystemKeys] = lambda service: self.keyring
        """The keys that a new life of a service is given."""
        self.secrets = {name: new_secret() for name in TENANTS}
        self.settings = Settings(kafka={"partitions": partitions}, **settings)
        self.processes: dict[str, Process] = {}
        self.unexpected: list[BaseException] = []
        self.breaks = 0.02
        self.engines: dict[str, EmulatedEngine] = {}
        """Of the last life of each device."""
        self._node: asyncio.Task[None] | None = None
        self._count = 0

    async def begin(self) -> None:
        """Topics and tenants."""
        log = self.broker.connect("world")
        await log.ensure(specs(self.settings))
        records = []
        for name in TENANTS:
            key_id, wrapped = wrap_secret(self.keyring, name, self.secrets[name])
            tenant = Tenant(
                name=name, plaintext="allow", mac="optional", wrapped_secret=wrapped, key_id=key_id,
                reply_prefixes=["reply."],
            )  # fmt: skip
            records.append(Out(name.encode(), encode(sealed_row(self.keyring, tenant))))
        await log.emit(Place(topics.TENANTS, 0), records)

    def start_all(self, instances: int = 1, devices: int = 2, verify_body: Body = _verify) -> None:
        """Every service, `instances` of those that share partitions."""
        for i in range(instances):
            share = self._with(instance={"i": i, "n": instances})
            self.start(f"ingest-{i}", ingest.run, share)
            self.start(f"verify-{i}", verify_body, share)
            self.start(f"aggregator-{i}", aggregator.run, share)
        self.start("scheduler", scheduler.run, self.settings)
        self.start_workers(devices)
        self._node = asyncio.create_task(self._keep_fences(), name="node")

    def start_workers(self, devices: int) -> None:
        """One worker a device."""
        for k in range(devices):
            self.start(f"worker-{k}", self._worker(device_named(k)), self.settings)

    def _with(self, **settings: object) -> Settings:
        return self.settings.model_copy(
            update={name: type(getattr(self.settings, name))(**value) for name, value in settings.items()}  # type: ignore[arg-type]
        )

    def _worker(self, device: str) -> Body:
        def body(ctx: Context) -> Awaitable[None]:
            meter = Meter(clock=asyncio.get_running_loop().time)
            random = Random(self.random.random())

            def make_engine(deliver: Callable[[list[Event]], None], died: object) -> EmulatedEngine:
                engine = self.engines[device] = EmulatedEngine(deliver, random, meter, self.breaks)
                return engine

            return live(
                ctx,
                Equipment(
                    device=device,
                    kinds=["echo"],
                    meter=meter,
                    residents=list,
                    budget_bytes=1,
                    make_engine=make_engine,
                ),
            )

        return body

    def start(self, name: str, body: Body, settings: Settings) -> Process:
        """A process under supervision."""
        process = self.processes[name] = Process(name, body, settings)
        process.supervisor = asyncio.create_task(self._supervise(process), name=f"supervisor of {name}")
        return process

    async def _supervise(self, process: Process) -> None:
        while process.again:
            process.lives += 1
            process.log = self.broker.connect(process.name)
            process.stop = asyncio.Event()
            service = process.name.partition("-")[0]
            ctx = Context(
                service=service,
                settings=process.settings,
                log=process.log,
                ledger=self.ledger,
                keyring=self.keys_of(service),
                clock=self.clock,
                health=_Health(),
                stop=process.stop,
            )
            process.task = asyncio.ensure_future(process.body(ctx))
            await asyncio.wait([process.task])
            process.ends.append(self._end_of(process))
            process.log.crash()
            await asyncio.sleep(self.random.uniform(0.1, 1.0))

    def _end_of(self, process: Process) -> str:
        task = process.task
        assert task is not None, "it has just ended"
        if task.cancelled():
            return "cancelled"
        problem = task.exception()
        # Told to end while its log is frozen, it cannot finish what it has.
        in_vain = isinstance(problem, TimeoutError) and process.stop.is_set()
        if problem is not None and not isinstance(problem, Crashed | Ambiguous) and not in_vain:
            self.unexpected.append(problem)
        return type(problem).__name__

    def crash(self, name: str) -> None:
        """SIGKILL."""
        process = self.processes[name]
        if process.log is not None and process.task is not None:
            process.log.crash()
            process.task.cancel()

    def hang(self, device: str) -> None:
        """The device's step stands; its worker's heart goes on."""
        if device in self.engines:
            self.engines[device].hang()

    async def freeze(self, name: str, seconds: float) -> None:
        """The process stops for a while (SIGSTOP), nobody takes its place; its node may end it meanwhile."""
        log = self.processes[name].log
        if log is not None:
            log.freeze()
            await asyncio.sleep(seconds)
            log.thaw()

    async def drain(self, device: str, *, undo: bool = False) -> None:
        """An operator's word."""
        message = as_operator(self.keyring, Drain(device=device, at=self.clock.now(), undo=undo))
        await self.broker.connect("world").emit(Place(topics.CONTROL, 0), [Out(device.encode(), encode(message))])

    async def _keep_fences(self) -> None:
        """The node: ends fenced workers that do not end by themselves, and no other life of their devices."""
        ending: set[asyncio.Task[None]] = set()
        reader = self.broker.connect("world-node").reader()
        reader.assign({Place(topics.CONTROL, 0): 0})
        while True:
            for records in (await reader.read(timeout=5.0)).values():
                for record in records:
                    message = CONTROL.decode(record.value)
                    if isinstance(message, Fence):
                        ending.add(asyncio.create_task(self._end_fenced(message)))
            ending = {task for task in ending if not task.done()}

    async def _end_fenced(self, fence: Fence) -> None:
        await asyncio.sleep(NODE_GRACE_SECONDS)
        claims = [
            stored.record.offset
            for stored in self.broker.dump(topics.work_topic(fence.device))[0]
            if stored.record.key == b"claim"
        ]
        name = f"worker-{fence.device[len(DEVICES) :]}"
        if claims and claims[-1] == fence.incarnation and name in self.processes:
            self.crash(name)

    async def node_sees_death(self, device: str) -> None:
        """A node tells that a worker died."""
        message = WorkerDied(
            device=device, node="node-0", pid=os.getpid(), at=self.clock.now(), reason="killed", signal=9
        )
        await self.broker.connect("world").emit(Place(topics.TELEMETRY, 0), [Out(device.encode(), encode(message))])

    async def make_zombie(self, name: str, seconds: float) -> None:
        """The process stops for a while; meanwhile another takes its place; then both go on.

        Of what has one owner (scheduler, device, transactional ids) the zombie is not started anew when it ends: two
        supervisors of one name would fence each other for ever.
        """
        process = self.processes[name]
        log = process.log
        if log is None:
            return
        log.freeze()
        self._count += 1
        self.processes.pop(name)
        process.again = name.startswith(("ingest", "verify"))
        self.processes[f"{name}~{self._count}"] = process
        self.start(name, process.body, process.settings)
        await asyncio.sleep(seconds)
        log.thaw()

    async def end(self) -> None:
        """Ends all processes."""
        if self._node is not None:
            self._node.cancel()
        for process in self.processes.values():
            for task in (process.supervisor, process.task):
                if task is not None:
                    task.cancel()
            if process.log is not None:
                process.log.crash()
        await asyncio.gather(
            *(t for p in self.processes.values() for t in (p.supervisor, p.task) if t is not None),
            return_exceptions=True,
        )
