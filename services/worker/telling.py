"""Errors as they travel: in the clear, so that of a sealed job they do not say what the engine said, which may quote it."""

from __future__ import annotations

import re

from llmos.schemas.errors import LlmosError
from llmos.schemas.job import ErrorInfo, Head, error_info

_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


def told(error: LlmosError, head: Head) -> ErrorInfo:
    """The error of a job's item or attempt.

    Where payload or answer are sealed, of what other people's code said only the type of the exception is left, and what
    our own words quote is left out: whoever may read the topics reads errors.
    """
    problem = error.values.get("problem")
    if problem is None or not (head.sealed or head.reply_key):
        return error_info(error)
    said = str(error.raised or _QUOTED.sub("'…'", str(problem)))
    return error_info(type(error)(**(error.values | {"problem": said})))
