"""Errors as they travel: those of sealed jobs quote nothing that was inside."""

from __future__ import annotations

import pytest

from llmos.schemas.errors import Cancelled, DeviceOutOfMemory, EngineFailed, InvalidRequest, LlmosError, TooLong
from llmos.schemas.job import error_info
from llmos.services.worker.runners.classify import classify
from llmos.services.worker.telling import told
from tests.kit.bench import head

CANARY = "wombat-4711"
SEALED = [head(sealed=True), head(reply_key=b"\x01" + bytes(32))]
"""A job whose payload was sealed, and one whose answer is to be."""
FOREIGN = [
    ValueError(f"cannot encode {CANARY}"),
    KeyError(CANARY),
    UnicodeEncodeError("utf-8", f"{CANARY}\ud800", 11, 12, CANARY),
    RuntimeError(f"out of memory with {CANARY}"),
    MemoryError(CANARY),
]


@pytest.mark.parametrize("of", SEALED, ids=["sealed payload", "sealed answer"])
@pytest.mark.parametrize("problem", FOREIGN, ids=[type(problem).__name__ for problem in FOREIGN])
def test_what_other_code_said_is_left_out(problem: Exception, of: object) -> None:
    """The kind of exception stays, for whoever looks into it; code and whether a retry helps are as they were."""
    error = classify(problem)
    info = told(error, of)  # type: ignore[arg-type]
    assert CANARY not in info.message
    assert type(problem).__name__ in info.message
    assert (info.code, info.retryable) == (error.code, error.retryable)


@pytest.mark.parametrize("quoted", [f"'{CANARY}'", f'"{CANARY}"'])
def test_what_our_own_words_quote_is_left_out(quoted: str) -> None:
    """Where the fault is stays."""
    info = told(InvalidRequest(where="input.messages", problem=f"Unknown word {quoted} at turn 3"), SEALED[0])
    assert info.message == "The request is not valid at input.messages: Unknown word '…' at turn 3."


@pytest.mark.parametrize(
    "error",
    [
        TooLong(tokens=9, model="m", limit=8),
        Cancelled(),
        EngineFailed(problem="an embedding is not finite"),
        DeviceOutOfMemory(device="cpu:0", problem="2 GiB are needed"),
    ],
)
def test_our_own_words_stay(error: LlmosError) -> None:
    """Numbers and names of models and devices are no secret."""
    assert told(error, SEALED[0]) == error_info(error)


@pytest.mark.parametrize("problem", FOREIGN, ids=[type(problem).__name__ for problem in FOREIGN])
def test_of_clear_jobs_all_is_told(problem: Exception) -> None:
    """Their payload lies beside it anyway."""
    error = classify(problem)
    assert told(error, head()) == error_info(error)
