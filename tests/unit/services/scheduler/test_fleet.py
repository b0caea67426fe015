"""Devices as heartbeats describe them: in flight, λ, μ, ρ, windows, residency."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.pipelines.scheduling.snapshot import Group
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
    assert (view.in_flight, view.utilisation, view.mean_service_seconds) == ({}, 0.0, {})


@pytest.mark.parametrize(("seconds", "alive"), [(0.0, True), (5.0, True), (5.1, False)])
def test_a_device_unheard_of_is_not_alive(seconds: float, alive: bool) -> None:
    """As long as the settings say, and again after its next heartbeat."""
    heard = device()
    assert heard.view(NOW + seconds).alive is alive
    heard.heard(beat(), NOW + seconds)
    assert heard.view(NOW + seconds).alive


def test_what_is_in_flight_is_counted_by_kind() -> None:
    """Taken and given back in any order, once each; expected service is that of what is there."""
    busy, (a, b), (c,) = device(), tasks(2), tasks(1, "echo", 0.5)
    c.key = c.key._replace(s=9)
    for task in (a, b, c):
        busy.took(task, NOW)
    assert (busy.view(NOW).in_flight, busy.view(NOW).expected_seconds) == ({"generate": 2, "echo": 1}, 4.5)
    busy.gave_back(b)
    busy.gave_back(b)
    assert (busy.view(NOW).total_in_flight, busy.view(NOW).expected_seconds) == (2, 2.5)
    busy.gave_back(a)
    busy.gave_back(c)
    assert (busy.view(NOW).total_in_flight, busy.view(NOW).expected_seconds, busy.in_flight) == (0, 0.0, {})


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
    assert busy.view(NOW).mean_service_seconds == {}, "what was served before is not known by its time"
    busy.heard(beat(served=[served(104, 902.0)], busy_seconds=902.0), NOW + 2)
    assert busy.view(NOW + 2).mean_service_seconds == {GENERATE: pytest.approx(0.5)}
    busy.heard(beat(served=[served(104, 902.0)], busy_seconds=902.0), NOW + 3)
    (rate,) = busy.report(NOW + 3).rates
    assert (rate.samples, rate.service_rate) == (4, pytest.approx(2.0))
    busy.heard(beat(served=[served(104, 902.0), served(1, 3.0, "other")], busy_seconds=905.0), NOW + 3)
    assert busy.view(NOW + 3).mean_service_seconds[("other", "generate")] == pytest.approx(3.0)


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
