"""Tasks whose workers fail, die, fall silent or start anew: retries, deaths, adoption, tasks that are missed."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.schemas.control import CancelTask
from llmos.schemas.epochs import Deaths
from llmos.schemas.errors import NeverFits
from llmos.schemas.job import ErrorInfo, Task
from llmos.schemas.partials import Outcome
from llmos.schemas.telemetry import TaskFailed, TasksDone
from llmos.services.scheduler.job_desk import RETRY_SECONDS
from tests.kit.bench import configured
from tests.unit.services.scheduler.making import Office, attempt


@pytest.fixture
async def office() -> Office:
    return Office(
        configured(
            scheduler={
                "heartbeat_timeout_seconds": 5.0, "dispatch_grace_seconds": 3.0, "adopt_seconds": 2.0, "attempts": 3,
            }
        )
    )  # fmt: skip


def dispatched(office: Office, s: int = 0, **fields: Any) -> Any:
    """A task at work on `d`."""
    head = office.submit(s, **fields)
    office.beat()
    office.take_turn()
    assert office.states(s) == " ".join(["dispatched"] * head.parts)
    return office.task(s)


# --- attempts that fail ---


async def test_a_failed_attempt_is_tried_again_later(office: Office) -> None:
    """After a pause that doubles, under the next epoch, and its listeners hear that it moved."""
    task = dispatched(office)
    office.fail(task, "out of memory")
    assert office.states() == "retrying"
    office.take_turn(RETRY_SECONDS * 0.9)
    assert office.states() == "retrying"
    office.take_turn(RETRY_SECONDS * 0.2)
    assert (office.states(), task.epoch) == ("dispatched", attempt(2))
    office.fail(task)
    office.take_turn(RETRY_SECONDS * 1.9)
    assert office.states() == "retrying"
    office.take_turn(RETRY_SECONDS * 0.2)
    assert (office.states(), task.epoch) == ("dispatched", attempt(3))
    states = [(state.state, state.epoch, state.detail) for state in await office.sent("stream")]
    assert ("moved", attempt(1), "out of memory") in states
    assert ("waiting", attempt(1), "the next attempt") in states


@pytest.mark.parametrize(("larger", "state"), [(200, "dispatched"), (100, "ended")])
async def test_what_never_fits_is_tried_on_a_larger_device(office: Office, larger: int, state: str) -> None:
    """However long that one is busy; where no device is larger, that is the outcome."""
    task = dispatched(office, kind="generate", model="m")
    assert task.device == "d"
    office.beat("e", budget_bytes=larger, models=["m"], slots=0)
    office.fail(task, "it needs more", NeverFits.code)
    for _ in range(30):
        office.beat()
        office.beat("e", budget_bytes=larger, models=["m"], slots=0)
        office.take_turn(1.0)
    if state == "ended":
        (outcome,) = await office.sent("partials")
        assert [item.error.code for item in outcome.items] == ["never_fits"]
        return
    assert (office.states(), task.group.avoid) == ("retrying", "d")
    office.beat("e", budget_bytes=larger, models=["m"], slots=1)
    office.take_turn(1.0)
    assert (office.states(), task.device) == (state, "e")


async def test_attempts_end(office: Office) -> None:
    """After the last attempt the part ends with an outcome that carries an error for each of its items."""
    task = dispatched(office, items=2)
    for _ in range(3):
        office.fail(task, "broken")
        office.take_turn(1.0)
    (outcome,) = await office.sent("partials")
    assert isinstance(outcome, Outcome)
    assert outcome.task == Task(0, 0, 0, attempt(3))
    assert [item.output_index for item in outcome.items] == [0, 1]
    (error,) = {item.error for item in outcome.items}
    assert error is not None
    assert (error.code, error.retryable) == ("attempts_exhausted", True)
    assert "3 attempts failed, the last one with: broken" in error.message
    office.take_turn(100.0)
    assert (office.states(), len(await office.sent("work.d"))) == ("ended", 3)


async def test_one_part_that_gives_up_leaves_the_others(office: Office) -> None:
    """Its outcome goes the way of all outcomes; the job is not over."""
    task = dispatched(office, parts=2)
    for _ in range(3):
        office.fail(task)
        office.take_turn(1.0)
    assert office.states() == "ended dispatched"
    assert office.desk.jobs.live[0, 0].verdict == ""
    assert await office.sent("control") == []


async def test_a_late_word_of_a_part_that_gave_up_stops_no_other(office: Office) -> None:
    """A heartbeat written before the last failure still lists the part: its siblings at work must go on."""
    task = dispatched(office, parts=2)
    listed = [office.named(task), office.named(office.task(part=1))]
    for _ in range(3):
        office.fail(task)
        office.take_turn(1.0)
    office.beat(queued=listed)
    assert (office.states(), await office.sent("control")) == ("ended dispatched", [])


@pytest.mark.parametrize("epoch", [attempt(1, term=6), attempt(2), attempt(0)])
async def test_a_word_about_another_attempt_is_nothing(office: Office, epoch: int) -> None:
    """Failures are told per attempt: only that of the present one counts."""
    task = dispatched(office)
    error = ErrorInfo(code="x", message="x")
    for named in (Task(*task.name, epoch), Task(0, 9, 0, task.epoch)):
        message = TaskFailed(device="d", incarnation=3, task=named, error=error)
        office.desk.failed(message, office.clock.at)
    assert office.states() == "dispatched"


async def test_an_outcome_of_any_attempt_counts(office: Office) -> None:
    """An attempt that was given up succeeds after all: nothing is tried again."""
    task = dispatched(office)
    first = office.named(task)
    office.fail(task)
    office.desk.done(TasksDone(device="d", incarnation=3, tasks=[first]))
    office.take_turn(10.0)
    assert office.states() == "done"
    assert len(await office.sent("work.d")) == 1
    office.desk.done(TasksDone(device="d", incarnation=3, tasks=[first, Task(0, 99, 0, 1)]))
    assert office.states() == "done"


# --- failures that the input itself may cause ---


@pytest.mark.parametrize("code", ["engine_failed", "device_out_of_memory", "not_finite"])
async def test_a_fault_is_tried_once_elsewhere(office: Office, code: str) -> None:
    """On another device, though the one that failed it has room; the second fault is the outcome, as it is."""
    task = dispatched(office)
    office.beat("e")
    office.fail(task, "no", code)
    office.beat()
    office.take_turn(RETRY_SECONDS)
    assert (office.states(), task.device, task.group.avoid) == ("dispatched", "e", "d")
    office.fail(task, "not here either", code)
    (outcome,) = await office.sent("partials")
    (item,) = outcome.items
    assert (office.states(), item.error) == (
        "ended", ErrorInfo(code=code, message="not here either", retryable=True),
    )  # fmt: skip


async def test_a_fault_is_tried_again_on_the_only_device(office: Office) -> None:
    """Where no other device may run the task: none is there, drains, has the model or the kind."""
    office.beat("e", kinds=["embed"])
    task = dispatched(office)
    office.fail(task, code="engine_failed")
    office.take_turn(RETRY_SECONDS)
    assert (office.states(), task.device, task.group.avoid) == ("dispatched", "d", "")


@pytest.mark.parametrize("end", ["lost", "full"])
async def test_a_task_comes_back_to_a_device_it_avoids(office: Office, end: str) -> None:
    """When the other one is gone, or when that had no room for long."""
    task = dispatched(office, kind="generate", model="m")
    office.beat("e")
    for s in range(1, 30):
        office.submit(s, kind="generate", model="m")
    office.take_turn()
    office.fail(task, code="engine_failed")
    if end == "lost":
        office.die("e")
        office.take_turn(0.6)
    for _ in range(24 if end == "full" else 0):
        for device in "de":
            office.beat(device)
        office.take_turn(0.5)
        if office.clock.at < task.avoid_until:
            assert (office.states(), task.group.avoid) == ("retrying", "d")
    assert task.group.avoid == ""


# --- workers that die ---


async def test_deaths_are_counted_and_end_the_task(office: Office) -> None:
    """After the second death it runs alone, after the third it ends with a typed error; each death is written down."""
    task = dispatched(office)
    for life in (1, 2):
        office.die()
        assert (office.states(), task.deaths, task.group.alone) == ("retrying", life, life == 2)
        office.beat(incarnation=3 + life)
        office.take_turn()
        assert (office.states(), task.incarnation) == ("dispatched", 3 + life)
    office.submit(1)
    office.take_turn()
    assert office.states(1) == "waiting", "nobody joins a suspect"
    office.die()
    assert office.states() == "ended"
    (outcome,) = await office.sent("partials")
    (item,) = outcome.items
    assert (item.error.code, item.error.retryable) == ("worker_deaths", False)
    assert "3 workers died" in item.error.message
    deaths = await office.sent("epochs")
    assert deaths == [Deaths(partition=0, s=0, part=0, deaths=count) for count in (1, 2, 3)]
    office.beat(incarnation=9)
    office.take_turn()
    assert office.states(1) == "dispatched"


async def test_a_suspects_count_survives_a_new_scheduler(office: Office) -> None:
    """Deaths restored from `epochs` put the task alone from its first attempt on."""
    office.desk.deaths.restore("deaths:0:0:0", Deaths(partition=0, s=0, part=0, deaths=2))
    task = dispatched(office)
    assert (task.deaths, task.group.alone) == (2, True)
    office.die()
    assert (office.states(), (await office.sent("partials"))[0].items[0].error.code) == ("ended", "worker_deaths")


async def test_counts_end_with_the_job(office: Office) -> None:
    """The receipt tombstones them."""
    dispatched(office)
    head = office.desk.jobs.live[0, 0].head
    office.die()
    office.receive(head)
    assert [record.deaths if record else None for record in await office.sent("epochs")] == [1, None]


@pytest.mark.parametrize("pid", [11, 12])
async def test_only_the_death_of_the_present_worker_counts(office: Office, pid: int) -> None:
    """A node's word about an earlier process of the device is nothing."""
    dispatched(office)
    office.die(pid=pid)
    office.die("unknown")
    assert office.states() == ("retrying" if pid == 11 else "dispatched")


@pytest.mark.parametrize(("draining", "signal"), [(True, 9), (False, 0), (True, 0)])
async def test_an_orderly_end_is_no_death(office: Office, draining: bool, signal: int) -> None:
    """What a draining worker or one that ended by itself left goes on elsewhere, and nobody suspects the task."""
    task = dispatched(office)
    office.beat(draining=draining)
    office.die(signal=signal)
    assert (office.states(), task.deaths, await office.sent("epochs")) == ("retrying", 0, [])


async def test_a_new_incarnation_is_a_death_of_the_old(office: Office) -> None:
    """Without any word of the node: its tasks go again, at once."""
    task = dispatched(office)
    office.beat(incarnation=4, queued=[])
    office.take_turn()
    assert (office.states(), task.deaths, task.incarnation, task.epoch) == ("dispatched", 1, 4, attempt(2))
    office.beat(incarnation=3, queued=[])
    assert office.desk.fleet.get("d").incarnation == 4, "a zombie's heartbeat is nothing"  # type: ignore[union-attr]


async def test_a_silent_worker_is_lost(office: Office) -> None:
    """After the time-out its tasks go elsewhere, while it is heard of they do not; silence speaks against no task."""
    task = dispatched(office)
    for _ in range(3):
        office.beat("e")
        office.take_turn(1.6)
    assert (office.states(), task.device) == ("dispatched", "d")
    office.beat("e")
    office.take_turn(0.6)
    assert (task.device, task.deaths, office.desk.fleet.get("d")) == ("e", 0, None)
    assert [work.task.epoch for work in await office.sent("work.e")] == [attempt(2)]
    (fence,) = await office.sent("control")
    assert (fence.device, fence.node, fence.incarnation, fence.pid) == ("d", "n", 3, 11)
    assert "silent" in fence.reason


# --- tasks that are not listed, and tasks that are found ---


async def test_a_task_that_no_heartbeat_lists_goes_again(office: Office) -> None:
    """After the grace; a work record may have been lost with the scheduler that sent it."""
    task = dispatched(office)
    office.clock.at += 3.0
    office.beat(queued=[])
    assert office.states() == "dispatched"
    office.clock.at += 0.1
    office.beat(queued=[])
    assert (office.states(), task.deaths) == ("retrying", 0)
    office.take_turn()
    assert (office.states(), task.epoch) == ("dispatched", attempt(2))


@pytest.mark.parametrize("where", ["queued", "running", "done"])
async def test_a_task_that_is_listed_stays(office: Office, where: str) -> None:
    """Wherever the worker has it, also under an earlier epoch; listed as done, it frees its place."""
    dispatched(office)
    office.clock.at += 100.0
    office.beat(**{"queued": [], where: [Task(0, 0, 0, attempt(1))]})
    assert office.states() == ("done" if where == "done" else "dispatched")


async def test_jobs_live_at_the_start_wait_for_a_round_of_heartbeats(office: Office) -> None:
    """They may be at work; new jobs do not wait, and unlisted ones go when the round is over."""
    office.submit(0, restored=True)
    office.submit(1)
    office.beat()
    office.take_turn(1.9)
    assert (office.states(0), office.states(1)) == ("waiting", "dispatched")
    office.take_turn(0.2)
    assert (office.states(0), office.task(0).epoch) == ("dispatched", attempt(1))


@pytest.mark.parametrize("where", ["queued", "running"])
async def test_a_listed_task_is_adopted(office: Office, where: str) -> None:
    """Under the epoch it has there; it fills the window and is not dispatched again; its failure counts."""
    office.submit(0, restored=True)
    there = Task(0, 0, 0, attempt(2, term=5))
    office.beat(**{"queued": [], where: [there]})
    task = office.task()
    assert (office.states(), task.device, task.epoch, task.incarnation) == ("dispatched", "d", there.epoch, 3)
    assert office.desk.fleet.get("d").view(office.clock.at).in_flight == {"echo": 1}  # type: ignore[union-attr]
    office.take_turn(2.5)
    assert await office.sent("work.d") == []
    office.fail(task)
    office.beat()
    office.take_turn(1.0)
    assert task.epoch == attempt(2) > there.epoch


async def test_a_task_done_before_the_start_is_not_done_again(office: Office) -> None:
    """A worker lists what it has finished lately: its outcome is on `partials`, and the receipt will come."""
    office.submit(0, restored=True)
    office.beat(queued=[], done=[Task(0, 0, 0, attempt(1, term=5))])
    office.take_turn(10.0)
    assert (office.states(), await office.sent("work.d")) == ("done", [])


async def test_only_what_was_live_at_the_start_is_adopted(office: Office) -> None:
    """A new job's work record cannot be anywhere yet; a task of a higher term is another scheduler's."""
    office.submit(0)
    office.submit(1, restored=True)
    office.beat(queued=[Task(0, 0, 0, attempt(1, term=5)), Task(0, 1, 0, attempt(1, term=8))])
    assert (office.states(0), office.states(1)) == ("waiting", "waiting")


async def test_workers_are_told_what_is_over(office: Office) -> None:
    """A listed task of an answered or ended submission is stopped; one that nobody knows yet is left alone."""
    office.submit(0, restored=True)
    office.desk.answered = lambda partition, s: s == 8
    office.beat(queued=[Task(0, 8, 0, 1), Task(0, 9, 0, 1)])
    assert await office.sent("control") == [CancelTask(partition=0, s=8)]
    office.take_turn(1000.0)
    await office.sent("control")
    office.beat(running=[Task(0, 0, 0, 1)], queued=[])
    assert (office.states(), await office.sent("control")) == ("ended", [CancelTask(partition=0, s=0)])
