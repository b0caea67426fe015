"""Live jobs: who waits in which order, what ripens, what expires, and that nothing is left behind."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.pipelines.scheduling.snapshot import Group
from llmos.schemas.states import TASK
from llmos.services.scheduler.jobs import Jobs, LiveJob, LiveTask
from tests.kit.bench import NOW, head
from tests.unit.services.scheduler.making import job_of

ECHO = Group("echo", "", tenant="demo", level=15)
"""Standard lane, the default priority."""


def add(jobs: Jobs, s: int, parts: int = 1, deadline: float = NOW + 100, **fields: Any) -> LiveJob:
    """A live job whose tasks wait."""
    message = job_of(head(fields.pop("key", f"k{s}"), s, **fields), parts)
    job = LiveJob(0, s, message.head, deadline)
    jobs.add(job, message.parts)
    for task in job.tasks:
        jobs.wait(task)
    return job


def order(jobs: Jobs) -> dict[Group, list[tuple[int, int]]]:
    """(s, part) of what waits, by group."""
    return {group: [(key.s, key.part) for key in keys] for group, keys in jobs.waiting()}


def test_groups_wait_each_in_order() -> None:
    """Kind, model, tenant, lane and priority make the group; within it the due time and arrival decide, not the order of
    coming."""
    jobs = Jobs()
    add(jobs, 1, parts=2)
    add(jobs, 2, priority=9)
    add(jobs, 3, lane="interactive")
    add(jobs, 4, deadline=NOW + 50)
    add(jobs, 5, kind="generate", model="m")
    add(jobs, 6, tenant="acme")
    assert order(jobs) == {
        ECHO: [(4, 0), (1, 0), (1, 1)],
        ECHO._replace(level=10): [(2, 0)],
        ECHO._replace(level=5): [(3, 0)],
        ECHO._replace(kind="generate", model="m"): [(5, 0)],
        ECHO._replace(tenant="acme"): [(6, 0)],
    }


def test_waiting_twice_is_waiting_once() -> None:
    """A task is in its list at most once, and leaves it once."""
    jobs = Jobs()
    (task,) = add(jobs, 1).tasks
    jobs.wait(task)
    assert order(jobs) == {ECHO: [(1, 0)]}
    jobs.leave(task)
    jobs.leave(task)
    assert (order(jobs), task.queued) == ({}, False)


def test_a_job_that_is_removed_leaves_nothing() -> None:
    """Tasks, names, lists and ids are gone; others of the same key stay."""
    jobs = Jobs()
    first, second = add(jobs, 1, parts=2, key="k"), add(jobs, 2, key="k")
    assert jobs.with_id(first.head.job_id) == [first, second]
    assert jobs.remove(0, 1) is first
    assert jobs.remove(0, 1) is None
    assert jobs.with_id(first.head.job_id) == [second]
    assert [jobs.task((0, 1, part)) for part in (0, 1)] == [None, None]
    assert order(jobs) == {ECHO: [(2, 0)]}
    jobs.remove(0, 2)
    assert (jobs.with_id(first.head.job_id), jobs.live) == ([], {})


def test_later_ripens_in_time() -> None:
    """Tasks wait from their time on, in order of time; those that ended or went meanwhile do not."""
    jobs = Jobs()
    tasks = [add(jobs, s).tasks[0] for s in range(4)]
    for task, at in zip(tasks, (5.0, 3.0, 4.0, 1.0), strict=True):
        jobs.leave(task)
        jobs.later(task, NOW + at)
    jobs.end(tasks[2])
    tasks[3].become("dispatched")
    assert jobs.next_time() == NOW + 1.0
    jobs.ripe(NOW + 2.9)
    assert order(jobs) == {}
    jobs.ripe(NOW + 4.5)
    assert order(jobs) == {ECHO: [(1, 0)]}
    jobs.ripe(NOW + 5.0)
    assert order(jobs) == {ECHO: [(0, 0), (1, 0)]}
    assert jobs.next_time() == NOW + 100


def test_what_ripens_after_its_job_is_gone_is_forgotten() -> None:
    """A receipt may come while a task waits for its next attempt."""
    jobs = Jobs()
    (task,) = add(jobs, 1).tasks
    jobs.leave(task)
    jobs.later(task, NOW + 1)
    jobs.remove(0, 1)
    jobs.ripe(NOW + 2)
    assert order(jobs) == {}


def test_deadlines_pass_once() -> None:
    """At the deadline, not before; a job with a verdict or an answer does not expire."""
    jobs = Jobs()
    for s, at in ((1, 30.0), (2, 10.0), (3, 20.0), (4, 10.0)):
        add(jobs, s, deadline=NOW + at)
    jobs.live[0, 3].verdict = "cancelled"
    jobs.remove(0, 4)
    assert jobs.next_time() == NOW + 10
    assert jobs.expired(NOW + 9.9) == []
    assert [job.s for job in jobs.expired(NOW + 10)] == [2]
    assert [job.s for job in jobs.expired(NOW + 25)] == []
    assert [job.s for job in jobs.expired(NOW + 99)] == [1]
    assert jobs.next_time() is None


def test_a_refusal_never_expires() -> None:
    """It has no parts and waits for its receipt only."""
    jobs = Jobs()
    jobs.add(LiveJob(0, 1, head(), NOW + 1), [])
    assert (jobs.next_time(), jobs.expired(NOW + 99)) == (None, [])


def test_a_task_is_put_into_another_group() -> None:
    """Where it waits it keeps its place in the order, and leaves nothing in its old group; at work it may not."""
    jobs = Jobs()
    (task,), _, (other,) = (add(jobs, s).tasks for s in (1, 2, 3))
    alone = task.group._replace(alone=True)
    jobs.regroup(other, alone)
    jobs.regroup(task, alone)
    assert order(jobs) == {ECHO: [(2, 0)], alone: [(1, 0), (3, 0)]}
    assert jobs.waiting_by_lane["standard"] == 3
    jobs.leave(task)
    jobs.regroup(task, ECHO)
    assert order(jobs) == {ECHO: [(2, 0)], alone: [(3, 0)]}
    task.become("dispatched")
    with pytest.raises(AssertionError):
        jobs.regroup(task, alone)


@pytest.mark.parametrize("before", TASK)
def test_states_change_as_their_table_allows(before: Any) -> None:
    """Every other change is a mistake in the scheduler and says so."""
    (task,) = add(Jobs(), 1).tasks
    for after in TASK:
        task.state = before
        if after in (*TASK[before], before):
            task.become(after)
            assert task.state == after
        else:
            with pytest.raises(AssertionError, match=f"from {before} to {after}"):
                task.become(after)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["wait", "leave", "end", "remove", "later", "ripe"]))))
def test_the_lists_are_those_who_wait(steps: list[tuple[int, str]]) -> None:
    """Whatever happens to tasks, the lists hold exactly those that say they are queued, sorted, and no empty list stays."""
    jobs = Jobs()
    tasks: dict[int, LiveTask] = {s: add(jobs, s, priority=s % 3).tasks[0] for s in range(6)}
    for s, step in steps:
        task = tasks[s]
        if step == "remove":
            jobs.remove(0, s)
        elif (0, s) not in jobs.live:
            continue
        elif step == "wait" and task.state == "waiting":
            jobs.wait(task)
        elif step == "leave":
            jobs.leave(task)
        elif step == "later":
            jobs.later(task, NOW + s)
        elif step == "ripe":
            jobs.ripe(NOW + s)
        elif step == "end":
            jobs.end(task)
        for _, keys in jobs.waiting():
            assert keys == sorted(keys)
            assert keys
        listed = [key.s for _, keys in jobs.waiting() for key in keys]
        assert sorted(listed) == [s for s, task in tasks.items() if task.queued]
        assert all(tasks[s].state == "waiting" and (0, s) in jobs.live for s in listed)
