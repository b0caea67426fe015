"""Devices as heartbeats describe them: in flight, λ, μ, ρ, windows, residency."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.pipelines.scheduling.decide import decide
from llmos.pipelines.scheduling.snapshot import Group, Rules, Snapshot, Waiting
from llmos.schemas.telemetry import Heartbeat, Residency, Served
from llmos.services.scheduler.fleet import DEFAULT_LOAD_RATE, Device, Fleet
from llmos.services.scheduler.jobs import Jobs, LiveJob, LiveTask
from tests.kit.bench import NOW, configured, head
from tests.unit.services.scheduler.making import job_of

SETTINGS = configured(scheduler={"window_factor": 3, "echo_window": 7, "heartbeat_timeout_seconds": 5.0}).scheduler
GENERATE = ("m", "generate")


def beat(**fields: Any) -> Heartbeat:
    values: dict[str, Any] = {"device": "d", "node": "n", "pid": 1, "incarnation": 3, "sequence": 1, "at": NOW}
    return Heartbeat(**(values | fields))


def device(**fields: Any) -> Device:
    return Device(beat(**fields), SETTINGS, NOW)


def served(tasks: int, busy: float, model: str = "m") -> Served:
    return Served(model=model, kind="generate", tasks=tasks, busy_seconds=busy)


def tasks(count: int, kind: str = "generate", expected: float = 2.0) -> list[LiveTask]:
    jobs = Jobs()
    message = job_of(head(kind=kind, model="m" if kind == "generate" else ""), count)
    job = LiveJob(0, 0, message.head, NOW + 100)
    jobs.add(job, message.parts)
    for task in job.tasks:
        task.expected_seconds = expected
    return job.tasks


def test_a_view_is_what_the_heartbeat_says() -> None:
    """Kinds, slots, budget, drain; resident is what is loaded or being loaded; windows come from slots and settings."""
    residents = [Residency(model=state[0], name="x", state=state) for state in ("resident", "loading", "evicting")]
    view = device(kinds=["echo"], slots=4, budget_bytes=99, draining=True, residents=residents).view(NOW)
    assert (view.kinds, view.slots, view.budget_bytes, view.draining) == ({"echo"}, 4, 99, True)
    assert view.resident == {"r", "l"}
    assert view.window == {"": 12, "echo": 7}
    assert (view.in_flight, view.utilisation, view.costs) == ({}, 0.0, {})


@pytest.mark.parametrize(("seconds", "alive"), [(0.0, True), (5.0, True), (5.1, False)])
def test_a_device_unheard_of_is_not_alive(seconds: float, alive: bool) -> None:
    """As long as the settings say, and again after its next heartbeat."""
    heard = device()
    assert heard.view(NOW + seconds).alive is alive
    heard.heard(beat(), NOW + seconds)
    assert heard.view(NOW + seconds).alive


def test_what_is_in_flight_is_counted_by_kind() -> None:
    """Taken and given back in any order, once each; expected work is that of what is there."""
    busy, (a, b), (c,) = device(), tasks(2), tasks(1, "echo", 0.5)
    c.key = c.key._replace(s=9)
    for task in (a, b, c):
        busy.took(task, NOW)
    assert (busy.view(NOW).in_flight, busy.view(NOW).expected_seconds) == ({"generate": 2, "echo": 1}, 4.5)
    busy.gave_back(b, NOW)
    busy.gave_back(b, NOW)
    assert (busy.view(NOW).total_in_flight, busy.view(NOW).expected_seconds) == (2, 2.5)
    busy.gave_back(a, NOW)
    busy.gave_back(c, NOW)
    assert (busy.view(NOW).total_in_flight, busy.view(NOW).expected_seconds, busy.in_flight) == (0, 0.0, {})


def test_work_is_done_as_time_passes() -> None:
    """Up to nine tenths: until the task is heard to be done nobody believes that it is. Long overdue, it takes as long again."""
    busy, (task,) = device(), tasks(1, expected=2.0)
    busy.took(task, NOW)
    seconds = [busy.view(NOW + later).expected_seconds for later in (0.0, 1.0, 1.5, 2.0, 5.0)]
    assert seconds == pytest.approx([2.0, 1.0, 0.5, 0.2, 3.0])


def test_suspects_are_counted() -> None:
    """So that nobody joins one."""
    busy, (task,) = device(), tasks(1)
    task.group = Group("generate", "m", alone=True)
    busy.took(task, NOW)
    assert busy.view(NOW).in_flight_alone == 1
    busy.gave_back(task)
    assert busy.view(NOW).in_flight_alone == 0


def test_rates_are_measured_from_differences() -> None:
    """Heartbeats count since the worker's start: only what came since the last one is new."""
    busy = device(served=[served(100, 900.0)], busy_seconds=900.0)
    assert busy.view(NOW).costs == {}, "what was served before is not known by its time"
    busy.heard(beat(served=[served(104, 902.0)], busy_seconds=902.0), NOW + 2)
    assert busy.view(NOW + 2).costs[GENERATE].task_seconds == pytest.approx(0.5)
    busy.heard(beat(served=[served(104, 902.0)], busy_seconds=902.0), NOW + 3)
    (rate,) = busy.report(NOW + 3).rates
    assert (rate.samples, rate.service_rate, rate.confidence) == (4, pytest.approx(2.0), pytest.approx(0.5, rel=0.1))
    busy.heard(beat(served=[served(104, 902.0), served(1, 3.0, "other")], busy_seconds=905.0), NOW + 3)
    assert busy.view(NOW + 3).costs[("other", "generate")].task_seconds == pytest.approx(3.0)


def test_utilisation_is_arrivals_over_service() -> None:
    """λ from what was dispatched, μ from what the device did in its busy time."""
    busy = device(served=[], busy_seconds=0.0)
    for second in range(100):
        for task in tasks(2):
            task.key = task.key._replace(s=second)
            busy.took(task, NOW + second)
            busy.gave_back(task)
    busy.heard(beat(served=[served(50, 50.0)], busy_seconds=50.0), NOW + 100)
    report = busy.report(NOW + 100)
    assert report.arrival_rate == pytest.approx(2.0, rel=0.05)
    assert report.service_rate == pytest.approx(1.0)
    assert report.utilisation == pytest.approx(report.arrival_rate / report.service_rate)
    assert busy.view(NOW + 100).utilisation == report.utilisation
    (rate,) = report.rates
    assert (rate.model, rate.kind, rate.utilisation) == ("m", "generate", pytest.approx(report.utilisation))


def test_a_step_is_known_by_batch() -> None:
    """Prompts and steps of different batches, as heartbeats count them, become the line that reports tell."""
    engine, counts = (
        device(),
        {"prefill_tokens": 0, "prefill_seconds": 0.0, "decode_steps": 0, "decode_tokens": 0, "decode_seconds": 0.0},
    )
    for second, batch in enumerate([1, 8, 2, 16, 4, 1, 8, 16] * 2, 1):
        counts["prefill_tokens"] += 100
        counts["prefill_seconds"] += 0.1
        counts["decode_steps"] += 10
        counts["decode_tokens"] += 10 * batch
        counts["decode_seconds"] += 10 * (0.05 + 0.002 * (batch - 1))
        engine.heard(beat(served=[Served(model="m", kind="generate", **counts)]), NOW + second)  # type: ignore[arg-type]
    (rate,) = engine.report(NOW + 20).rates
    assert rate.prefill_tokens_per_second == pytest.approx(1000.0, rel=0.02)
    assert rate.decode_step_seconds == pytest.approx(0.05, rel=0.02)
    assert rate.decode_step_seconds_per_sequence == pytest.approx(0.002, rel=0.1)
    assert rate.confidence > 0.7


class Pair:
    """Two devices of which one may slow down; work waits at any time and is shared by the policy."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.at = NOW
        self.done = {"a": 0, "b": 0}
        self.busy = {"a": 0.0, "b": 0.0}
        self.left: dict[str, list[tuple[LiveTask, float]]] = {"a": [], "b": []}
        self.seconds = {"a": 0.05, "b": 0.05}
        self.given = {"a": 0, "b": 0}
        self.count = 0
        for name in "ab":
            self.fleet.put(Device(self.beat(name), SETTINGS, self.at))

    def beat(self, name: str) -> Heartbeat:
        return beat(
            device=name, kinds=["generate"], models=["m"], slots=1, budget_bytes=100, at=self.at, busy_seconds=self.busy[name],
            served=[served(self.done[name], self.busy[name])],
            residents=[Residency(model="m", name="m", state="resident", resident_bytes=1)],
        )  # fmt: skip

    def half_a_second(self) -> float:
        """Until the next heartbeat; gives the share of b."""
        self.given = {"a": 0, "b": 0}
        end = self.at + 0.5
        while self.at < end:
            for name, tasks_ in self.left.items():
                while tasks_ and tasks_[0][1] <= self.at:
                    task, _ = tasks_.pop(0)
                    device_ = self.fleet.get(name)
                    assert device_ is not None
                    device_.gave_back(task, self.at)
                    self.done[name] += 1
            views = self.fleet.views(self.at)
            fresh = tasks(1, expected=0.0)[0]
            self.count += 1
            fresh.key = fresh.key._replace(s=self.count)
            decision = decide(Snapshot([Waiting(fresh.group, [fresh.key])], views, Rules(1e9)), self.at)
            for chosen in decision.chosen:
                fresh.expected_seconds = chosen.service_seconds
                device_ = self.fleet.get(chosen.device)
                assert device_ is not None
                device_.took(fresh, self.at)
                begins = max([self.at, *(ends for _, ends in self.left[chosen.device])])
                self.left[chosen.device].append((fresh, begins + self.seconds[chosen.device]))
                self.given[chosen.device] += 1
            if not decision.chosen:
                self.at += 0.005
                for name, tasks_ in self.left.items():
                    self.busy[name] += 0.005 if tasks_ else 0.0
        for name in "ab":
            device_ = self.fleet.get(name)
            assert device_ is not None
            device_.heard(self.beat(name), self.at)
        return self.given["b"] / sum(self.given.values())


def test_a_device_that_slows_gets_less_and_gets_it_back() -> None:
    """A third of its speed: within five heartbeats (2.5 s) its share falls to what it can do, and returns as it recovers."""
    pair = Pair()
    before = [pair.half_a_second() for _ in range(10)][-1]
    assert 0.4 < before < 0.6
    pair.seconds["b"] *= 3
    slowed = [pair.half_a_second() for _ in range(5)][-1]
    assert slowed < 0.32
    b = pair.fleet.get("b")
    assert b is not None
    assert b.view(pair.at).costs[GENERATE].task_seconds == pytest.approx(0.15, rel=0.25)
    pair.seconds["b"] /= 3
    recovered = [pair.half_a_second() for _ in range(8)][-1]
    assert 0.4 < recovered < 0.6


def test_what_others_measured_is_expected() -> None:
    """A device that never ran the model is predicted by one that did; its own word replaces that."""
    fleet, seasoned, fresh = Fleet(), device(), device(incarnation=9)
    fresh.name = "e"
    for one in (seasoned, fresh):
        fleet.put(one)
    seasoned.heard(beat(served=[served(50, 100.0)], busy_seconds=100.0), NOW + 1)
    views = {view.device: view for view in fleet.views(NOW + 2)}
    assert views["e"].costs[GENERATE].task_seconds == pytest.approx(2.0)
    assert (views["e"].costs[GENERATE].confidence, views["d"].costs[GENERATE].confidence > 0.9) == (0.0, True)


def test_a_window_follows_the_delay() -> None:
    """Tasks that wait too long shrink it, full and quick it grows, and the next life begins where this one was."""
    one = Device(beat(slots=8), configured(scheduler={"window_factor": 3}).scheduler, NOW)
    one.heard(beat(slots=8, started=10, waited_seconds=20.0), NOW + 0.5)
    assert one.windows()[""] == pytest.approx(24 * 0.7)
    assert (one.view(NOW + 0.5).window[""], one.report(NOW + 0.5).delay_seconds) == (16, 2.0)
    one.heard(beat(slots=8, started=20, waited_seconds=40.0), NOW + 1.0)
    one.heard(beat(slots=8, started=30, waited_seconds=60.0), NOW + 1.5)
    assert one.windows()[""] == 9.0, "the floor"
    for task in tasks(9):
        one.took(task, NOW + 1.6)
    one.heard(beat(slots=8, started=40, waited_seconds=60.0), NOW + 2.0)
    assert one.windows()[""] == 10.0
    after = Device(beat(slots=8), configured().scheduler, NOW + 3)
    after.begin_with(one.windows())
    assert after.windows() == one.windows()


def test_a_model_that_is_sent_for_counts_as_coming() -> None:
    """Until the worker tells of it, so that nobody else loads it meanwhile; gone again with the tasks that wanted it."""
    one, (task,) = device(), tasks(1)
    one.took(task, NOW, load_seconds=4.0)
    view = one.view(NOW + 1.0)
    assert (view.resident, view.loading) == ({"m"}, {"m": pytest.approx(3.0)})
    loading = Residency(model="m", name="m", state="loading", loaded_bytes=100, weight_bytes=500)
    one.heard(beat(residents=[loading]), NOW + 1.5)
    assert one.view(NOW + 1.5).loading == {"m": pytest.approx(400 / DEFAULT_LOAD_RATE)}
    other = device()
    other.took(task, NOW, load_seconds=4.0)
    other.gave_back(task, NOW)
    assert other.view(NOW).resident == frozenset()


def test_a_view_is_made_when_something_changed() -> None:
    """The same object while nothing does, for a quarter of a second at most."""
    one, (task,) = device(), tasks(1)
    first = one.view(NOW)
    assert one.view(NOW + 0.2) is first
    assert one.view(NOW + 0.3) is not first
    second = one.view(NOW + 0.3)
    one.took(task, NOW + 0.3)
    assert one.view(NOW + 0.3) is not second


@pytest.mark.parametrize(
    ("group", "fields", "may"),
    [
        (Group("generate", "m"), {}, True),
        (Group("generate", "other"), {}, False),
        (Group("embed", "m"), {}, False),
        (Group("echo", ""), {}, True),
        (Group("generate", "m"), {"draining": True}, False),
    ],
)
def test_who_may_ever_run_it(group: Group, fields: dict[str, Any], may: bool) -> None:
    """Alive, not draining, kind and model there."""
    one = device(kinds=["echo", "generate"], models=["m"], **fields)
    assert one.may_run(group, NOW) is may
    assert not one.may_run(group, NOW + 99)


def test_a_hung_device_says_why() -> None:
    """Through the policy's own function."""
    assert device().hung(NOW) is None
    assert device().hung(NOW + 5.1) == "silent for 5.1 s"


def test_loading_is_measured() -> None:
    """Bytes over seconds of what was loaded; a plain guess before the first load."""
    assert device().view(NOW).load_bytes_per_second == DEFAULT_LOAD_RATE
    loads = [
        Residency(model="a", name="a", state="resident", resident_bytes=300, load_seconds=1.0),
        Residency(model="b", name="b", state="resident", resident_bytes=100, load_seconds=3.0),
        Residency(model="c", name="c", state="loading"),
    ]
    assert device(residents=loads).view(NOW).load_bytes_per_second == 100.0


def test_a_report_is_for_people() -> None:
    """Windows and tasks summed, bytes as told."""
    busy = device(slots=2, budget_bytes=9, resident_bytes=8, served=[served(3, 1.0), served(4, 1.0, "n")])
    for task in tasks(2):
        busy.took(task, NOW)
    report = busy.report(NOW + 9)
    assert (report.device, report.node, report.alive) == ("d", "n", False)
    assert (report.window, report.in_flight, report.served) == (13, 2, 7)
    assert (report.budget_bytes, report.resident_bytes) == (9, 8)


def test_a_fleet_keeps_the_latest_life() -> None:
    """Devices come by name; a life that was replaced cannot drop its successor."""
    fleet, old, new = Fleet(), device(), device(incarnation=4)
    other = Device(beat(device="a"), SETTINGS, NOW)
    for life in (old, other, new):
        fleet.put(life)
    fleet.drop(old)
    assert list(fleet) == [other, new]
    fleet.drop(new)
    assert (list(fleet), fleet.get("d")) == ([other], None)


def test_a_drain_by_command_lasts() -> None:
    """A heartbeat that knows nothing of it does not undo it."""
    drained = device()
    drained.drained = True
    drained.heard(beat(), NOW)
    assert drained.view(NOW).draining


def test_what_is_pinned_is_told_to_the_decision() -> None:
    """Bytes of resident models that are pinned."""
    residents = [
        Residency(model="m", name="m", state="resident", resident_bytes=30, pinned=True),
        Residency(model="n", name="n", state="resident", resident_bytes=20),
    ]
    assert device(residents=residents, budget_bytes=100).view(NOW).pinned_bytes == 30
