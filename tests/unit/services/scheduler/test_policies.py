"""The policies against each other, on two emulated engines of which one runs at a third of its speed, in virtual time."""

from __future__ import annotations

import pytest

from tests.kit.bench import configured
from tests.unit.services.scheduler.simulating import Simulation

BASELINES = ("round-robin", "random", "shortest-queue", "two-choices", "least-work")


def simulated(policy: str, rate: float = 2.0, seconds: float = 240.0) -> Simulation:
    """By default at about 60 % of what both can do; b is at a third of its speed from the start."""
    settings = configured(scheduler={"policy": policy, "heartbeat_timeout_seconds": 1e9}).scheduler
    simulation = Simulation(settings, seed=1, rate=rate, slots=4)
    simulation.engines["b"].speed = 1 / 3
    simulation.run(seconds)
    return simulation


@pytest.fixture(scope="module")
def by_completion() -> Simulation:
    return simulated("completion")


@pytest.mark.parametrize(
    ("policy", "times"),
    [("round-robin", 1.8), ("random", 1.8), ("shortest-queue", 1.4), ("two-choices", 1.4), ("least-work", 1.4)],
)
def test_predicted_completion_beats_every_baseline_at_the_tail(
    by_completion: Simulation, policy: str, times: float
) -> None:
    """The slowest hundredth is this many times as fast at least; as many tasks are served."""
    baseline = simulated(policy)
    assert baseline.quantile(0.99, 30.0) >= times * by_completion.quantile(0.99, 30.0)
    assert sum(by_completion.served.values()) >= 0.98 * sum(baseline.served.values())


def test_a_slowed_device_loses_its_share_within_seconds_and_gets_it_back() -> None:
    """Both alike for a minute, then b at a third for one, then as before: shares follow within three seconds."""
    settings = configured(scheduler={"heartbeat_timeout_seconds": 1e9}).scheduler
    simulation = Simulation(settings, seed=3, rate=5.0, slots=4)
    simulation.run(60.0)

    def share(seconds: float) -> float:
        before = dict(simulation.served)
        simulation.run(seconds)
        done = {name: simulation.served[name] - before[name] for name in "ab"}
        return done["b"] / sum(done.values())

    assert 0.4 < share(30.0) < 0.6
    simulation.engines["b"].speed = 1 / 3
    simulation.run(3.0)
    assert share(57.0) < 0.3
    simulation.engines["b"].speed = 1.0
    simulation.run(10.0)
    assert 0.4 < share(30.0) < 0.6


@pytest.mark.parametrize("policy", BASELINES)
def test_no_slot_is_empty_while_work_waits(policy: str) -> None:
    """Overloaded, with windows that follow the delay: whoever waits waits for full devices, whatever the policy."""
    simulation = simulated(policy, rate=9.0, seconds=60.0)
    assert simulation.idle == {"a": 0, "b": 0}
    assert all(device.delay_seconds < 2.0 for device in simulation.fleet), "and nobody holds more than it begins soon"


def test_completion_leaves_a_device_idle_only_while_waiting_is_sooner(by_completion: Simulation) -> None:
    """The fast one is never idle while work waits; overloaded, the slow one is not either but for single steps."""
    assert by_completion.idle["a"] == 0
    simulation = simulated("completion", rate=9.0, seconds=60.0)
    assert simulation.idle["a"] == 0
    assert simulation.idle["b"] < 20
