"""Deadlines that cannot be met, and workers that hang: small tables."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.pipelines.scheduling.deadlines import unreachable
from llmos.pipelines.scheduling.hangs import STEP_GRACE_SECONDS, hung
from llmos.schemas.telemetry import Heartbeat

NOW = 100.0


@pytest.mark.parametrize(
    ("done_at", "confidence", "deadline", "takes"),
    [
        pytest.param(130.0, 0.9, 110.0, 30.0, id="three times too late"),
        pytest.param(115.0, 0.9, 110.0, None, id="half too late: predictions err"),
        pytest.param(115.1, 0.9, 110.0, 15.1, id="a little more"),
        pytest.param(109.0, 0.9, 110.0, None, id="in time"),
        pytest.param(130.0, 0.5, 110.0, None, id="nobody is sure"),
        pytest.param(0.0, 1.0, 110.0, None, id="nothing was predicted"),
        pytest.param(101.0, 1.0, 99.0, 1.0, id="past already"),
    ],
)
def test_unreachable(done_at: float, confidence: float, deadline: float, takes: float | None) -> None:
    """Confident of 0.6, half again too late."""
    found = unreachable(done_at, confidence, deadline, NOW, margin=1.5, least_confidence=0.6)
    assert found == (None if takes is None else pytest.approx(takes))


@pytest.mark.parametrize(
    ("fields", "silent", "reason"),
    [
        ({}, 0.0, None),
        ({}, 2.5, None),
        ({}, 2.6, "silent for 2.6 s"),
        ({"step_seconds": 9.0}, 0.0, None),
        ({"step_seconds": 1.5 + STEP_GRACE_SECONDS, "step_limit_seconds": 1.5}, 0.0, None),
        ({"step_seconds": 2.0, "step_limit_seconds": 1.5}, 0.0, "a step runs for 2.0 s, at most 1.5 s are expected"),
        ({"step_seconds": 2.0, "step_limit_seconds": 1.5}, 9.0, "a step runs for 2.0 s, at most 1.5 s are expected"),
        ({"step_limit_seconds": 1.5}, 0.0, None),
    ],
)
def test_hung(fields: dict[str, Any], silent: float, reason: str | None) -> None:
    """By the step's own limit where it is known, else by silence alone."""
    beat = Heartbeat(device="d", node="n", pid=1, incarnation=1, sequence=1, at=NOW, **fields)
    assert hung(beat, NOW, NOW + silent, 2.5) == reason
