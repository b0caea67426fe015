"""What an attempt raised, sorted: whose fault it is and whether another attempt may mend it."""

from __future__ import annotations

import pytest

from llmos.schemas.errors import (
    Corrupt,
    EngineFailed,
    FailedError,
    InvalidRequest,
    ModelUnavailable,
    NeverFits,
    RefusedError,
    TooLong,
)
from llmos.services.worker.runners.classify import classify, mends


@pytest.mark.parametrize(
    ("problem", "code", "mended"),
    [
        (TooLong(tokens=9, model="m", limit=8), "too_long", False),
        (InvalidRequest(where="input", problem="no"), "invalid_request", False),
        (NeverFits(model="m", need=2, have=1), "never_fits", True),
        (ModelUnavailable(model="m", device="d", problem="no"), "model_unavailable", True),
        (EngineFailed(problem="no"), "engine_failed", True),
        (MemoryError(), "device_out_of_memory", True),
        (RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"), "device_out_of_memory", True),
        (FloatingPointError("nan"), "not_finite", True),
        (RuntimeError("x" * 5000), "engine_failed", True),
        (Corrupt(), "engine_failed", True),
        (KeyError("k"), "engine_failed", True),
    ],
)
def test_classify(problem: Exception, code: str, mended: bool) -> None:
    """Our own refusals and failures travel as they are, anything else is the engine's failure, in few words."""
    error = classify(problem)
    assert (error.code, mends(error)) == (code, mended)
    assert len(str(error)) < 1000
    assert (error is problem) == isinstance(problem, RefusedError | FailedError)


def test_memory_is_told_plainly() -> None:
    """A MemoryError has no text of its own."""
    assert "memory of this device did not suffice" in str(classify(MemoryError()))
