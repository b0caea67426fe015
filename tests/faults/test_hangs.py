"""How soon a device that hangs or freezes is given up, in virtual time, and that its tasks are done elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random

import pytest
import structlog

from llmos.infra.log.memory import RandomFaults
from llmos.infra.simulation import run
from llmos.schemas import topics
from llmos.schemas.control import CONTROL, Fence
from tests.kit.promises import Ledger
from tests.kit.rolling import Load
from tests.kit.world import World, device_named

# Time is virtual and nothing else runs on the loop: what blocks it, as reading the settings does, delays nobody.
pytestmark = pytest.mark.may_block

FOUND_SECONDS = 3.0
TIMES = 6


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The events of simulated services are nobody's business."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


def _fences(world: World) -> list[Fence]:
    stored = world.broker.dump(topics.CONTROL)[0]
    messages = [CONTROL.decode(entry.record.value) for entry in stored]
    return [message for message in messages if isinstance(message, Fence)]


async def _found(seed: int, trouble: str) -> list[float]:
    """Seconds from each trouble to its fence."""
    random = Random(seed)
    world = World(seed, faults=RandomFaults(delay=0.004))
    await world.begin()
    world.start_all(devices=2)
    load = Load(world, seed)
    clients = asyncio.create_task(load.run())
    await asyncio.sleep(6.0)
    seconds = []
    for _ in range(TIMES):
        await asyncio.sleep(random.uniform(4.0, 5.0))
        before, began = len(_fences(world)), world.clock.now()
        k = random.randrange(2)
        frozen = None
        if trouble == "hang":
            world.hang(device_named(k))
        else:
            frozen = asyncio.create_task(world.freeze(f"worker-{k}", 20.0))
        for _ in range(200):
            if len(_fences(world)) > before:
                break
            await asyncio.sleep(0.05)
        fence = _fences(world)[before]
        assert fence.device == device_named(k)
        seconds.append(fence.at - began)
        if frozen is not None:
            await asyncio.sleep(4.0)  # its node ends it
            frozen.cancel()
    load.on = False
    await clients
    for _ in range(100):
        if not Ledger(world.broker).missing():
            break
        await asyncio.sleep(1.0)
    assert Ledger(world.broker).violations() == []
    assert {a.status for a in Ledger(world.broker).answers} == {"completed"}
    assert not world.unexpected
    await world.end()
    return seconds


@pytest.mark.parametrize("trouble", ["hang", "freeze"])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_given_up_within_three_seconds(seed: int, trouble: str) -> None:
    """Whenever it happens between two heartbeats; every job is completed all the same."""
    seconds = run(lambda: _found(seed, trouble), seed)
    assert len(seconds) == TIMES
    assert max(seconds) <= FOUND_SECONDS, seconds
