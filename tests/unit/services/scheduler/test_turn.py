"""A turn: what is due, the decision carried out, what never fits, what the waiting are told, when the next is due."""

from __future__ import annotations

import pytest

from llmos.infra.ledger.port import Hold
from llmos.pipelines.scheduling.decision import Why
from llmos.services.scheduler.reconciling import holds_of
from llmos.services.scheduler.turn import SILENCE_LOOK_SECONDS, STANDSTILL_SECONDS
from llmos.services.scheduler.views import jobs_view, live_counts, scheduler_report
from tests.kit.bench import NOW, configured
from tests.unit.services.scheduler.making import MODEL, Office, attempt

WHILE = 30.0
LONG = {"heartbeat_timeout_seconds": 1e9, "dispatch_grace_seconds": 1e9, "never_fits_seconds": WHILE}


@pytest.fixture
async def office() -> Office:
    return Office(configured(scheduler=LONG))


def model_job(office: Office, s: int, **fields: object) -> None:
    office.submit(s, kind="generate", model=MODEL.identity, model_name=MODEL.name, **fields)


async def test_order_is_decided_late(office: Office) -> None:
    """Beyond the window nothing is sent; when a place is free the most urgent goes, though it came last."""
    for s in range(3):
        model_job(office, s)
    office.beat(slots=1)
    office.take_turn()
    assert [office.states(s) for s in range(3)] == ["dispatched", "dispatched", "waiting"]
    model_job(office, 3, lane="interactive")
    office.finish(office.task(0))
    office.take_turn()
    assert (office.states(2), office.states(3)) == ("waiting", "dispatched")
    assert [work.task.s for work in await office.sent("work.d")] == [0, 1, 3]


async def test_what_can_never_fit_is_refused(office: Office) -> None:
    """For a whole while no device was large enough: all jobs of the group hear so, with the largest budget there is."""
    model_job(office, 0)
    model_job(office, 1, parts=2)
    office.submit(2)
    office.beat("d", budget_bytes=20)
    office.beat("e", budget_bytes=40)
    office.take_turn()
    office.take_turn(WHILE - 0.1)
    assert await office.sent("partials") == [], "a larger device may be starting anew"
    office.take_turn(0.2)
    verdicts = await office.sent("partials")
    assert [(v.s, v.verdict, v.error.code) for v in verdicts] == [(s, "refused", "never_fits") for s in (0, 1)]
    assert "Model 'model' needs 50 bytes and the largest device budget is 40" in verdicts[0].error.message
    assert (office.states(1), office.states(2)) == ("ended ended", "dispatched")


@pytest.mark.parametrize(
    ("beats", "rule"),
    [
        ([], "alive"),
        ([{"device": "d", "budget_bytes": 20, "draining": True}], "alive"),
        ([{"device": "d", "budget_bytes": 20}, {"device": "e", "budget_bytes": 50, "slots": 0}], "window"),
        ([{"device": "d", "budget_bytes": 20}, {"device": "e", "budget_bytes": 50, "draining": True}], "memory"),
        ([{"device": "d", "models": ["other"]}], "model"),
    ],
)
async def test_what_only_waits_is_not_refused(office: Office, beats: list[dict[str, object]], rule: str) -> None:
    """No device yet, one that drains, one that is large enough and full or drains, no node with the files: it is held."""
    model_job(office, 0, timeout=10 * WHILE)
    for beat in beats:
        office.beat(**beat)  # type: ignore[arg-type]
    office.take_turn()
    office.take_turn(WHILE + 1)
    office.take_turn(WHILE + 1)
    assert (office.states(), [held.why.rule for held in office.turn.held]) == ("waiting", [rule])
    assert await office.sent("partials") == []


async def test_who_waits_is_told_why_once(office: Office) -> None:
    """Listeners hear the rule, what is needed and what there is; those without events hear nothing."""
    model_job(office, 0)
    model_job(office, 1, events="none")
    office.take_turn()
    office.take_turn(1.0)
    (state,) = await office.sent("stream")
    assert (state.s, state.state, state.detail, state.source, state.sequence) == (
        0, "waiting", "alive: needs 1, there is 0", "scheduler", 0,
    )  # fmt: skip
    office.beat()
    office.take_turn()
    assert await office.sent("stream") == [], "what runs is told by its worker"


async def test_a_silent_device_is_looked_for_now_and_then() -> None:
    """Not at every turn, and soon enough."""
    office = Office(configured(scheduler={"heartbeat_timeout_seconds": 5.0}))
    office.submit()
    office.beat()
    office.take_turn()
    assert office.take_turn(0.1) <= SILENCE_LOOK_SECONDS
    for _ in range(4):
        office.desk.own_word(office.clock.at + STANDSTILL_SECONDS * 0.7)
        office.take_turn(STANDSTILL_SECONDS * 0.7)
    assert (office.desk.fleet.get("d"), office.states()) == (None, "retrying")


async def test_a_scheduler_that_stood_still_hears_first() -> None:
    """After a standstill of its own nobody counts as silent until there was time to hear them."""
    office = Office(configured(scheduler={"heartbeat_timeout_seconds": 5.0}))
    office.submit()
    office.beat()
    office.take_turn()
    office.take_turn(60.0)
    assert office.states() == "dispatched"
    for _ in range(4):
        office.desk.own_word(office.clock.at + STANDSTILL_SECONDS * 0.7)
        office.take_turn(STANDSTILL_SECONDS * 0.7)
    assert office.states() == "retrying"


@pytest.mark.parametrize(("timeout", "due"), [(100.0, SILENCE_LOOK_SECONDS), (0.25, 0.25)])
async def test_the_next_turn_is_due(office: Office, timeout: float, due: float) -> None:
    """At the next deadline, or when devices are looked over."""
    office.submit(timeout=timeout)
    assert office.take_turn() == pytest.approx(due, abs=1e-6)


async def test_round_robin_goes_on_over_turns() -> None:
    """The place in the round is kept from turn to turn."""
    office = Office(configured(scheduler={"policy": "round-robin", **LONG}))
    office.beat("d")
    office.beat("e")
    for s in range(4):
        office.submit(s)
        office.take_turn()
    assert [office.task(s).device for s in range(4)] == ["d", "e", "d", "e"]


async def test_epochs_grow_over_schedulers(office: Office) -> None:
    """A later term's first attempt is above every attempt of an earlier one."""
    office.submit()
    office.beat()
    office.take_turn()
    assert attempt(65_000, term=6) < office.task().epoch == attempt(1) < attempt(1, term=8)


async def test_reports_say_what_lives_and_waits(office: Office) -> None:
    """Live counts by lane and tenant, with bytes; the report by lane, device and rule; the ledger's holds."""
    office.submit(0, lane="batch", size=10)
    office.submit(1, size=5, tenant="acme", kind="embed", parts=3)
    office.beat()
    office.take_turn()
    counts = live_counts(office.desk, NOW)
    assert (counts.lanes, counts.tenants) == (
        {"interactive": (0, 0), "standard": (1, 5), "batch": (1, 10)}, {"demo": (1, 10), "acme": (1, 5)},
    )  # fmt: skip
    report = scheduler_report(office.desk, office.turn.held, NOW)
    assert (report.live, report.dispatched, report.waiting["standard"], report.held) == (2, 1, 3, {"kind": 3})
    assert [(device.device, device.in_flight) for device in report.devices] == [("d", 1)]
    heads = [job.head for job in office.desk.jobs.live.values()]
    assert holds_of(office.desk) == [Hold(head.hold, head.lane, head.size, head.tenant) for head in heads]


async def test_a_jobs_view_says_what_each_part_waits_for(office: Office) -> None:
    """For people: the state of the job, and of its parts with rule, need and have."""
    office.submit(0, parts=2, kind="embed")
    office.submit(1)
    office.beat()
    office.take_turn()
    waiting, running = jobs_view(list(office.desk.jobs.live.values()), office.turn.explain)
    assert (waiting["state"], running["state"]) == ("waiting", "running")
    assert [(part["part"], part["rule"], part["need"], part["have"]) for part in waiting["parts"]] == [
        (0, "kind", 1, 0),
        (1, "kind", 1, 0),
    ]
    (part,) = running["parts"]
    assert (part["device"], part["epoch"], part["rule"]) == ("d", attempt(1), "")
    assert office.turn.held[0].why == Why("kind", 1, 0)
