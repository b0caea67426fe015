"""Each filter alone: when a device may take a task, and what it says when it may not."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.pipelines.scheduling.decision import Prediction, Why
from llmos.pipelines.scheduling.filters import FILTERS, NEAREST
from llmos.pipelines.scheduling.filters.alive import alive
from llmos.pipelines.scheduling.filters.alone import alone
from llmos.pipelines.scheduling.filters.kinds import kinds
from llmos.pipelines.scheduling.filters.memory import memory
from llmos.pipelines.scheduling.filters.models import models
from llmos.pipelines.scheduling.filters.pressure import pressure
from llmos.pipelines.scheduling.filters.sooner import sooner
from llmos.pipelines.scheduling.filters.switch import switch
from llmos.pipelines.scheduling.filters.utilisation import utilisation
from llmos.pipelines.scheduling.filters.window import window
from llmos.pipelines.scheduling.seats import Seat
from llmos.pipelines.scheduling.snapshot import Group
from tests.unit.pipelines.scheduling.making import ECHO, LLAMA, RULES, device, key, waiting

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


def test_memory_counts_keys_and_values() -> None:
    """What the model needs beside its weights counts, where it is known."""
    needy = waiting(LLAMA, 1, weight=90)._replace(need_bytes=101)
    assert memory(device(budget_bytes=100), needy, RULES) == Why("memory", 101, 100)


@pytest.mark.parametrize(
    ("group", "share", "resident", "why"),
    [
        (LLAMA, 0.5, (), None),
        (LLAMA, 0.6, (), Why("pressure", 0.5, 0.6)),
        (LLAMA, 0.6, ("llama",), None),
        (ECHO, 0.9, (), None),
    ],
)
def test_pressure(group: Group, share: float, resident: tuple[str, ...], why: Why | None) -> None:
    """A machine short of memory loads nothing more; what is there runs."""
    asked = device(memory_pressure=share, resident=frozenset(resident))
    assert pressure(asked, waiting(group, 1), RULES) == why


@pytest.mark.parametrize(
    ("resident_bytes", "wanted", "waited", "why"),
    [
        pytest.param(60, {"bert": 15}, 1.0, Why("switch", 2.0, 1.0), id="it would drive out what others wait for"),
        pytest.param(60, {"bert": 5}, 1.0, Why("switch", 2.0, 1.0), id="more urgent ones too"),
        pytest.param(60, {"bert": 16}, 1.0, None, id="but not for less urgent ones"),
        pytest.param(60, {"llama": 15}, 1.0, None, id="nobody waits for what is there"),
        pytest.param(50, {"bert": 15}, 1.0, None, id="both fit"),
        pytest.param(60, {"bert": 15}, 2.0, None, id="waited long enough"),
    ],
)
def test_switch(resident_bytes: int, wanted: dict[str, int], waited: float, why: Why | None) -> None:
    """Models that do not fit together stay for a while each."""
    seat = Seat(device(budget_bytes=100, resident=frozenset({"bert"}), resident_bytes=resident_bytes))
    assert switch(seat, waiting(LLAMA, 1, weight=50), key(7), wanted, 2.0, 7.0 + waited) == why


@pytest.mark.parametrize(
    ("elsewhere", "busy", "rather"),
    [
        pytest.param(10.0, [], 0, id="nobody is busy"),
        pytest.param(10.0, [(0.0, Prediction(9.5, 0, 1, 1))], 0, id="waiting takes as long"),
        pytest.param(11.0, [(0.0, Prediction(8.5, 0, 1, 1))], 1, id="one is sooner by waiting"),
        pytest.param(11.0, [(0.0, Prediction(1.0, 0, 1, 2))], 5, id="five are, two seconds apart"),
        pytest.param(11.0, [(7.0, Prediction(1.0, 0, 1, 2))], 1, id="others wait for it already"),
        pytest.param(11.0, [(0.0, Prediction(8.5, 0, 1, 1)), (0.0, Prediction(7.5, 0, 1, 1))], 3, id="two devices"),
    ],
)
def test_sooner(elsewhere: float, busy: list[tuple[float, Prediction]], rather: int) -> None:
    """As many tasks wait as the busy devices would have done in a tenth less than the time elsewhere."""
    assert sooner(elsewhere, busy, 1.1) == rather


def test_the_first_refusal_is_the_cheapest_to_understand() -> None:
    """A dead device is asked nothing else: the filters run from the plainest reason to the finest."""
    hopeless = device(
        "x",
        memory_pressure=1.0,
        alive=False,
        kinds=frozenset(),
        models=frozenset(),
        budget_bytes=0,
        in_flight_alone=1,
        window={},
    )
    whys = [criterion(hopeless, waiting(LLAMA._replace(avoid="x"), 1, weight=1), RULES) for criterion in FILTERS]
    assert tuple(why.rule for why in whys if why) == NEAREST[: len(FILTERS)]


def test_what_is_pinned_leaves_for_nobody() -> None:
    """Of the budget only what is not pinned counts: another device is asked instead of waiting here for ever."""
    full = device(budget_bytes=100, pinned_bytes=60, resident=frozenset({"other"}))
    assert memory(full, waiting(LLAMA, 1, weight=40), RULES) is None
    assert memory(full, waiting(LLAMA, 1, weight=41), RULES) == Why("memory", 41, 40)
    assert memory(full, waiting(ECHO, 1), RULES) is None
