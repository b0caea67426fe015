"""Sorts what an attempt raised: the one `except` ladder of the worker."""

from __future__ import annotations

from llmos.pipelines.engine.faults import as_error
from llmos.schemas.errors import LlmosError, NeverFits


def classify(problem: BaseException) -> LlmosError:
    """The error as it travels: our own as it is, anything else as a failure of the engine or of the device's memory."""
    return as_error(problem)


def mends(error: LlmosError) -> bool:
    """Whether another attempt may mend it: then it is no outcome, and the scheduler tries again. What never fits here may
    fit a larger device; the scheduler knows whether there is one."""
    return error.retryable or isinstance(error, NeverFits)
