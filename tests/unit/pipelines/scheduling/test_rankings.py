"""Which of the devices that may: predicted completion, and the next in turn."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.pipelines.scheduling.rankings import completion_seconds, next_in_turn, service_seconds
from tests.unit.pipelines.scheduling.making import ECHO, LLAMA, RULES, device, waiting

MEAN = {("llama", "generate"): 3.0}


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        pytest.param({}, 5.0 + 0.5, id="load 50 bytes at 10 a second, then the default service"),
        pytest.param({"mean_service_seconds": MEAN}, 5.0 + 3.0, id="then the measured service"),
        pytest.param({"resident": frozenset({"llama"}), "mean_service_seconds": MEAN}, 3.0, id="resident: no load"),
        pytest.param({"resident": frozenset({"other"})}, 5.5, id="another model helps nothing"),
        pytest.param({"load_bytes_per_second": 100.0}, 0.5 + 0.5, id="a faster disk"),
        pytest.param({"expected_seconds": 8.0, "resident": frozenset({"llama"})}, 8.5, id="what waits, one slot"),
        pytest.param({"expected_seconds": 8.0, "slots": 4, "resident": frozenset({"llama"})}, 2.5, id="four slots"),
        pytest.param({"expected_seconds": 8.0, "slots": 0, "resident": frozenset({"llama"})}, 8.5, id="no slots told"),
    ],
)
def test_completion(fields: dict[str, Any], seconds: float) -> None:
    """Waiting over the slots, plus the load where the model is not there, plus the mean service."""
    assert completion_seconds(device(**fields), waiting(LLAMA, 1, weight=50), RULES) == pytest.approx(seconds)


def test_a_kind_without_a_model_loads_nothing() -> None:
    """Echo has no model; whatever its weight field says, only its service counts."""
    assert completion_seconds(device(), waiting(ECHO, 1, weight=50), RULES) == 0.5


def test_service_is_measured_per_model_and_kind() -> None:
    """Another kind of the same model says nothing of this one."""
    asked = device(mean_service_seconds={("llama", "embed"): 9.0, ("", "echo"): 0.25})
    assert service_seconds(asked, LLAMA, RULES) == 0.5
    assert service_seconds(asked, ECHO, RULES) == 0.25


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
    found, following = next_in_turn([device(name) for name in may], list("abc"), turn)
    assert (found.device, following) == (taken, then)
