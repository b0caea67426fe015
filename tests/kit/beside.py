"""Runs a coroutine that never ends beside a test's own steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def beside(forever: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Its error, if it has one, is raised; else it is cancelled at the end."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(forever)
        yield
        task.cancel()
