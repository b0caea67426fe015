"""Which task first."""

from __future__ import annotations

import itertools

import pytest

from llmos.pipelines.scheduling.order import DUE_SECONDS, Key, key_of


@pytest.mark.parametrize(
    ("sooner", "later"),
    [
        pytest.param(("interactive", 0, 9e9, 9.0, 9), ("standard", 9, 1.0, 1.0, 1), id="lane before everything"),
        pytest.param(("standard", 0, 9e9, 9.0, 9), ("batch", 9, 1.0, 1.0, 1), id="standard before batch"),
        pytest.param(("batch", 5, 9e9, 9.0, 9), ("batch", 4, 1.0, 1.0, 1), id="then the higher priority"),
        pytest.param(("batch", 5, 1.0, 9.0, 9), ("batch", 5, 2.0, 1.0, 1), id="then the nearer deadline"),
        pytest.param(("batch", 5, 1.0, 1.0, 9), ("batch", 5, 1.0, 2.0, 1), id="then the earlier arrival"),
        pytest.param(("batch", 5, 1.0, 1.0, 1), ("batch", 5, 1.0, 1.0, 2), id="then the place on sealed"),
    ],
)
def test_what_comes_sooner(
    sooner: tuple[str, int, float, float, int], later: tuple[str, int, float, float, int]
) -> None:
    """Lane, priority, deadline, arrival, place: each decides only where those before it are equal."""
    first, second = (
        key_of(lane, priority, deadline, arrival, 0, s, 0)  # type: ignore[arg-type]
        for lane, priority, deadline, arrival, s in (sooner, later)
    )
    assert first < second


def test_a_key_names_its_task() -> None:
    """Partition, s and part are read back from the key."""
    key = key_of("batch", 9, 5.0, 6.0, 3, 7, 2)
    assert key == Key(lane=2, unimportance=0, due=5.0, arrival=6.0, partition=3, s=7, part=2)
    assert key.level == 20


def test_parts_of_a_job_keep_their_order() -> None:
    """The parts of one job differ in nothing else, so they go in their order."""
    keys = [key_of("standard", 4, 5.0, 6.0, 0, 1, part) for part in range(4)]
    assert all(sorted(shuffled) == keys for shuffled in itertools.permutations(keys))


def test_a_far_deadline_is_due_after_a_while() -> None:
    """Whoever has time does not wait behind an unending stream of tasks with nearer deadlines."""
    patient = key_of("standard", 4, 1e9, 100.0, 0, 1, 0)
    assert patient.due == 100.0 + DUE_SECONDS
    assert key_of("standard", 4, 500.0, 450.0, 0, 2, 0) > patient > key_of("standard", 4, 399.0, 350.0, 0, 3, 0)


def test_sizes_order_nothing() -> None:
    """The tokens only travel along."""
    small, large = (key_of("standard", 4, 5.0, 6.0, 0, 1, 0, tokens, tokens) for tokens in (1, 1000))
    other = key_of("standard", 4, 5.0, 6.0, 0, 1, 1)
    assert small < other
    assert large < other
