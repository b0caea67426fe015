"""Ends a worker that the scheduler has given up and that does not end by itself; never a later life of its device.

A worker that meets its own `Fence` ends. One that is frozen, or whose loop hangs, does not: its node kills it then. A
fence is the scheduler's, signed under its key `control`, and names a life by its incarnation and process id. Process ids come
again, in a container that was started anew often the very same, so the claim that the incarnation stands for must have been
made since this process was spawned.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from typing import NamedTuple

import structlog

from llmos.infra.embedded.child import Child
from llmos.infra.log.port import Place, Record
from llmos.infra.log.topics import spec_for
from llmos.infra.runtime.context import Context
from llmos.infra.stages.control_macs import by_scheduler, is_fresh, refused
from llmos.infra.stages.follower import follow_from_end
from llmos.schemas import topics
from llmos.schemas.control import CONTROL, Fence
from llmos.schemas.errors import PositionLost, RecordError
from llmos.schemas.work import WORK, Claim

log = structlog.get_logger()

GRACE_SECONDS = 1.0
"""How long a fenced worker may take to end by itself."""
_READ_SECONDS = 5.0


class Life(NamedTuple):
    """A worker's process."""

    child: Child
    spawned_at: float
    """Unix seconds, by this machine's clock."""


class Fencing:
    """Follows `control` for the workers of this node. `device_of`: child's name → device."""

    def __init__(self, ctx: Context, device_of: Mapping[str, str], grace_seconds: float = GRACE_SECONDS) -> None:
        self._ctx = ctx
        self._device_of = device_of
        self._grace_seconds = grace_seconds
        self._lives: dict[str, Life] = {}
        self._fences: asyncio.Queue[tuple[Fence, Life]] = asyncio.Queue()
        self._ending: set[Child] = set()

    async def born(self, child: Child) -> None:
        """A worker was spawned."""
        self._lives[self._device_of[child.name]] = Life(child, self._ctx.clock.now())

    async def run(self) -> None:
        """Carries fences out, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(follow_from_end(self._ctx, Place(topics.CONTROL, 0), self.take))
            while True:
                fence, life = await self._fences.get()
                tasks.create_task(self._end(fence, life))

    def take(self, record: Record) -> None:
        """A record of `control`: notes a fence of a process that runs here."""
        try:
            message = CONTROL.decode(record.value)
        except RecordError as problem:
            log.warning("record_unreadable", topic=topics.CONTROL, offset=record.offset, error=str(problem))
            return
        if not isinstance(message, Fence) or message.node != self._ctx.settings.node.name:
            return
        life = self._lives.get(message.device)
        if life is not None and life.child.pid == message.pid and life.child not in self._ending:
            if not by_scheduler(self._ctx.keyring, message):
                refused("node", message, "forged", offset=record.offset)
                return
            if not is_fresh(message, record.timestamp):
                refused("node", message, "stale", offset=record.offset)
                return
            self._ending.add(life.child)
            self._fences.put_nowait((message, life))

    async def _end(self, fence: Fence, life: Life) -> None:
        """Kills the process where it is the one that is meant and the time of grace goes by without its end."""
        try:
            async with asyncio.timeout(self._grace_seconds):
                await life.child.wait()
        except TimeoutError:
            if await self._means(fence, life):
                log.warning("fenced_worker_killed", device=fence.device, pid=fence.pid, reason=fence.reason)
                life.child.signal(signal.SIGKILL)
            elif life.child.exit_code is None:
                log.info("fence_of_another_life", device=fence.device, pid=fence.pid, incarnation=fence.incarnation)
        finally:
            self._ending.discard(life.child)

    async def _means(self, fence: Fence, life: Life) -> bool:
        """Whether the fenced incarnation is this process: its claim was made since the process was spawned."""
        place = Place(topics.work_topic(fence.device), 0)
        reader = self._ctx.log.reader()
        try:
            reader.assign({place: fence.incarnation})
            while life.child.exit_code is None:
                records = (await reader.read(timeout=_READ_SECONDS, max_records=1)).get(place)
                if records:
                    return _claimed(records[0], fence, life)
        except PositionLost:
            # the claim has left the log: it is older than what the log keeps, and so must be the process
            kept = spec_for(self._ctx.settings, place.topic).retention_seconds or 0.0
            return self._ctx.clock.now() - life.spawned_at > kept
        finally:
            await reader.close()
        return False


def _claimed(record: Record, fence: Fence, life: Life) -> bool:
    """Whether a record of the device's topic is the fenced claim, and this process made it."""
    if record.offset != fence.incarnation:
        return False
    try:
        claim = WORK.decode(record.value)
    except RecordError:
        return False
    return isinstance(claim, Claim) and claim.pid == life.child.pid and record.timestamp >= life.spawned_at - 0.001
