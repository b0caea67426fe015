"""Runs one program in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from llmos.infra.simulation.loop import VirtualLoop

T = TypeVar("T")


def run(main: Callable[[], Coroutine[Any, Any, T]], seed: int | None = None) -> T:
    """The result of `main()` on a new virtual loop; `seed` chooses the schedule, None is first come, first served.

    Raises:
        Deadlock: everybody is blocked and no timer is set.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(seed)) as runner:
        return runner.run(main())
