"""The node: one worker per device, deaths told at once, workers ended with it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from llmos.infra.crypto.keyring import Keyring
from llmos.infra.embedded.child import ChildSpec
from llmos.infra.embedded.identity import started_at
from llmos.infra.ledger.memory import MemoryLedger
from llmos.infra.log.clock import WallClock
from llmos.infra.log.memory import MemoryBroker
from llmos.infra.log.port import Log, Place, Record
from llmos.infra.log.topics import spec_for
from llmos.infra.runtime.beside import run_beside
from llmos.infra.runtime.context import Context
from llmos.infra.settings import load
from llmos.infra.telemetry.health import ProgressHealth
from llmos.schemas.telemetry import TELEMETRY, WorkerDied
from llmos.schemas.topics import CONTROL
from llmos.schemas.topics import TELEMETRY as TOPIC
from llmos.services.node.app import keep_workers, tell
from llmos.services.node.devices import devices, worker_specs

PLACE = Place(TOPIC, 0)
LIVES = """
import os, sys, time
with open(sys.argv[1], "a") as lives:
    lives.write(f"{os.getpid()}\\n")
time.sleep(600)
"""


def context(tmp_path: Path, **node: object) -> tuple[Context, ProgressHealth]:
    """A node on a log in memory."""
    settings = load(state_directory=tmp_path, node={"name": "n1", "restart_seconds": 0.01, **node})
    clock = WallClock()
    broker = MemoryBroker(clock)
    broker.create([spec_for(settings, TOPIC), spec_for(settings, CONTROL)])
    health = ProgressHealth(30.0)
    return (
        Context(
            service="node",
            settings=settings,
            log=broker.connect("node"),
            ledger=MemoryLedger(clock),
            keyring=Keyring.memory(),
            clock=clock,
            health=health,
            stop=asyncio.Event(),
        ),
        health,
    )


def stand_ins(ctx: Context, tmp_path: Path) -> dict[str, ChildSpec]:
    """Processes in the workers' places that write down each of their lives and do nothing."""
    return {
        device: ChildSpec(
            name=spec.name,
            command=(sys.executable, "-c", LIVES, str(tmp_path / f"{device}.lives")),
            log=spec.log,
            ready=_wrote(tmp_path / f"{device}.lives"),
        )
        for device, spec in worker_specs(ctx.settings).items()
    }


def _wrote(file: Path):  # type: ignore[no-untyped-def]
    async def ask(pid: int) -> bool:
        return pid in await asyncio.to_thread(lives, file)

    return ask


def lives(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().split()] if file.exists() else []


async def next_death(log: Log, start: int) -> tuple[Record, WorkerDied]:
    """The first record of `telemetry` from `start` on."""
    reader = log.reader()
    reader.assign({PLACE: start})
    try:
        async with asyncio.timeout(60):
            while not (records := (await reader.read(timeout=1.0)).get(PLACE)):
                pass
        return records[0], TELEMETRY.decode(records[0].value)
    finally:
        await reader.close()


async def test_a_workers_death_is_told_and_it_is_started_again(tmp_path: Path) -> None:
    """SIGKILL of a worker gives one `WorkerDied` with its device and process id; another process takes its place."""
    ctx, health = context(tmp_path, cpu_devices=2)
    deaths: asyncio.Queue[WorkerDied] = asyncio.Queue()
    workers = await asyncio.to_thread(stand_ins, ctx, tmp_path)
    node = asyncio.create_task(run_beside(keep_workers(ctx, workers, deaths), tell(ctx, deaths)))
    try:
        async with asyncio.timeout(60):
            while not health.is_ready():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        (victim,) = await asyncio.to_thread(lives, tmp_path / "n1.cpu1.lives")
        os.kill(victim, signal.SIGKILL)
        record, death = await next_death(ctx.log, 0)
        assert record.key == b"n1.cpu1"
        assert (death.device, death.node, death.pid, death.reason) == ("n1.cpu1", "n1", victim, "signal SIGKILL")
        async with asyncio.timeout(60):
            while len(await asyncio.to_thread(lives, tmp_path / "n1.cpu1.lives")) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        ctx.stop.set()
        async with asyncio.timeout(60):
            await node
    started = [pid for device in devices(ctx.settings, []) for pid in lives(tmp_path / f"{device}.lives")]
    assert len(started) == 3
    assert all(started_at(pid) is None for pid in started)
    assert await ctx.log.ends([PLACE]) == {PLACE: 1}, "workers that are stopped are not told as dead"


async def test_a_node_without_devices_is_ready_and_stops(tmp_path: Path) -> None:
    """A machine may have no device; its node does nothing and ends when told."""
    ctx, health = context(tmp_path, cpu_devices=0)
    node = asyncio.create_task(keep_workers(ctx, {}, asyncio.Queue()))
    async with asyncio.timeout(60):
        while not health.is_ready():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        ctx.stop.set()
        await node
