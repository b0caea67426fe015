"""Runs a service's main loop with helpers beside it: every task owned, the first failure is the service's failure."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def run_beside(main: Coroutine[Any, Any, None], *helpers: Coroutine[Any, Any, None]) -> None:
    """Runs `main`; `helpers` run as long as it does and are cancelled when it returns.

    Raises what failed first, as it is (not as a group): callers sort errors by type.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(helper) for helper in helpers]
            await tasks.create_task(main)
            for task in running:
                task.cancel()
    except BaseExceptionGroup as group:
        raise first_of(group) from None


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first leaf of a group."""
    leaf: BaseException = group
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    return leaf
