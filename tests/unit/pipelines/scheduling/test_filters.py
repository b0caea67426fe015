"""Each filter alone: when a device may take a task, and what it says when it may not."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.pipelines.scheduling.decision import Why
from llmos.pipelines.scheduling.filters import FILTERS
from llmos.pipelines.scheduling.filters.alive import alive
from llmos.pipelines.scheduling.filters.alone import alone
from llmos.pipelines.scheduling.filters.kinds import kinds
from llmos.pipelines.scheduling.filters.memory import memory
from llmos.pipelines.scheduling.filters.models import models
from llmos.pipelines.scheduling.filters.utilisation import utilisation
from llmos.pipelines.scheduling.filters.window import window
from llmos.pipelines.scheduling.snapshot import Group
from tests.unit.pipelines.scheduling.making import ECHO, LLAMA, RULES, device, waiting

SUSPECT = Group("generate", "llama", alone=True)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, None),
        ({"alive": False}, Why("alive", 1, 0)),
        ({"draining": True}, Why("alive", 1, 0)),
    ],
)
def test_alive(fields: dict[str, Any], why: Why | None) -> None:
    """A worker that is silent or drains takes nothing."""
    assert alive(device(**fields), waiting(ECHO, 1), RULES) == why


@pytest.mark.parametrize(
    ("runs", "why"), [({"echo"}, None), ({"embed", "generate"}, Why("kind", 1, 0)), (set(), Why("kind", 1, 0))]
)
def test_kinds(runs: set[str], why: Why | None) -> None:
    """Only a device that runs the kind takes it."""
    assert kinds(device(kinds=frozenset(runs)), waiting(ECHO, 1), RULES) == why


@pytest.mark.parametrize(
    ("group", "there", "why"),
    [
        (LLAMA, {"llama"}, None),
        (LLAMA, {"bert"}, Why("model", 1, 0)),
        (LLAMA, set(), Why("model", 1, 0)),
        (ECHO, set(), None),
    ],
)
def test_models(group: Group, there: set[str], why: Why | None) -> None:
    """Only a device whose node has the files takes it; a kind without a model goes anywhere."""
    assert models(device(models=frozenset(there)), waiting(group, 1), RULES) == why


@pytest.mark.parametrize(
    ("budget", "weight", "resident", "why"),
    [
        (100, 99, (), None),
        (100, 100, (), None),
        (100, 101, (), Why("memory", 101, 100)),
        (100, 101, ("llama",), None),
        (100, 101, ("other",), Why("memory", 101, 100)),
        (0, 0, (), None),
    ],
)
def test_memory(budget: int, weight: int, resident: tuple[str, ...], why: Why | None) -> None:
    """The weights must fit the whole budget, unless the model is there already."""
    asked = device(budget_bytes=budget, resident=frozenset(resident))
    assert memory(asked, waiting(LLAMA, 1, weight=weight), RULES) == why


@pytest.mark.parametrize(
    ("group", "in_flight", "in_flight_alone", "why"),
    [
        (LLAMA, {}, 0, None),
        (LLAMA, {"generate": 5}, 0, None),
        (LLAMA, {"generate": 1}, 1, Why("alone", 0, 1)),
        (SUSPECT, {}, 0, None),
        (SUSPECT, {"echo": 0}, 0, None),
        (SUSPECT, {"generate": 1, "echo": 2}, 0, Why("alone", 0, 3)),
        (SUSPECT, {"generate": 1}, 1, Why("alone", 0, 1)),
    ],
)
def test_alone(group: Group, in_flight: dict[str, int], in_flight_alone: int, why: Why | None) -> None:
    """A suspect needs an empty device, and nobody joins it there."""
    asked = device(in_flight=in_flight, in_flight_alone=in_flight_alone)
    assert alone(asked, waiting(group, 1), RULES) == why


@pytest.mark.parametrize(
    ("kind", "in_flight", "why"),
    [
        ("generate", {}, None),
        ("generate", {"generate": 1}, None),
        ("generate", {"generate": 2}, Why("window", 3, 2)),
        ("generate", {"embed": 2}, Why("window", 3, 2)),
        ("generate", {"embed": 1, "generate": 1}, Why("window", 3, 2)),
        ("generate", {"echo": 4}, None),
        ("echo", {"generate": 2}, None),
        ("echo", {"echo": 3, "generate": 2}, None),
        ("echo", {"echo": 4}, Why("window", 5, 4)),
    ],
)
def test_window(kind: str, in_flight: dict[str, int], why: Why | None) -> None:
    """Kinds without a window of their own share one, and those with one do not count in it."""
    asked = device(window={"": 2, "echo": 4}, in_flight=in_flight)
    assert window(asked, waiting(Group(kind, ""), 1), RULES) == why


def test_a_device_without_a_window_takes_nothing() -> None:
    """No entry for the kind and none that is shared means no place at all."""
    assert window(device(window={}), waiting(ECHO, 1), RULES) == Why("window", 1, 0)


@pytest.mark.parametrize(
    ("rho", "why"),
    [(0.0, None), (4.0, None), (4.1, Why("utilisation", 4.0, 4.1)), (99.0, Why("utilisation", 4.0, 99.0))],
)
def test_utilisation(rho: float, why: Why | None) -> None:
    """ρ at the limit still passes; above it the limit and ρ are told."""
    assert utilisation(device(utilisation=rho), waiting(ECHO, 1), RULES) == why


def test_the_first_refusal_is_the_cheapest_to_understand() -> None:
    """A dead device is asked nothing else: the filters run from the plainest reason to the finest."""
    hopeless = device(alive=False, kinds=frozenset(), models=frozenset(), budget_bytes=0, in_flight_alone=1, window={})
    whys = [criterion(hopeless, waiting(LLAMA, 1, weight=1), RULES) for criterion in FILTERS]
    assert [why.rule for why in whys if why] == ["alive", "kind", "model", "memory", "alone", "window"]
