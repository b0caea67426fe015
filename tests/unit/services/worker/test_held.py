"""The tasks a worker has, and what its heartbeats list."""

from __future__ import annotations

import asyncio

from llmos.schemas.job import Task
from llmos.services.worker.held import LISTED_DONE, HeldTasks
from tests.kit.bench import NOW
from tests.unit.services.worker.making import held_task


async def test_lists() -> None:
    """Queued, running and done lately; what left without an outcome is in none of them."""
    tasks = HeldTasks(done_seconds=60.0)
    first, second, third = (held_task(s) for s in range(3))
    for task in (first, second, third):
        tasks.take(task)
    second.running = True
    assert tasks.drop(third.name) is third
    tasks.done([Task(0, 9, 0, 1)], NOW)
    assert tasks.lists(NOW) == ([first.work.task], [second.work.task], [Task(0, 9, 0, 1)])
    assert (len(tasks), list(tasks), tasks.get(third.name)) == (2, [first, second], None)


async def test_done_tasks_are_listed_for_a_while() -> None:
    """As long as the settings say, by their own times."""
    tasks = HeldTasks(done_seconds=60.0)
    tasks.done([Task(0, 1, 0, 1)], NOW)
    tasks.done([Task(0, 2, 0, 1)], NOW + 30)
    assert [task.s for task in tasks.lists(NOW + 60)[2]] == [1, 2]
    assert [task.s for task in tasks.lists(NOW + 61)[2]] == [2]
    assert tasks.lists(NOW + 91)[2] == []


async def test_a_heartbeat_stays_small() -> None:
    """Of very many done tasks only the latest are listed."""
    tasks = HeldTasks(done_seconds=60.0)
    tasks.done([Task(0, s, 0, 1) for s in range(LISTED_DONE + 5)], NOW)
    listed = tasks.lists(NOW)[2]
    assert (len(listed), listed[0].s, listed[-1].s) == (LISTED_DONE, 5, LISTED_DONE + 4)


async def test_emptied_waits_for_the_last_task() -> None:
    """At once when nothing is held, else when the last one leaves."""
    tasks = HeldTasks(done_seconds=60.0)
    await tasks.emptied()
    for s in (0, 1):
        tasks.take(held_task(s))
    waiting = asyncio.create_task(tasks.emptied())
    tasks.drop((0, 0, 0, 1))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert tasks.drop((0, 7, 0, 1)) is None
    assert tasks.drop((0, 1, 0, 2)) is None, "another attempt"
    assert not waiting.done()
    tasks.drop((0, 1, 0, 1))
    await waiting
