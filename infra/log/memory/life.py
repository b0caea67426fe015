"""The life of one client: its calls wait here, and end with it. It can be frozen (a zombie) and can crash."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

T = TypeVar("T")


class Crashed(BaseException):
    """The client's process died; like a cancellation, no handler of errors should catch it."""


class Life:
    """Whether a client lives, and the waits of its calls."""

    def __init__(self) -> None:
        self.crashed = False
        self._frozen = False
        self._waits: dict[asyncio.Future[Any], None] = {}
        """In order of arrival, as in `_thaws`: a set's order would differ from run to run."""
        self._thaws: dict[asyncio.Future[None], None] = {}

    async def gate(self) -> None:
        """Passes while the client lives; waits while it is frozen. Raises `Crashed`."""
        if self.crashed:
            raise Crashed
        while self._frozen:
            thaw: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._thaws[thaw] = None
            try:
                await self.wait(thaw)
            finally:
                self._thaws.pop(thaw, None)

    async def wait(self, future: asyncio.Future[T]) -> T:
        """The future's result. Raises `Crashed` when the client crashes meanwhile; the future fails with it, too."""
        if self.crashed:
            raise Crashed
        self._waits[future] = None
        try:
            return await future
        finally:
            self._waits.pop(future, None)

    async def sleep(self, seconds: float) -> None:
        """Waits, at least for one turn of the loop. Raises `Crashed`."""
        if seconds <= 0:
            await asyncio.sleep(0)
            await self.gate()
            return
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(seconds, _set, over)
        try:
            await self.wait(over)
        finally:
            timer.cancel()

    async def never(self) -> None:
        """Waits for ever. Raises `Crashed`."""
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self.wait(never)

    def freeze(self) -> None:
        """The process stops; what it asked for goes on without it."""
        self._frozen = True

    def thaw(self) -> None:
        """The process goes on as if nothing had happened."""
        self._frozen = False
        for thaw in list(self._thaws):
            _set(thaw)

    def crash(self) -> None:
        """The process is gone."""
        self.crashed = True
        for wait in list(self._waits):
            if not wait.done():
                wait.set_exception(Crashed())


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
