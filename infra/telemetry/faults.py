"""Faults of our own code, told without what they quote: an exception's text may hold somebody's payload."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import NamedTuple

FRAMES = 20
"""Of a fault, the innermost ones."""


class Fault(NamedTuple):
    """What went wrong and where."""

    problem: str
    """Type of the exception, and the place where it was raised."""
    frames: list[str]
    """file:line function, outermost first; nothing of what the variables held."""


def fault_of(problem: BaseException) -> Fault:
    """The type of `problem` and where it came from; neither its text nor any value."""
    calls = traceback.extract_tb(problem.__traceback__, limit=-FRAMES)
    frames = [f"{Path(call.filename).name}:{call.lineno} {call.name}" for call in calls]
    name = type(problem).__name__
    return Fault(f"{name} at {frames[-1]}" if frames else name, frames)
