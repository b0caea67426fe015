"""Keeps named children running: restarts with back-off, tells of each death, stops them in order within one deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from types import TracebackType

import structlog

from llmos.infra.embedded.child import Child, ChildSpec, describe
from llmos.infra.runtime.deadline import Deadline
from llmos.schemas.errors import ChildFailed

log = structlog.get_logger()

_HEALTHY_FACTOR = 2.0
"""A child that lived for this many of the longest back-offs has got over what ended it before."""
_KILL_RESERVE_SECONDS = 0.5
"""Of a shared deadline, what is kept back for each child that is stopped later."""


@dataclass(frozen=True, slots=True)
class Restarts:
    """When dead children are started again, in seconds."""

    first: float
    limit: float

    @property
    def healthy(self) -> float:
        """A life of this length starts the back-off anew."""
        return self.limit * _HEALTHY_FACTOR


@dataclass(frozen=True, slots=True)
class Death:
    """A child's end that nobody asked for. `exit_code` is negative for a signal."""

    name: str
    pid: int
    exit_code: int

    @property
    def reason(self) -> str:
        """In words: `signal SIGKILL`."""
        return describe(self.exit_code)


def back_off(previous: float, lived: float, restarts: Restarts) -> float:
    """Seconds to wait before the next start, after a life of `lived` seconds that began after waiting `previous`."""
    if previous <= 0 or lived >= restarts.healthy:
        return min(restarts.first, restarts.limit)
    return min(previous * 2, restarts.limit)


async def _nothing(child: Child) -> None:
    """The default of `on_spawn`."""


class Supervisor:
    """Owns children: `async with Supervisor(...) as s`, then `start` or `keep`. Whatever still runs at its end is killed.

    `on_spawn` is awaited for each new life, before the child is ready. `on_death` is called at once, on the loop, and must
    not block. An error in either, or a child that cannot be killed, leaves the `async with` as an exception group.
    """

    def __init__(
        self,
        restarts: Restarts,
        on_death: Callable[[Death], None] = lambda death: None,
        on_spawn: Callable[[Child], Awaitable[None]] = _nothing,
    ) -> None:
        self._restarts = restarts
        self._on_death = on_death
        self._on_spawn = on_spawn
        self._kept: dict[str, _Kept] = {}
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Supervisor:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for kept in self._kept.values():
            kept.keeper.cancel()
        await self._tasks.__aexit__(kind, error, trace)

    async def start(self, spec: ChildSpec) -> None:
        """Starts a child, waits until it is ready and keeps it from then on.

        Raises:
            ChildFailed: the first start did not succeed; the child is not kept then.
        """
        kept = self._adopt(spec)
        try:
            problem = await asyncio.shield(kept.first)
        except asyncio.CancelledError:
            kept.keeper.cancel()
            raise
        if problem is not None:
            kept.keeper.cancel()
            await asyncio.wait({kept.keeper})
            del self._kept[spec.name]
            raise problem

    def keep(self, spec: ChildSpec) -> None:
        """Keeps a child, starting it in the background as often as it takes; `ready` waits for it."""
        self._adopt(spec)

    async def ready(self, name: str) -> None:
        """Returns when the child has once been ready."""
        await self._kept[name].once_ready.wait()

    def running(self) -> dict[str, int]:
        """Process ids of the children that run."""
        return {name: kept.child.pid for name, kept in self._kept.items() if kept.child is not None}

    async def stop(self, name: str, deadline: Deadline, reserve: float = 0.0) -> None:
        """Ends one child and keeps it no longer; killed when `deadline` (less `reserve` seconds) is over."""
        kept = self._kept.pop(name)
        kept.wanted = False
        child = kept.child
        try:
            if child is not None:
                code = await child.stop(deadline, reserve)
                log.info("child_stopped", child=name, pid=child.pid, how=describe(code))
        finally:
            kept.keeper.cancel()
        await asyncio.wait({kept.keeper})

    async def stop_all(self, deadline: Deadline, first: Iterable[str] = ()) -> None:
        """Ends those named in `first` one after the other, in that order, then the others together; one deadline for all."""
        names = [name for name in first if name in self._kept]
        others = [name for name in self._kept if name not in names]
        for behind, name in zip(range(len(names) - 1, -1, -1), names, strict=True):
            await self.stop(name, deadline, reserve=(behind + bool(others)) * _KILL_RESERVE_SECONDS)
        async with asyncio.TaskGroup() as tasks:
            for name in others:
                tasks.create_task(self.stop(name, deadline))

    def _adopt(self, spec: ChildSpec) -> _Kept:
        if spec.name in self._kept:
            raise ValueError(f"{spec.name} is kept already")
        kept = self._kept[spec.name] = _Kept(spec)
        kept.keeper = self._tasks.create_task(self._keep(kept), name=f"keep {spec.name}")
        return kept

    async def _keep(self, kept: _Kept) -> None:
        """One child's lives, one after the other, until it is stopped."""
        wait = 0.0
        clock = asyncio.get_running_loop().time
        while kept.wanted:
            began = clock()
            death = await self._live(kept)
            if kept.wanted:
                self._on_death(death)
                wait = back_off(wait, clock() - began, self._restarts)
                await asyncio.sleep(wait)

    async def _live(self, kept: _Kept) -> Death:
        """One life, from its start to its end."""
        child = kept.child = await Child.spawn(kept.spec)
        try:
            await self._on_spawn(child)
            try:
                await child.until_ready()
            except ChildFailed as problem:
                log.error("child_failed", child=child.name, pid=child.pid, error=str(problem))
                kept.settle(problem)
            else:
                log.info("child_ready", child=child.name, pid=child.pid)
                kept.settle(None)
                await child.wait()
        finally:
            if child.exit_code is None:
                await child.kill()
            kept.child = None
        death = Death(child.name, child.pid, child.exit_code or 0)
        if kept.wanted:
            log.warning("child_died", child=death.name, pid=death.pid, how=death.reason)
        return death


class _Kept:
    """A child to be kept, its present life and the task that keeps it."""

    keeper: asyncio.Task[None]

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.child: Child | None = None
        self.wanted = True
        self.once_ready = asyncio.Event()
        self.first: asyncio.Future[ChildFailed | None] = asyncio.get_running_loop().create_future()

    def settle(self, problem: ChildFailed | None) -> None:
        """Says how a start went."""
        if problem is None:
            self.once_ready.set()
        if not self.first.done():
            self.first.set_result(problem)
