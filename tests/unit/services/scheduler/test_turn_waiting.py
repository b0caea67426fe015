"""What a turn does for those who wait: it tells them, refuses what cannot be in time, ends what nobody can do, and records."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.pipelines.scheduling.replay import replay
from llmos.schemas.catalog import NodeModels, Quarantined
from llmos.schemas.job import ErrorInfo
from llmos.schemas.telemetry import TELEMETRY, Decided, PolicyInput, Residency, Served
from llmos.services.scheduler import telling
from llmos.services.scheduler.turn import Turn
from llmos.services.scheduler.views import jobs_view, scheduler_report
from tests.kit.bench import NOW, configured
from tests.unit.services.scheduler import making
from tests.unit.services.scheduler.making import MODEL, Office, attempt

WHILE = 30.0
LONG = {"heartbeat_timeout_seconds": 1e9, "dispatch_grace_seconds": 1e9, "never_fits_seconds": WHILE}
THERE = [Residency(model="m", name="model", state="resident", resident_bytes=50)]


@pytest.fixture
def office(monkeypatch: pytest.MonkeyPatch) -> Office:
    monkeypatch.setitem(making._CODECS, "telemetry", TELEMETRY)
    return office_of()


def office_of(**scheduler: Any) -> Office:
    return Office(configured(scheduler=LONG | scheduler))


def model_job(office: Office, s: int, **fields: Any) -> None:
    office.submit(s, kind="generate", model=MODEL.identity, model_name=MODEL.name, **fields)


def measured(office: Office, seconds: float = 2.0, tasks: int = 40) -> None:
    """The device has served so many tasks of the model, each for so long."""
    counts = [Served(model="m", kind="generate", tasks=n, busy_seconds=n * seconds) for n in (1, 1 + tasks)]
    for count in counts:
        office.beat(served=[count], busy_seconds=count.busy_seconds, residents=THERE)


# --- telling ---


async def test_who_waits_is_told_place_rule_and_start(office: Office) -> None:
    """Two are on their way, the second of those that wait begins after the work of three."""
    measured(office)
    for s in range(4):
        model_job(office, s)
    office.take_turn()
    first, second = await office.sent("stream")
    assert [(state.s, state.position, state.rule, state.need, state.have) for state in (first, second)] == [
        (2, 1, "window", 3, 2),
        (3, 2, "window", 3, 2),
    ]
    assert first.predicted_start_at == pytest.approx(NOW + 4.0, rel=0.2)
    assert second.predicted_start_at - first.predicted_start_at == pytest.approx(2.0, rel=0.2)


async def test_changes_are_told_at_most_once_a_second(office: Office) -> None:
    """A new place is told with the next look at the job, nothing where nothing changed."""
    measured(office)
    for s in range(5):
        model_job(office, s)
    office.take_turn()
    assert [state.position for state in await office.sent("stream")] == [1, 2, 3]
    office.finish(office.task(0))
    office.take_turn(0.2)
    assert await office.sent("stream") == [], "told less than a second ago"
    office.take_turn(0.9)
    assert [(state.s, state.position) for state in await office.sent("stream")] == [(3, 1), (4, 2)]


async def test_telling_has_a_budget(office: Office) -> None:
    """So many jobs in a turn and in a second are looked at, the longest untold first; a turn costs no more than that."""
    office.beat(slots=0)
    for s in range(telling.PER_TURN * 2 + 10):
        model_job(office, s)
    office.take_turn()
    first = await office.sent("stream")
    office.take_turn(0.001)
    office.take_turn(0.001)
    rest = await office.sent("stream")
    told = [state.s for state in (*first, *rest)]
    assert (len(first), sorted(told)) == (telling.PER_TURN, list(range(telling.PER_TURN * 2 + 10)))


async def test_who_is_gone_is_not_looked_at(office: Office) -> None:
    """A job that ended or runs leaves the ring by itself."""
    office.beat(slots=0)
    for s in range(3):
        model_job(office, s)
    office.take_turn()
    assert office.turn._telling.waiters == 3
    office.desk.end(office.desk.jobs.live[0, 1], "cancelled", None)
    office.beat(slots=1)
    office.take_turn(1.1)
    assert office.turn._telling.waiters == 0
    office.take_turn(1.1)
    assert [state.state for state in await office.sent("stream")] == ["waiting"] * 3


async def test_an_attempt_that_was_lost_is_told_again(office: Office) -> None:
    """First that the next attempt comes, then what it waits for."""
    office.beat(residents=THERE)
    model_job(office, 0)
    office.take_turn()
    office.fail(office.task(0))
    office.take_turn(0.01)
    office.beat(slots=0, residents=THERE)
    office.take_turn(1.5)
    states = await office.sent("stream")
    assert [(state.state, state.detail.partition(":")[0], state.epoch) for state in states] == [
        ("moved", "broken", attempt(1)), ("waiting", "the next attempt", attempt(1)), ("waiting", "avoided", attempt(1)),
    ] or [state.state for state in states] == ["moved", "waiting", "waiting"]  # fmt: skip


async def test_queries_are_explained(office: Office) -> None:
    """A view of a waiting job says where it stands, for all its parts; lists say it for the first that waits."""
    measured(office)
    for s in range(2):
        model_job(office, s)
    model_job(office, 2, parts=3)
    office.take_turn()
    (view,) = jobs_view([office.desk.jobs.live[0, 2]], office.turn.explain)
    assert [(part["position"], part["rule"], part["device"]) for part in view["parts"]] == [
        (1, "window", "d"), (2, "window", "d"), (3, "window", "d"),
    ]  # fmt: skip
    assert view["parts"][2]["predicted_start_at"] > view["parts"][0]["predicted_start_at"] > NOW
    (short,) = jobs_view([office.desk.jobs.live[0, 2]], office.turn.explain, with_parts=False)
    assert (short["waits"]["position"], short["parts"]) == (1, [])
    running = office.turn.explain(office.task(0))
    assert running is None


# --- deadlines ---


async def test_a_deadline_that_cannot_be_met_is_refused_at_once(office: Office) -> None:
    """First in the row, but two tasks of 2 s run, it takes 2 s and has 2 s: it hears so, the patient ones wait."""
    measured(office)
    for s in range(6):
        model_job(office, s)
        office.take_turn()
    model_job(office, 6, timeout=2.0)
    office.take_turn()
    (verdict,) = await office.sent("partials")
    assert (verdict.s, verdict.verdict, verdict.error.code) == (6, "refused", "deadline_unreachable")
    assert "its time-out is 2.0 s" in verdict.error.message


async def test_a_deadline_is_looked_at_again_while_the_job_waits(office: Office) -> None:
    """In time when it came; then the device becomes four times as slow."""
    measured(office)
    for s in range(4):
        model_job(office, s, timeout=6.0 if s == 3 else 600.0)
        office.take_turn()
    assert await office.sent("partials") == []
    slow = [Served(model="m", kind="generate", tasks=n, busy_seconds=82.0 + 8.0 * (n - 41)) for n in (42, 43, 44)]
    for count in slow:
        office.beat(served=[count], busy_seconds=count.busy_seconds, residents=THERE)
    office.take_turn(1.1)
    assert [(v.s, v.error.code) for v in await office.sent("partials")] == [(3, "deadline_unreachable")]


@pytest.mark.parametrize("tasks", [0, 2])
async def test_nobody_is_refused_by_a_guess(office: Office, tasks: int) -> None:
    """What was never measured, or hardly, refuses nobody."""
    if tasks:
        measured(office, seconds=100.0, tasks=tasks)
    office.beat(residents=THERE)
    for s in range(4):
        model_job(office, s, timeout=1.0)
    office.take_turn()
    assert await office.sent("partials") == []


async def test_what_began_is_not_refused(office: Office) -> None:
    """A part of it was at work already: then it expires if it must."""
    measured(office, seconds=20.0)
    office.beat(slots=1, residents=THERE, served=[Served(model="m", kind="generate", tasks=41, busy_seconds=820.0)])
    model_job(office, 0, parts=4, timeout=5.0)
    office.take_turn()
    assert (office.states(), await office.sent("partials")) == ("dispatched dispatched waiting waiting", [])


# --- what nobody can do ---


def node(models: list[str], quarantined: list[str] = []) -> NodeModels:  # noqa: B006
    error = ErrorInfo(code="model_damaged", message="a bit flipped")
    return NodeModels(
        node="n", at=NOW, models=models,
        quarantined=[Quarantined(name=name, directory="x", error=error) for name in quarantined],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("row", "ends"),
    [
        pytest.param(None, None, id="no node has told what it has"),
        pytest.param(node(["other"]), ("failed", "model_gone"), id="nobody has it any more"),
        pytest.param(node(["other", "m"]), None, id="a node has it, whose worker is starting"),
        pytest.param(node(["other"], ["model"]), ("refused", "model_quarantined"), id="nobody has it whole"),
    ],
)
async def test_a_model_that_is_gone_ends_its_jobs(row: NodeModels | None, ends: tuple[str, str] | None) -> None:
    """After a while, for it may be on its way from one place to another; until then the job is held."""
    office = office_of()
    office.turn = Turn(office.desk, {"m": MODEL} | ({"node:n": row} if row else {}))
    office.beat(models=["other"])
    model_job(office, 0, timeout=10 * WHILE)
    office.take_turn()
    office.take_turn(WHILE - 0.1)
    assert ([held.why.rule for held in office.turn.held], await office.sent("partials")) == (["model"], [])
    office.take_turn(0.2)
    verdicts = await office.sent("partials")
    assert [(v.verdict, v.error.code) for v in verdicts] == ([ends] if ends else [])


# --- records ---


async def test_every_decision_about_a_model_leaves_a_record(office: Office) -> None:
    """The choice with all candidates and what was predicted of each; who is held with the rule; echo leaves none."""
    office.beat("d", residents=THERE)
    office.beat("e", models=[])
    office.submit(0)
    model_job(office, 1)
    office.take_turn()
    (record,) = [message for message in await office.sent("telemetry") if isinstance(message, Decided)]
    assert (record.task.s, record.task.epoch, record.device, record.model, record.rule) == (1, attempt(1), "d", "m", "")
    taken, refused = record.candidates
    assert (taken.device, taken.rule, taken.load_seconds, taken.service_seconds) == ("d", "", 0.0, 0.5)
    assert (refused.device, refused.rule, refused.need, refused.have) == ("e", "model", 1, 0)
    assert record.predicted_done_at == pytest.approx(NOW + 0.5, abs=0.6)


async def test_the_held_are_recorded_on_change_and_once_a_second(office: Office) -> None:
    """Not every turn; the record says how many wait."""
    office.beat(slots=0)
    for s in range(3):
        model_job(office, s)
    for _ in range(5):
        office.take_turn(0.1)
    assert [(r.rule, r.tasks) for r in await office.sent("telemetry")] == [("window", 3)]
    office.beat(models=[])
    office.take_turn(0.1)
    assert [r.rule for r in await office.sent("telemetry")] == ["model"]
    office.take_turn(1.1)
    assert [r.rule for r in await office.sent("telemetry")] == ["model"]


@pytest.mark.parametrize("record", ["none", "inputs"])
async def test_inputs_replay_to_the_same_decisions(record: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a service recorded over many turns is decided again, bit by bit; or nothing is recorded at all."""
    monkeypatch.setitem(making._CODECS, "telemetry", TELEMETRY)
    office = office_of(record=record)
    measured(office)
    for s in range(60):
        model_job(
            office,
            s,
            lane=("batch", "interactive", "standard")[s % 3],
            priority=s % 10,
            tenant="acme" if s % 2 else "demo",
        )
        if s % 3 == 0:
            office.submit(1000 + s)
        office.take_turn(0.3)
        for task in list(office.desk.fleet.get("d").in_flight.values())[: s % 2]:  # type: ignore[union-attr]
            office.finish(task)
        if s % 4 == 0:
            office.beat(residents=THERE, slots=1 + s % 5)
    messages = await office.sent("telemetry")
    pairs = list(replay(message for message in messages if isinstance(message, PolicyInput)))
    assert len(pairs) == (60 if record == "inputs" else 0)
    assert all(recorded == decided for recorded, decided in pairs)
    assert bool(messages) == (record != "none")


async def test_the_report_has_the_whole(office: Office) -> None:
    """λ, μ and ρ of all devices together beside those of each."""
    measured(office)
    model_job(office, 0)
    office.take_turn()
    report = scheduler_report(office.desk, office.turn.held, office.clock.at)
    (one,) = report.devices
    assert (report.arrival_rate, report.service_rate) == (one.arrival_rate, one.service_rate)
    assert report.utilisation == pytest.approx(one.utilisation)
    assert one.backlog_seconds == pytest.approx(2.0, rel=0.1)
