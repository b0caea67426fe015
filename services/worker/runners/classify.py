"""Sorts what an attempt raised: the one `except` ladder of the worker."""

from __future__ import annotations

from llmos.schemas.errors import EngineFailed, FailedError, LlmosError, RefusedError


def classify(problem: BaseException) -> LlmosError:
    """The error as it travels: our own as it is, anything else as a failure of the engine."""
    if isinstance(problem, RefusedError | FailedError):
        return problem
    if isinstance(problem, MemoryError):
        return EngineFailed(problem="the device's memory did not suffice")
    return EngineFailed(problem=f"{type(problem).__name__}: {problem}"[:500])


def mends(error: LlmosError) -> bool:
    """Whether another attempt may mend it: then it is no outcome, and the scheduler tries again."""
    return error.retryable
