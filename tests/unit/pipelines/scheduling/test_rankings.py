"""Which of the devices that may: predicted completion, and the baselines."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from llmos.pipelines.scheduling.costs import Cost
from llmos.pipelines.scheduling.rankings import baseline
from llmos.pipelines.scheduling.rankings.chance import draw
from llmos.pipelines.scheduling.rankings.completion import predict
from llmos.pipelines.scheduling.rankings.least_work import least
from llmos.pipelines.scheduling.rankings.random_device import any_of
from llmos.pipelines.scheduling.rankings.round_robin import next_in_turn
from llmos.pipelines.scheduling.rankings.shortest_queue import shortest
from llmos.pipelines.scheduling.rankings.two_choices import better_of_two
from llmos.pipelines.scheduling.seats import Seat
from llmos.pipelines.scheduling.snapshot import Carried
from tests.unit.pipelines.scheduling.making import device, key

THERE = {"resident": frozenset({"llama"})}
DECODES = Cost(9.0, prefill_seconds=0.01, step_seconds=0.1, sequence_seconds=0.02, output_fraction=0.5)


@pytest.mark.parametrize(
    ("fields", "tokens", "cost", "seconds"),
    [
        pytest.param({}, (0, 0), Cost(0.5), 5.0 + 0.5, id="load 50 bytes at 10 a second, then the mean"),
        pytest.param(THERE, (0, 0), Cost(3.0), 3.0, id="resident: no load"),
        pytest.param({"resident": frozenset({"other"})}, (0, 0), Cost(0.5), 5.5, id="another model helps nothing"),
        pytest.param({"load_bytes_per_second": 100.0}, (0, 0), Cost(0.5), 0.5 + 0.5, id="a faster disk"),
        pytest.param(
            THERE | {"loading": {"llama": 1.5}}, (0, 0), Cost(0.5), 1.5 + 0.5, id="on its way: what remains of the load"
        ),
        pytest.param(
            {"resident": frozenset({"other"}), "loading": {"other": 2.0}}, (0, 0), Cost(0.5), 2.0 + 5.0 + 0.5,
            id="loads go one after the other",
        ),
        pytest.param(
            THERE | {"in_flight": {"generate": 2}, "work_seconds": {"generate": 3.0}}, (0, 0), Cost(0.5), 3.5,
            id="served in turn: after the work of its kind",
        ),
        pytest.param(
            THERE | {"in_flight": {"embed": 1}, "work_seconds": {"embed": 3.0}}, (0, 0), Cost(0.5), 0.5 + 0.5,
            id="beside other kinds: its own time once more at most",
        ),
        pytest.param(THERE | {"slots": 4}, (100, 20), DECODES, 1.0 + 10 * 0.1, id="prompt and half the tokens, alone"),
        pytest.param(
            THERE | {"slots": 4, "in_flight": {"generate": 2}, "work_seconds": {"generate": 8.0}}, (100, 20), DECODES,
            1.0 + 10 * 0.14, id="begins at once in a batch of three, which is slower",
        ),
        pytest.param(
            THERE | {"slots": 4, "in_flight": {"generate": 4}, "work_seconds": {"generate": 8.0}}, (100, 20), DECODES,
            8.0 / 4 + 1.0 + 10 * 0.16, id="all slots taken: the first of four leaves after a fourth of their work",
        ),
        pytest.param(
            THERE | {"slots": 4, "in_flight": {"generate": 6}, "work_seconds": {"generate": 12.0}}, (100, 20), DECODES,
            12.0 * 3 / 6 + 1.0 + 10 * 0.16, id="two wait already: the third that leaves makes room",
        ),
        pytest.param(
            THERE | {"slots": 4, "in_flight": {"generate": 3}, "work_seconds": {"generate": 9.0}}, (100, 20), Cost(0.7),
            0.7, id="no step measured: the mean, side by side",
        ),
        pytest.param(
            THERE | {"slots": 0, "in_flight": {"generate": 1}, "work_seconds": {"generate": 8.0}}, (0, 20), Cost(0.5),
            8.5, id="no slots told: one",
        ),
    ],
)  # fmt: skip
def test_completion(fields: dict[str, Any], tokens: tuple[int, int], cost: Cost, seconds: float) -> None:
    """Waiting, plus the load where the model is not there, plus prefill and decode steps or the mean."""
    prediction = predict(Seat(device(**fields)), "generate", "llama", 50, key(1, tokens=tokens), cost)
    assert prediction.seconds == pytest.approx(seconds)


def test_a_batch_shares_its_steps() -> None:
    """The device's own time for a task in a batch of four is a fourth of its steps, and the whole of its prompt."""
    seat = Seat(device(slots=4, in_flight={"generate": 3}, **THERE))
    prediction = predict(seat, "generate", "llama", 50, key(1, tokens=(100, 20)), DECODES)
    assert prediction.work == pytest.approx(1.0 + 10 * 0.16 / 4)


def test_a_kind_without_a_model_loads_nothing() -> None:
    """Echo has no model; whatever its weight field says, only its service counts."""
    assert predict(Seat(device()), "echo", "", 50, key(1), Cost(0.5)).seconds == 0.5


@pytest.mark.parametrize(
    ("may", "turn", "taken", "then"),
    [
        ("abc", 0, "a", 1),
        ("abc", 1, "b", 2),
        ("abc", 2, "c", 0),
        ("ac", 1, "c", 0),
        ("ab", 2, "a", 1),
        ("b", 2, "b", 2),
        ("abc", 7, "b", 2),
    ],
)
def test_round_robin(may: str, turn: int, taken: str, then: int) -> None:
    """The first that may at or after the turn, round the end; the turn goes on behind it."""
    devices = [device(name) for name in may]
    place, following = next_in_turn(devices, list("abc"), turn)
    assert (devices[place].device, following) == (taken, then)


@pytest.mark.parametrize(
    ("flying", "slots", "place"),
    [((1, 0), (1, 1), 1), ((1, 1), (1, 1), 0), ((3, 2), (4, 1), 0), ((0, 0), (0, 0), 0)],
)
def test_shortest_queue(flying: tuple[int, int], slots: tuple[int, int], place: int) -> None:
    """The fewest tasks for each slot; of equals the first."""
    devices = [device(in_flight={"echo": n}, slots=s) for n, s in zip(flying, slots, strict=True)]
    assert shortest(devices) == place


@pytest.mark.parametrize(("works", "place"), [((1.0, 0.5), 1), ((1.0, 1.0), 0), ((0.0, 9.0), 0)])
def test_least_work(works: tuple[float, float], place: int) -> None:
    """The least predicted work, however many tasks it is."""
    devices = [device(in_flight={"echo": 9 - i}, work_seconds={"echo": work}) for i, work in enumerate(works)]
    assert least(devices) == place


def test_random_takes_each_as_often() -> None:
    """Over many draws all devices come, about equally often; the same draw gives the same device."""
    devices = [device(name) for name in "abc"]
    places = [any_of(devices, drawn)[0] for drawn in range(3000)]
    assert all(900 < count < 1100 for count in Counter(places).values())
    assert any_of(devices, 17) == (places[17], 18)


def test_the_better_of_two() -> None:
    """The longest queue is never taken, the shortest in two of three pairs; one device needs no draw."""
    devices = [device(in_flight={"echo": n}) for n in (5, 0, 9)]
    places = Counter(better_of_two(devices, 2 * i)[0] for i in range(3000))
    assert places[2] == 0
    assert 1850 < places[1] < 2150
    assert better_of_two(devices[:1], 5) == (0, 5)


@pytest.mark.parametrize("below", [1, 2, 3, 64])
def test_draws_are_in_range(below: int) -> None:
    """From 0 to below − 1."""
    assert {draw(drawn, below) for drawn in range(1000)} == set(range(below))


@pytest.mark.parametrize(
    ("policy", "place", "carried"),
    [
        ("round-robin", 1, Carried(turn=0)),
        ("shortest-queue", 1, Carried(turn=1)),
        ("least-work", 0, Carried(turn=1)),
        ("random", draw(0, 2), Carried(turn=1, drawn=1)),
        ("two-choices", 1, Carried(turn=1, drawn=2)),
    ],
)
def test_baselines(policy: str, place: int, carried: Carried) -> None:
    """Each by its name, with what it goes on with."""
    devices = [device("a", in_flight={"echo": 2}), device("b", work_seconds={"echo": 1.0})]
    assert baseline(policy, devices, ["a", "b"], Carried(turn=1)) == (place, carried)
