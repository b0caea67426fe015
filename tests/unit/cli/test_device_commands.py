"""`llmos devices`, `llmos drain`: what devices do, and taking one out of service."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import Result

from llmos.cli import waiting
from llmos.schemas.control import Drain
from llmos.schemas.job import ErrorInfo
from llmos.schemas.telemetry import DeviceLoad, DeviceReport, ModelRate, Residency, SchedulerReport

NAME = "node-0.cpu0"


def report(*, in_flight: int = 0, draining: bool = False, alive: bool = True) -> SchedulerReport:
    rate = ModelRate(
        model="m", kind="generate", arrival_rate=1.0, service_rate=2.0, utilisation=0.5, mean_service_seconds=0.5,
        samples=9, confidence=0.75, decode_step_seconds=0.01,
    )  # fmt: skip
    device = DeviceReport(
        device=NAME, node="node-0", alive=alive, arrival_rate=1.0, service_rate=2.0, utilisation=0.5, window=4,
        in_flight=in_flight, budget_bytes=1, resident_bytes=0, draining=draining, delay_seconds=0.25,
        backlog_seconds=1.5, rates=[rate], load=DeviceLoad(throttled="heat"),
        residents=[Residency(model="m", name="tiny", state="resident", tier="device")],
    )  # fmt: skip
    waits = {"interactive": 0, "standard": 0, "batch": 0}
    return SchedulerReport(at=1.0, term=1, policy="completion", live=0, waiting=waits, dispatched=0, devices=[device])  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LOOK_SECONDS", 0.0)


def test_devices_are_shown_with_queues_rates_load_and_residents(llmos: Callable[..., Result], system: Any) -> None:
    """All that the scheduler reports of them."""
    system.bodies = {"devices": report(in_flight=3)}
    said = llmos("devices").stdout
    for word in ("3/4", "0.250", "1.500", "0.75", "heat", "tiny", "0.01000", "takes work"):
        assert word in said


def test_a_drain_is_asked_for_and_waited_for(llmos: Callable[..., Result], system: Any) -> None:
    """With `--wait` until nothing is in flight and the device itself says that it drains."""
    system.bodies = {
        "devices": [report(in_flight=2), report(in_flight=2, draining=True), report(draining=True)]
    }  # fmt: skip
    said = llmos("drain", NAME, "--wait")
    assert said.exit_code == 0
    assert "2 tasks in flight" in said.stderr
    assert f"{NAME} is empty" in said.stderr
    (drain,) = system.commands
    assert isinstance(drain, Drain)
    assert (drain.device, drain.undo) == (NAME, False)


def test_a_drain_that_is_not_waited_for_tells_what_is_in_flight(llmos: Callable[..., Result], system: Any) -> None:
    """As the scheduler's reply has it."""
    system.replies = {"drain": {"what": "drain", "device": NAME, "draining": True, "in_flight": 2}}
    assert "in flight there: 2" in llmos("drain", NAME).stderr


def test_a_device_that_is_lost_while_it_drains_has_drained(llmos: Callable[..., Result], system: Any) -> None:
    """What it had runs elsewhere."""
    system.bodies = {"devices": report(in_flight=2, alive=False)}
    assert llmos("drain", NAME, "--wait").exit_code == 0


def test_a_drain_is_undone(llmos: Callable[..., Result], system: Any) -> None:
    """It does not wait."""
    system.replies = {"drain": {"what": "drain", "device": NAME, "draining": False, "in_flight": 2}}
    said = json.loads(llmos("drain", NAME, "--undo", "--json").stdout)
    assert said == system.replies["drain"]
    assert system.commands[0].undo


def test_what_is_no_device_is_refused(llmos: Callable[..., Result], system: Any) -> None:
    """As the scheduler says; an impossible name before anything is sent."""
    system.refusal = ErrorInfo(code="unknown_device", message="no such")
    assert llmos("drain", "node-0.gpu9").exit_code == 2
    assert llmos("drain", "no device").exit_code == 2
    assert len(system.commands) == 1
