"""An event loop in virtual time: when nothing is ready, time jumps to the next timer, so nothing ever waits.

The same program takes the same steps in every run. With a seed the callbacks that are ready together run in an order
drawn from it, so that every seed is another schedule. Real input and output is not for this loop: while all wait for a
socket it sees a deadlock. What is given to an executor runs at once, in the loop's own thread.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")

_RESOLUTION_SECONDS = 1e-6
"""Timers this near to each other fire together; well above what a float can tell apart after years of virtual time."""


class Deadlock(BaseException):
    """Everybody is blocked and no timer is set; the text names every task and where it waits.

    Like a cancellation, no handler of errors should catch it.
    """


class _Selector(selectors.BaseSelector):
    """Never blocks: it lets the loop's time pass instead."""

    def __init__(self) -> None:
        self._real = selectors.SelectSelector()
        self.loop: VirtualLoop | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready now; `timeout` seconds pass, None means that nothing will ever happen."""
        ready = self._real.select(0)
        if self.loop is not None and not ready:
            self.loop._pass(timeout)
        return ready

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """As any selector."""
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """As any selector."""
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """As any selector."""
        return self._real.modify(fileobj, events, data)

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """As any selector."""
        return self._real.get_key(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """As any selector."""
        return self._real.get_map()

    def close(self) -> None:
        """As any selector."""
        self._real.close()


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, with its time and its waiting replaced."""

    _ready: Any
    """asyncio's queue of callbacks that are ready; this is the one place where their order can be changed."""

    def __init__(self, seed: int | None = None) -> None:
        """`seed`: shuffles what is ready together; None: first come, first served."""
        self._virtual = 0.0
        self._random = None if seed is None else Random(seed)
        selector = _Selector()
        super().__init__(selector)
        self._clock_resolution = _RESOLUTION_SECONDS
        selector.loop = self

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual

    def _pass(self, timeout: float | None) -> None:
        """Called once per turn, before the callbacks that are ready run."""
        if timeout is None:
            raise Deadlock(self._blocked())
        if timeout > 0:
            self._virtual += timeout
        elif self._random is not None and len(self._ready) > 1:
            ready = list(self._ready)
            self._random.shuffle(ready)
            self._ready.clear()
            self._ready.extend(ready)

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Runs it now: threads would make time and order depend on the machine."""
        future: asyncio.Future[T] = self.create_future()
        try:
            result = func(*args)
        except Exception as error:  # noqa: BLE001  it is for the caller, who awaits the future
            future.set_exception(error)
        else:
            future.set_result(result)
        return future

    def _blocked(self) -> str:
        lines = [f"at {self._virtual:.6f} s every task is blocked and no timer is set:"]
        for task in sorted(asyncio.all_tasks(self), key=lambda task: task.get_name()):
            lines.append(f"  {task.get_name()}: {task.get_coro()!r}")
            for frame in task.get_stack():
                lines.append(f"    {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}")
        return "\n".join(lines)
