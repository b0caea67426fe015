"""Submissions and their ends: receipts, verdicts, repeated keys, cancels, expiry, drains."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.schemas.control import Cancel, CancelTask
from llmos.schemas.ids import job_id
from llmos.schemas.partials import Verdict
from tests.kit.bench import NOW, configured
from tests.unit.services.scheduler.making import Office, attempt

QUIET = "heartbeat_timeout_seconds"


@pytest.fixture
async def office() -> Office:
    return Office(configured(scheduler={QUIET: 1e9}))


def short(verdicts: list[Any]) -> list[tuple[int, str, str]]:
    """(s, verdict, code) of each."""
    assert all(isinstance(verdict, Verdict) for verdict in verdicts)
    return [(v.s, v.verdict, v.error.code if v.error else "") for v in verdicts]


def cancel(office: Office, key: str, at: float = NOW + 1, tenant: str = "demo") -> None:
    office.desk.cancel(Cancel(tenant=tenant, job_id=job_id("demo", key), at=at), office.clock.at)


async def test_a_submission_is_dispatched_and_ends_with_its_receipt(office: Office) -> None:
    """It waits, goes to a device under the first epoch, is done, and is gone when the receipt is seen, not before."""
    head = office.submit(parts=2)
    assert office.states() == "waiting waiting"
    office.beat()
    office.take_turn()
    assert office.states() == "dispatched dispatched"
    first, second = await office.sent("work.d")
    assert (first.task, first.incarnation, first.head) == (office.named(office.task()), 3, head)
    assert first.task.epoch == second.task.epoch == attempt(1)
    assert (first.deadline, first.dispatched_at) == (NOW + 100, NOW)
    office.finish(office.task(part=0))
    office.finish(office.task(part=1))
    assert (office.states(), list(office.desk.jobs.live)) == ("done done", [(0, 0)])
    office.receive(head)
    assert office.desk.jobs.live == {}
    assert await office.sent("partials") == []
    assert await office.sent("control") == [], "nobody is at work, nobody is told to stop"


async def test_a_refusal_is_answered_by_a_verdict(office: Office) -> None:
    """With the error of the stage that refused it; it binds nothing and waits for its receipt."""
    office.refuse(3)
    assert short(await office.sent("partials")) == [(3, "refused", "invalid_request")]
    assert list(office.desk.jobs.live) == [(0, 3)]
    office.submit(4, key="k3")
    assert await office.sent("partials") == []


async def test_a_repeated_key_gets_a_pointer_or_a_conflict(office: Office) -> None:
    """The same content points to the first submission, other content conflicts with it; neither runs."""
    first = office.submit(1, key="k", content_digest=b"d")
    office.submit(2, key="k", content_digest=b"d")
    office.submit(3, key="k", content_digest=b"other")
    pointer, conflict = await office.sent("partials")
    assert (pointer.s, pointer.verdict, pointer.original, pointer.original_s) == (2, "pointer", first.origin, 1)
    assert (conflict.s, conflict.verdict, conflict.error.code) == (3, "refused", "idempotency_conflict")
    assert (office.states(1), office.states(2), office.states(3)) == ("waiting", "ended", "ended")
    office.receive(first, 1)
    office.clock.at += 3600
    office.submit(4, key="k", content_digest=b"d")
    office.clock.at += 1
    office.submit(5, key="k", content_digest=b"d")
    assert [(v.s, v.original_s) for v in await office.sent("partials")] == [(4, 1)]
    assert office.states(5) == "waiting", "the window is over"


async def test_a_key_that_is_repeated_after_a_rotation_of_the_secret_is_known(office: Office) -> None:
    """The digest under the secret of before is compared, too; where there is none, it matches nothing."""
    office.submit(1, key="k", content_digest=b"old")
    office.submit(2, key="k", content_digest=b"new", other_digest=b"old")
    office.submit(3, key="k", content_digest=b"new", other_digest=b"older")
    office.submit(4, key="k", content_digest=b"new")
    found = await office.sent("partials")
    assert [(v.s, v.verdict) for v in found] == [(2, "pointer"), (3, "refused"), (4, "refused")]


async def test_a_receipt_before_the_outcome_stops_the_work(office: Office) -> None:
    """An answer that came another way ends the attempt that still runs, and frees its place."""
    head = office.submit()
    office.beat()
    office.take_turn()
    office.receive(head, status="cancelled")
    assert await office.sent("control") == [CancelTask(partition=0, s=0)]
    device = office.desk.fleet.get("d")
    assert device is not None
    assert device.in_flight == {}
    assert office.desk.jobs.live == {}


@pytest.mark.parametrize("before", ["nothing", "an attempt", "a scheduler"])
async def test_a_completed_job_stops_only_attempts_that_may_still_run(office: Office, before: str) -> None:
    """Of a first attempt there is nothing left to stop; another may have been overtaken by the one before it."""
    head = office.submit(restored=before == "a scheduler", timeout=10_000.0)
    office.beat()
    office.take_turn()
    if before == "an attempt":
        office.fail(office.task())
    office.take_turn(1000.0)
    assert office.states() == "dispatched"
    office.receive(head)
    assert await office.sent("control") == ([] if before == "nothing" else [CancelTask(partition=0, s=0)])
    device = office.desk.fleet.get("d")
    assert device is not None
    assert device.in_flight == {}


@pytest.mark.parametrize("at_work", [False, True])
async def test_a_cancel_ends_a_live_job(office: Office, at_work: bool) -> None:
    """A verdict goes out once; workers are told only where there is something to stop."""
    office.submit(parts=2)
    if at_work:
        office.beat(kinds=["echo"])
        office.take_turn()
    cancel(office, "k0")
    cancel(office, "k0", at=NOW + 2)
    assert short(await office.sent("partials")) == [(0, "cancelled", "cancelled")]
    assert await office.sent("control") == ([CancelTask(partition=0, s=0)] if at_work else [])
    office.take_turn()
    assert (office.states(), await office.sent("work.e")) == ("ended ended", [])


@pytest.mark.parametrize(
    ("at", "tenant", "state"),
    [(NOW, "demo", "ended"), (NOW - 1, "demo", "waiting"), (NOW + 9, "acme", "waiting")],
)
async def test_whom_a_cancel_hits(office: Office, at: float, tenant: str, state: str) -> None:
    """Submissions of its tenant that were made no later: those live, and those that come after it."""
    office.submit(0, key="k")
    cancel(office, "k", at, tenant)
    assert office.states(0) == state
    other = Office()
    cancel(other, "k", at, tenant)
    other.submit(0, key="k")
    assert other.states(0) == state


async def test_jobs_expire(office: Office) -> None:
    """At the append time plus the time-out, whatever their tasks do; once."""
    office.submit(0, timeout=10.0)
    office.beat()
    office.take_turn()
    office.submit(1, timeout=5.0, kind="embed")
    assert office.take_turn(4.0) <= 1.0
    assert await office.sent("partials") == []
    office.take_turn(1.0)
    assert short(await office.sent("partials")) == [(1, "expired", "expired")]
    office.take_turn(5.0)
    office.take_turn(5.0)
    assert short(await office.sent("partials")) == [(0, "expired", "expired")]
    assert await office.sent("control") == [CancelTask(partition=0, s=0)]


async def test_nothing_happens_after_a_verdict(office: Office) -> None:
    """Cancels, failures and outcomes of a job that is over change nothing; its receipt removes it."""
    head = office.submit()
    office.beat()
    office.take_turn()
    task = office.task()
    cancel(office, "k0")
    await office.sent("partials")
    office.fail(task)
    office.finish(task)
    office.die()
    office.take_turn(1000.0)
    assert (office.states(), await office.sent("partials")) == ("ended", [])
    office.receive(head, status="cancelled")
    assert office.desk.jobs.live == {}


async def test_a_drained_device_takes_no_more(office: Office) -> None:
    """It keeps what it has; the rest goes elsewhere."""
    office.beat("d")
    office.submit(0)
    office.take_turn()
    assert office.drain() == 1
    office.submit(1)
    office.take_turn()
    assert (office.states(0), office.states(1)) == ("dispatched", "waiting")
    office.beat("e")
    office.take_turn()
    assert (office.task(1).device, office.task(0).device) == ("e", "d")


async def test_receipts_of_others_are_nothing(office: Office) -> None:
    """A receipt of an s that is not live binds its key and does no more."""
    head = office.submit(0, content_digest=b"d")
    office.receive(head, 9)
    assert office.states(0) == "waiting"
    office.receive(head, 0)
    office.receive(head, 0)
    assert office.desk.jobs.live == {}
