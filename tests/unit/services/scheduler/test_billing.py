"""What was heard of attempts that have no outcome goes into the verdict that ends their job."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.schemas.control import Cancel
from llmos.schemas.errors import ModelUnavailable
from llmos.schemas.ids import job_id
from llmos.schemas.job import ErrorInfo, Task, Usage
from llmos.schemas.partials import Spent, Verdict
from llmos.schemas.telemetry import Progress, TaskFailed, TasksStopped
from llmos.services.scheduler.job_desk import RETRY_SECONDS
from tests.kit.bench import NOW
from tests.unit.services.scheduler.making import Office, attempt


@pytest.fixture
async def office() -> Office:
    return Office()


def used(part: int, tokens_in: int, tokens_out: int = 0, number: int = 1, s: int = 0) -> Progress:
    """What an attempt has used."""
    return Progress(Task(0, s, part, attempt(number)), tokens_in, tokens_out, tokens_out / 8)


def usage(tokens_in: int, tokens_out: int = 0) -> Usage:
    """The same, as a verdict says it."""
    return Usage(tokens_in=tokens_in, tokens_out=tokens_out, device_seconds=tokens_out / 8)


def cancel(office: Office) -> None:
    """Somebody cancels the first job."""
    office.desk.cancel(Cancel(tenant="demo", job_id=job_id("demo", "k0"), at=NOW + 1000), office.clock.at)


def fail(office: Office, number: int, said: Usage) -> None:
    """The attempt broke."""
    error = ErrorInfo(code=ModelUnavailable.code, message="no", retryable=True)
    named = Task(0, 0, 0, attempt(number))
    office.desk.failed(TaskFailed(device="d", incarnation=3, task=named, error=error, usage=said), office.clock.at)


async def spent(office: Office) -> list[Spent]:
    """What the one verdict says."""
    (verdict,) = [message for message in await office.sent("partials") if isinstance(message, Verdict)]
    found: list[Spent] = verdict.spent
    return found


def begin(office: Office, parts: int = 1, **fields: Any) -> None:
    """The parts are at work on `d`."""
    office.submit(parts=parts, **fields)
    office.beat(slots=8)
    office.take_turn()
    assert office.states() == " ".join(["dispatched"] * parts)


async def test_what_heartbeats_said_last_counts(office: Office) -> None:
    """Of each part that was begun; a verdict does not wait for anybody's last word."""
    begin(office, parts=3)
    office.beat(progress=[used(0, 5), used(1, 7, 1)])
    office.beat(progress=[used(0, 5, 16)])
    cancel(office)
    assert await spent(office) == [
        Spent(part=0, epoch=attempt(1), devices=["d"], usage=usage(5, 16)),
        Spent(part=1, epoch=attempt(1), devices=["d"], usage=usage(7, 1)),
        Spent(part=2, epoch=attempt(1), devices=["d"]),
    ]


async def test_an_expired_job_counts_alike(office: Office) -> None:
    """With the worker's last word, where it came in time."""
    begin(office, timeout=10.0)
    office.beat(progress=[used(0, 5, 8)])
    office.desk.stopped(TasksStopped(device="d", incarnation=3, used=[used(0, 5, 12), used(0, 9, s=77)]))
    office.take_turn(10.0)
    assert await spent(office) == [Spent(part=0, epoch=attempt(1), devices=["d"], usage=usage(5, 12))]


async def test_parts_with_an_outcome_are_left_to_it(office: Office) -> None:
    """It lies on `partials` before the verdict."""
    begin(office, parts=2)
    office.beat(progress=[used(0, 5, 8), used(1, 5, 8)])
    office.finish(office.task(part=1))
    cancel(office)
    assert [entry.part for entry in await spent(office)] == [0]


async def test_a_job_that_nobody_began_spent_nothing(office: Office) -> None:
    """It waited."""
    office.submit()
    cancel(office)
    assert await spent(office) == []


@pytest.mark.parametrize("end", ["broke", "died"])
async def test_an_attempt_that_failed_counts_until_the_next_has_used_something(office: Office, end: str) -> None:
    """What it said when it broke, or what was heard of it before its worker died; where it ran, and where the next one was."""
    begin(office)
    office.beat(progress=[used(0, 5, 8)])
    office.beat("e")
    if end == "broke":
        fail(office, 1, usage(5, 9))
    else:
        office.die()
    office.take_turn(RETRY_SECONDS * 1.1)
    task = office.task()
    assert (task.device, task.epoch) == ("e", attempt(2))
    office.beat("e", progress=[])
    cancel(office)
    known = usage(5, 9 if end == "broke" else 8)
    assert await spent(office) == [Spent(part=0, epoch=attempt(2), devices=["d", "e"], usage=known)]


async def test_the_attempt_that_ran_last_counts(office: Office) -> None:
    """Not those before it, whatever is still heard of them."""
    begin(office)
    fail(office, 1, usage(5, 80))
    office.take_turn(RETRY_SECONDS * 1.1)
    office.beat(progress=[used(0, 5, 4, number=2)])
    office.desk.stopped(TasksStopped(device="d", incarnation=3, used=[used(0, 5, 99, number=1)]))
    cancel(office)
    assert await spent(office) == [Spent(part=0, epoch=attempt(2), devices=["d"], usage=usage(5, 4))]


async def test_a_new_scheduler_hears_it_again(office: Office) -> None:
    """Every heartbeat says all of it: a job that was live before the start counts as the next one says."""
    office.submit(restored=True)
    named = Task(0, 0, 0, attempt(4, term=3))
    office.beat(queued=[], running=[named], progress=[Progress(named, 5, 8, 1.0)])
    cancel(office)
    assert await spent(office) == [Spent(part=0, epoch=named.epoch, devices=["d"], usage=usage(5, 8))]
