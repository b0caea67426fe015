"""The virtual loop's time as wall time."""

from __future__ import annotations

import asyncio

EPOCH = 1_700_000_000.0
"""When virtual time begins, in Unix seconds (November 2023)."""


class VirtualClock:
    """The port's `Clock`, on a loop whose time begins at 0."""

    def __init__(self, loop: asyncio.AbstractEventLoop, epoch: float = EPOCH) -> None:
        self._loop = loop
        self._epoch = epoch

    def now(self) -> float:
        """Unix seconds."""
        return self._epoch + self._loop.time()
