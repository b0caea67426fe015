"""Devices that hang, are fenced, wake, drain and begin anew; which tasks that speaks against."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.schemas.control import Drain, Fence
from llmos.schemas.errors import UnknownDevice
from llmos.schemas.job import Task
from llmos.services.scheduler import drains
from tests.kit.bench import NOW, configured
from tests.unit.services.scheduler.making import Office, attempt

HUNG: dict[str, Any] = {"step_seconds": 2.0, "step_limit_seconds": 1.5}


@pytest.fixture
async def office() -> Office:
    return Office(configured(scheduler={"heartbeat_timeout_seconds": 2.5, "dispatch_grace_seconds": 1e9}))


def at_work(office: Office, *several: int, device: str = "d") -> list[Any]:
    """Tasks at work on a device with room for them."""
    for s in several:
        office.submit(s, timeout=1e4)
    office.beat(device, slots=8)
    office.take_turn()
    tasks = [office.task(s) for s in several]
    assert {task.device for task in tasks} == {device}
    return tasks


# --- hangs ---


async def test_a_hung_step_is_found_and_fenced(office: Office) -> None:
    """Its heart beats, its step stands: its tasks go elsewhere at once under a new epoch, and the worker is fenced."""
    (task,) = at_work(office, 0)
    office.beat(running=[office.named(task)], queued=[], **HUNG)
    office.beat("e")
    office.take_turn(0.6)
    assert (task.device, task.epoch, task.deaths, office.desk.fleet.get("d")) == ("e", attempt(2), 1, None)
    (fence,) = await office.sent("control")
    assert isinstance(fence, Fence)
    assert (fence.device, fence.node, fence.incarnation, fence.pid, fence.at) == ("d", "n", 3, 11, office.clock.at)
    moved = [state for state in await office.sent("stream") if state.state == "moved"]
    assert [(state.device, state.epoch) for state in moved] == [("d", attempt(1))]
    assert "a step runs for 2.0 s" in moved[0].detail


async def test_a_hang_speaks_against_what_ran_in_it(office: Office) -> None:
    """Tasks that waited on the device lose their place, and nothing else; with none running all are suspects."""
    running, queued = at_work(office, 0, 1)
    office.beat(running=[office.named(running)], queued=[office.named(queued)], **HUNG)
    office.take_turn(0.6)
    assert (running.deaths, queued.deaths) == (1, 0)

    other = Office(configured(scheduler={"heartbeat_timeout_seconds": 2.5}))
    tasks = at_work(other, 0, 1)
    other.beat(running=[], **HUNG)
    other.take_turn(0.6)
    assert [task.deaths for task in tasks] == [1, 1], "a load that hangs"


async def test_a_task_that_hangs_workers_ends_at_the_third(office: Office) -> None:
    """Its neighbours hang with it once or twice, then each runs alone: the one to blame ends, the others are done."""
    tasks = at_work(office, 0, 1, 2)
    culprit = tasks[1]
    life = 3
    for _ in range(8):
        here = [task for task in tasks if task.state == "dispatched"]
        if culprit in here:
            office.beat(incarnation=life, running=[office.named(task) for task in here], queued=[], **HUNG)
            life += 1
        else:
            for task in here:
                office.finish(task)
        office.take_turn(0.6)
        office.beat(incarnation=life, slots=8)
        office.take_turn(0.6)
    assert [task.state for task in tasks] == ["done", "ended", "done"]
    (outcome,) = await office.sent("partials")
    assert (outcome.task.s, outcome.items[0].error.code) == (1, "worker_deaths")
    assert max(task.deaths for task in tasks if task is not culprit) == 2


async def test_a_fenced_life_does_not_come_back(office: Office) -> None:
    """Its heartbeats are nothing, and it is told again, once a second; its next life takes work."""
    (task,) = at_work(office, 0)
    office.beat(running=[office.named(task)], queued=[], **HUNG)
    office.take_turn(0.6)
    assert len(await office.sent("control")) == 1
    for _ in range(5):
        office.clock.at += 0.5
        office.beat(running=[office.named(task)], queued=[])
    assert office.desk.fleet.get("d") is None
    assert [fence.incarnation for fence in await office.sent("control")] == [3, 3]
    office.die()
    assert task.deaths == 1, "that its node ended it speaks against no task"
    office.beat(incarnation=4)
    office.take_turn()
    assert (task.state, task.incarnation, task.deaths) == ("dispatched", 4, 1)


async def test_fences_outlive_the_scheduler(office: Office) -> None:
    """The next one has read them, and neither believes a life that was given up nor adopts its tasks."""
    office.submit(0, restored=True)
    office.desk.fences.restore(Fence(device="d", node="n", incarnation=3, pid=11, at=NOW))
    office.desk.fences.restore(Fence(device="d", node="n", incarnation=2, pid=10, at=NOW))
    office.beat(queued=[Task(0, 0, 0, attempt(1, term=5))])
    assert (office.states(), office.desk.fleet.get("d")) == ("waiting", None)
    assert [fence.incarnation for fence in await office.sent("control")] == [3]


async def test_a_log_that_is_silent_is_no_silent_worker(office: Office) -> None:
    """While the scheduler does not hear its own word either nobody is lost; once it does, who is still silent is."""
    (task,) = at_work(office, 0)
    for _ in range(12):
        office.clock.at += 0.5
        office.turn.take(office.clock.at)
    assert (office.states(), await office.sent("control")) == ("dispatched", [])
    office.desk.own_word(NOW + 0.4)
    office.turn.take(office.clock.at + 0.5)
    assert office.states() == "dispatched", "a word of before its next heartbeat was due shows nothing"
    office.take_turn(1.0)
    assert (task.state, task.deaths) == ("retrying", 0)


async def test_silence_that_a_kill_confirms_speaks_against_what_ran(office: Office) -> None:
    """Its node had to kill the silent worker: a task that silences workers ends at the third; another process is another."""
    (task,) = at_work(office, 0)
    office.beat(running=[office.named(task)], queued=[])
    for _ in range(12):
        office.take_turn(0.5)
    assert (task.state, task.deaths) == ("retrying", 0)
    office.die(pid=12)
    assert task.deaths == 0
    office.die()
    office.die()
    assert task.deaths == 1, "once, however often it is told"


# --- drains ---


async def test_a_drain_lasts_until_it_is_undone(office: Office) -> None:
    """What is there is finished; the reply says how much that is."""
    at_work(office, 0, 1)
    assert office.drain() == 2
    office.submit(2, timeout=1e4)
    office.take_turn()
    assert (office.states(0), office.states(2)) == ("dispatched", "waiting")
    assert office.drain(undo=True) == 2
    office.take_turn()
    assert office.states(2) == "dispatched"


async def test_a_life_that_begins_after_the_drain_was_over_takes_work(office: Office) -> None:
    """So a rolling restart needs no second word; it is said on `control`, for the next scheduler."""
    (task,) = at_work(office, 0)
    office.drain()
    office.finish(task)
    office.take_turn(0.6)
    office.die(signal=0)
    office.beat(incarnation=4)
    office.submit(1)
    office.take_turn()
    assert office.states(1) == "dispatched"
    assert await office.sent("control") == [Drain(device="d", at=office.clock.at, undo=True)]


async def test_a_life_that_begins_in_the_middle_of_a_drain_is_drained(office: Office) -> None:
    """The worker crashed before it had finished: what it left goes elsewhere, and the device stays out."""
    at_work(office, 0)
    office.drain()
    office.take_turn(0.6)
    office.die()
    office.beat(incarnation=4)
    office.beat("e")
    office.take_turn()
    assert (office.task().device, office.task().deaths) == ("e", 0)
    assert office.desk.fleet.get("d").draining  # type: ignore[union-attr]


async def test_a_drain_of_before_the_start_holds(office: Office) -> None:
    """The last word per device counts, whether it was heard of yet or not."""
    for message in (Drain(device="d", at=1.0), Drain(device="e", at=1.0), Drain(device="e", at=2.0, undo=True)):
        office.desk.drain(message, restored=True)
    office.submit()
    office.beat("d")
    office.take_turn()
    assert office.states() == "waiting"
    office.beat("e")
    office.take_turn()
    assert office.task().device == "e"


async def test_a_drain_of_nobody_is_refused(office: Office) -> None:
    """And taken back on the log, so that the next scheduler does not believe it."""
    with pytest.raises(UnknownDevice):
        office.drain("nobody")
    assert await office.sent("control") == [Drain(device="nobody", at=NOW, undo=True)]
    with pytest.raises(UnknownDevice):
        office.drain("nobody", undo=True)
    assert await office.sent("control") == []


async def test_an_old_drain_is_said_again(office: Office) -> None:
    """Before `control` forgets it."""
    office.beat()
    office.drain()
    office.clock.at += drains.SAY_AGAIN_SECONDS + 1
    for _ in range(3):
        office.beat()
        office.desk.lose_silent(office.clock.at)
    assert await office.sent("control") == [Drain(device="d", at=office.clock.at)]


# --- windows ---


async def test_a_new_life_begins_with_the_windows_of_the_last(office: Office) -> None:
    """Also with those that an earlier scheduler wrote down."""
    office.desk.windows = {"d": {"": 7.0}}
    office.beat(slots=2)
    device = office.desk.fleet.get("d")
    assert device is not None
    assert device.windows()[""] == 7.0
    office.die()
    assert office.desk.windows["d"] == device.windows()
